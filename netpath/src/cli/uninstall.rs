//! `netpath uninstall`.

use std::time::Duration;

use super::{Global, output::Format, output::print, wait};
use crate::{agent, api::client::ClientError};

/// Every pod of the node is taken apart on the way.
const PATIENCE: Duration = Duration::from_secs(300);

/// How to remove.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Go on if the state cannot be read: what only the state knows stays (namespaces that were made for pods, routes of the
    /// pods' blocks, ports kept out of the ephemeral range, accept_ra of uplinks)
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
    if !done {
        wait(agent::uninstall(&global.instance, flags.force))?;
    }
    match global.output {
        Format::Table => print("Removed everything netpath put on this machine.\n"),
        Format::Json => Ok(()),
    }
}
