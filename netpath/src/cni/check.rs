//! `CHECK` and `STATUS`.

use super::{
    error::{CniError, Code},
    ipam,
    request::Request,
    result,
};
use crate::api::client::ClientError;

/// Compares what `ADD` said with the agent's record, and has the agent compare that with the kernel.
pub(super) async fn check(request: &Request) -> Result<(), CniError> {
    let attachment = request.attachment();
    let Some(previous) = &request.config.previous else {
        return Err(CniError::new(Code::InvalidConfig, "CHECK needs prevResult, the result of ADD"));
    };
    if request.config.ipam().is_some() {
        ipam::delegate(request, "CHECK")?;
    }
    let pod = request.client().attachment_check(&attachment).await.map_err(|error| match error {
        ClientError::Refused(_) if error.is_not_found() => {
            CniError::new(Code::UnknownContainer, error.to_string())
        }
        ClientError::Refused(_) => CniError::new(Code::Changed, error.to_string())
            .hint("the agent repairs it; 'netpath status' says what it cannot"),
        error => error.into(),
    })?;
    let changed = |what: String| Err(CniError::new(Code::Changed, format!("pod {}: {what}", pod.name)));
    let own = result::first(&pod)?;
    let Some((addresses, mac)) = result::of_interface(previous, &attachment.interface) else {
        return changed(format!("prevResult has no interface {} of the container", attachment.interface));
    };
    if let Some(address) = addresses.iter().find(|address| !own.addresses.contains(address)) {
        return changed(format!("it has no address {address}, which ADD gave it"));
    }
    if let Some(address) = own.addresses.iter().find(|address| !addresses.contains(address)) {
        return changed(format!("prevResult lacks its address {address}"));
    }
    match mac.filter(|mac| *mac != own.mac) {
        Some(mac) => changed(format!("its MAC is {}, where prevResult has {mac}", own.mac)),
        None => Ok(()),
    }
}

/// Whether containers can be added: the agent answers, has the network, and its programs are on the uplinks.
pub(super) async fn status(request: &Request) -> Result<(), CniError> {
    let unavailable = |error: ClientError| {
        let error = CniError::from(error);
        // Pods keep their traffic without an agent.
        CniError { code: Code::NotAvailable as u32, ..error }
    };
    let client = request.client();
    let (status, networks) = tokio::try_join!(client.status(), client.networks()).map_err(unavailable)?;
    let network = request.config.network();
    if !networks.iter().any(|one| one.name == network) {
        return Err(CniError::new(Code::NotAvailable, format!("network '{network}' does not exist"))
            .hint("'netpath network ls' lists the networks, 'netpath network add' makes one"));
    }
    let bare = |uplink: &&String| {
        !["from_uplink", "to_uplink"].iter().all(|name| {
            status.programs.iter().any(|program| program.name == *name && program.interface == **uplink)
        })
    };
    if let Some(uplink) = status.uplinks.iter().find(bare) {
        let message = format!("uplink {uplink} lacks programs, so pods do not reach outside");
        return Err(CniError::new(Code::NotConnected, message).hint("'netpath status' says why"));
    }
    if request.config.ipam().is_some() {
        ipam::delegate(request, "STATUS")?;
    }
    Ok(())
}
