//! `netpath lab`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Global, output::Format, output::print};
use crate::lab::{self, RunOptions};

/// A network of namespaces on this machine. Nothing of the machine's own network is touched.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab, check it, measure it beside a bridge, show it until Ctrl-C, and remove it
    ///
    /// A node with three pods and a real agent, a router, and an outside server that has no route back to the pods, all
    /// in namespaces. Prints the connectivity matrix with round-trip times, then latencies: a direct veth pair, a bridge
    /// with masquerading, and netpath. Exit status 1 if a check failed. Needs root.
    #[command(after_help = "Examples:
  netpath lab run
  netpath lab run --once -o json | jq '.checks[] | select(.ok | not)'")]
    Run {
        /// End after the tables
        #[arg(long)]
        once: bool,
        /// Leave agent and namespaces up at the end; `netpath lab down` removes them
        #[arg(long)]
        keep: bool,
    },
    /// Build, check and measure a lab and leave it up: `lab run --once --keep`
    Up,
    /// Remove a lab, whether it runs, was left up or has crashed
    Down,
    /// Keep a lab's namespaces; started by `lab run`
    #[command(hide = true)]
    Hold,
}

/// Must be called while the process has one thread; see [`lab::run`].
pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<ExitCode> {
    let json = global.output == Format::Json;
    let options = match *command {
        Command::Run { once, keep } => RunOptions { once, keep, json },
        Command::Up => RunOptions { once: true, keep: true, json },
        Command::Down => {
            let removed = lab::down()?;
            if !json {
                print(if removed { "The lab is removed.\n" } else { "There is no lab.\n" })?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Hold => {
            lab::hold()?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    // The tables or the document already say what failed.
    Ok(if lab::run(options)?.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
