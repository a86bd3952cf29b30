//! `netpath drop`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, table},
    units::bytes,
    wait,
};
use crate::api::types::Drop;

/// Dropped packets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List drop reasons that have packets, with what to look at
    #[command(after_help = "Examples:
  netpath drop ls
  netpath monitor --drops          the packets themselves, as they are dropped")]
    Ls,
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ls => global.output.show(&wait(global.client().drops())?[..], render),
    }
}

pub(super) fn render(drops: &[Drop]) -> String {
    let columns =
        [Column::Left("REASON"), Column::Right("PACKETS"), Column::Right("BYTES"), Column::Left("ADVICE")];
    let rows = drops
        .iter()
        .map(|drop| [drop.reason.clone(), drop.packets.to_string(), bytes(drop.bytes), drop.advice.clone()]);
    table(&columns, rows)
}
