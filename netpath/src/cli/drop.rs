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
    /// List drop reasons that have packets, with what each means and what to do
    #[command(after_help = "Examples:
  netpath drop ls
  netpath drop ls --all            every reason there is
  netpath monitor --drops          the packets themselves, as they are dropped")]
    Ls {
        /// Every reason there is, whether it has packets or not
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    let Command::Ls { all } = command;
    let client = global.client();
    let drops = wait(async { if *all { client.all_drops().await } else { client.drops().await } })?;
    global.output.show(&drops[..], render)
}

/// A row a reason, and under it what it means and what to do.
pub(super) fn render(drops: &[Drop]) -> String {
    let columns = [Column::Left("REASON"), Column::Right("PACKETS"), Column::Right("BYTES")];
    let rows = drops.iter().map(|drop| [drop.reason.clone(), drop.packets.to_string(), bytes(drop.bytes)]);
    let table = table(&columns, rows);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, drop) in lines.zip(drops) {
        text += &format!("{line}\n  {}\n  try: {}\n", drop.meaning, drop.advice);
    }
    text
}
