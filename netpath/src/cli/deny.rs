//! `netpath deny`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    Global,
    output::{Column, Format, print, table},
    units::bytes,
    wait,
};
use crate::api::types::{Denied, DenyAdd, Prefix};

/// Prefixes of one request: well below what a request may have.
const AT_ONCE: usize = 1000;

/// The deny list: whose packets are dropped at the uplinks, before anything else sees them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drop what comes from prefixes
    #[command(after_help = "Examples:
  netpath deny add 203.0.113.0/24 2001:db8:bad::/48
  xargs netpath deny add < blocklist.txt")]
    Add {
        /// An address, or ADDRESS/LENGTH
        #[arg(value_name = "PREFIX", required = true)]
        prefixes: Vec<Prefix>,
    },
    /// Let prefixes in again
    Rm {
        /// Prefixes as they were added
        #[arg(value_name = "PREFIX", required = true)]
        prefixes: Vec<Prefix>,
    },
    /// List what is denied, with what was dropped
    #[command(after_help = "Examples:
  netpath deny ls
  netpath deny ls -o json | jq -r '.[] | select(.packets > 0) | .prefix'")]
    Ls,
}

pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let client = global.client();
    match command {
        Command::Add { prefixes } => {
            for some in prefixes.chunks(AT_ONCE) {
                wait(client.deny_add(&DenyAdd { prefixes: some.to_vec() }))?;
            }
            if global.output == Format::Table {
                prefixes.iter().try_for_each(|prefix| print(&format!("{prefix} is denied\n")))?;
            }
        }
        Command::Rm { prefixes } => {
            let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            return super::each(&prefixes, |prefix| {
                wait(client.deny_rm(prefix))?;
                let told = || print(&format!("{prefix} is let in again\n"));
                if global.output == Format::Table { told() } else { Ok(()) }
            });
        }
        Command::Ls => global.output.show(&wait(client.denied())?[..], render)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn render(denied: &[Denied]) -> String {
    let columns = [Column::Left("PREFIX"), Column::Right("PACKETS"), Column::Right("BYTES")];
    let row = |one: &Denied| [one.prefix.to_string(), one.packets.to_string(), bytes(one.bytes)];
    table(&columns, denied.iter().map(row))
}
