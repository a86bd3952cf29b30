//! `netpath bgp`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, Format, print, table},
    wait,
};
use crate::api::types::BgpSession;

/// BGP, which BIRD speaks for this node.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the sessions, with their state and how many routes go each way
    #[command(after_help = "Examples:
  netpath bgp show
  netpath bgp show -o json | jq -r '.[] | select(.state != \"Established\") | .address'")]
    Show,
    /// Print what BIRD is told, without passwords
    #[command(after_help = "Examples:
  netpath bgp render
  netpath bgp render -o json | jq -r .file")]
    Render,
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    let client = global.client();
    match command {
        Command::Show => global.output.show(&wait(client.bgp_sessions())?[..], render),
        Command::Render => {
            let told = wait(client.bgp_configuration())?;
            if global.output == Format::Table {
                print(&format!("# {}\n{}", told.file, told.text))
            } else {
                global.output.show(&told, |told| told.text.clone())
            }
        }
    }
}

pub(super) fn render(sessions: &[BgpSession]) -> String {
    let columns = [
        Column::Left("PEER"),
        Column::Right("AS"),
        Column::Left("NODE"),
        Column::Left("STATE"),
        Column::Right("IMPORTED"),
        Column::Right("EXPORTED"),
        Column::Left("ERROR"),
    ];
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |one: &BgpSession| {
        [
            one.address.to_string(),
            one.remote_as.to_string(),
            or_none(&one.node),
            one.state.clone(),
            one.imported.to_string(),
            one.exported.to_string(),
            or_none(&one.error),
        ]
    };
    table(&columns, sessions.iter().map(row))
}
