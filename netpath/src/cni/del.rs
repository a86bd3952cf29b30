//! `DEL` and `GC`.

use std::time::Duration;

use super::{
    error::{CniError, Code},
    ipam,
    request::Request,
    spool,
};
use crate::api::client::ClientError;

/// How long an agent that does not answer is waited for before the removal is left to the next one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets a container go, whatever of it is left: its namespace may be gone, it may never have been added. While no agent
/// answers, the next one is told.
pub(super) async fn del(request: &Request) -> Result<(), CniError> {
    let attachment = request.attachment();
    match request.client().with_patience(PATIENCE).attachment_rm(&attachment).await {
        Err(ClientError::NotReachable { .. }) => spool::leave(&request.config.spool(), &attachment)?,
        outcome => outcome.map_err(|error| CniError { code: Code::TryAgain as u32, ..error.into() })?,
    }
    // Afterwards, so that nobody else gets the address while it leads here.
    if request.config.ipam().is_some() { ipam::release(request) } else { Ok(()) }
}

/// Lets go of all containers of this network that the engine does not know any more.
pub(super) async fn collect(request: &Request) -> Result<(), CniError> {
    let valid = request.config.valid().ok_or_else(|| {
        CniError::new(
            Code::InvalidConfig,
            "GC without cni.dev/valid-attachments would remove every container",
        )
    })?;
    let client = request.client();
    let mut failures = Vec::new();
    for pod in client.attachments(Some(&request.config.name)).await? {
        let Some(own) = &pod.attachment else { continue };
        let keep = valid.iter().any(|one| one.container == own.container && one.interface == own.interface);
        if let (false, Err(error)) = (keep, if keep { Ok(()) } else { client.attachment_rm(own).await }) {
            failures.push(error.to_string());
        }
    }
    if request.config.ipam().is_some() {
        ipam::delegate(request, "GC")?;
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(CniError::new(Code::TryAgain, failures.join("; "))),
    }
}
