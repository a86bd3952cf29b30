//! `netpath uninstall`.

use std::time::Duration;

use super::{Global, output::Format, output::print, wait};
use crate::{agent, api::client::ClientError};

/// Every pod of the node is taken apart on the way.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(global: &Global) -> anyhow::Result<()> {
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
        wait(agent::uninstall(&global.instance))?;
    }
    match global.output {
        Format::Table => print("Removed everything netpath put on this machine.\n"),
        Format::Json => Ok(()),
    }
}
