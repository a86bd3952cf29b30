//! `netpath uninstall`.

use std::time::Duration;

use super::{Global, output::Format, output::print, wait};
use crate::{agent, api::client::ClientError};

/// Every pod of the node is taken apart on the way.
const PATIENCE: Duration = Duration::from_secs(300);

/// How to remove.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Go on if the state cannot be read, by what the kernel tells: what may be somebody else's stays, and is listed
    #[arg(long)]
    force: bool,
}

pub(super) fn run(global: &Global, flags: &Flags) -> anyhow::Result<()> {
    let client = global.client().with_patience(PATIENCE);
    let done = wait(async {
        match client.uninstall().await {
            // A crashed agent leaves the same things behind.
            Err(ClientError::NotReachable { socket, reason }) => {
                tracing::info!(socket = %socket.display(), reason, "no agent: removing in this process");
                Ok(false)
            }
            answer => answer.map(|()| true),
        }
    })?;
    let left = if done { Vec::new() } else { wait(agent::uninstall(&global.instance, flags.force))? };
    for what in &left {
        tracing::warn!("left: {what}");
    }
    match global.output {
        Format::Table if left.is_empty() => print("Removed everything netpath put on this machine.\n"),
        Format::Table => print("Removed what netpath put on this machine, but for what is listed above.\n"),
        Format::Json => Ok(()),
    }
}
