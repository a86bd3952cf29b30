//! Router advertisements on uplinks.
//!
//! Pods with IPv6 need `forwarding` on their links, and whenever that is set on any interface the kernel forgets the
//! default routes it has learnt from advertisements, but for those of interfaces that have `accept_ra=2`. On an interface
//! that does not forward, as uplinks do not, 2 means the same as 1 otherwise.

use nix::errno::Errno;

use super::{AgentError, blocking, state::State};
use crate::{
    compile::Uplink,
    net::{NetError, sysctl},
};

/// Keeps an uplink's learnt default route. Written down for [`release`] before it is changed, by index: a name may change.
pub(super) async fn keep(state: &State, uplink: &Uplink) -> Result<(), AgentError> {
    let key = key(&uplink.name);
    if read(key.clone()).await?.as_deref() != Some("1") {
        return Ok(());
    }
    state
        .record(|host| {
            if !host.accept_ra.contains(&uplink.ifindex) {
                host.accept_ra.push(uplink.ifindex);
            }
        })
        .await?;
    blocking(move || sysctl::write(&key, "2")).await?;
    Ok(())
}

/// Takes it back, unless somebody else has changed it since.
pub(super) async fn release(uplink: &str) -> Result<(), AgentError> {
    let key = key(uplink);
    if read(key.clone()).await?.as_deref() == Some("2") {
        blocking(move || sysctl::write(&key, "1")).await?;
    }
    Ok(())
}

/// Whether it is what [`keep`] makes of it.
pub(super) async fn is_raised(uplink: &str) -> bool {
    matches!(read(key(uplink)).await, Ok(Some(value)) if value == "2")
}

fn key(uplink: &str) -> String {
    format!("net/ipv6/conf/{uplink}/accept_ra")
}

/// `None` if the interface is gone, or without IPv6.
async fn read(key: String) -> Result<Option<String>, NetError> {
    match blocking(move || sysctl::read(&key)).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        value => value.map(Some),
    }
}
