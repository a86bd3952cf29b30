//! The clsact qdisc of an uplink, on which filters hang where there is no tcx.
//!
//! It goes with us if it came with us and nobody else has hung a filter on it since (invariant 5). That it is ours is
//! remembered by an empty directory on bpffs, which lasts as long as the qdisc: until it is removed, or the next boot.
//! A pod's qdisc goes with its interface.

use std::{fs, path::Path, thread};

use aya::programs::tc::qdisc_add_clsact;
use futures::TryStreamExt as _;
use nix::libc::{ENODEV, ENOENT};
use rtnetlink::{Error, Handle, packet_route::tc::TcHandle};
use tokio::runtime::Builder;

use super::error::{DatapathError, kernel};

/// Adds it if it is missing; with `mark`, remembers who did. If that fails attaching says why.
pub(super) fn ensure(ifname: &str, mark: Option<&Path>) -> Result<(), DatapathError> {
    // The mark first: a crash in between costs nothing, since what others use is never removed.
    let mark = mark.filter(|mark| !mark.exists());
    if let Some(mark) = mark {
        fs::create_dir_all(mark).map_err(kernel(format!("marking the qdisc of {ifname} as ours")))?;
    }
    if let (Err(_), Some(mark)) = (qdisc_add_clsact(ifname), mark) {
        unmark(mark)?;
    }
    Ok(())
}

/// Removes it if `mark` says that it is ours and no filter is left; then the mark. No error if the interface is gone.
/// Blocks.
pub(super) fn remove(ifindex: u32, mark: &Path) -> Result<(), DatapathError> {
    if !mark.exists() {
        return Ok(());
    }
    // A thread of its own, in the same namespace: the caller's may be a runtime's, which forbids another.
    thread::scope(|threads| threads.spawn(|| remove_unused(ifindex)).join().expect("no panic"))?;
    unmark(mark)
}

fn remove_unused(ifindex: u32) -> Result<(), DatapathError> {
    let doing = format!("removing the clsact qdisc of the interface with index {ifindex}");
    let runtime = Builder::new_current_thread().enable_io().build().map_err(kernel(&doing))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(kernel(&doing))?;
        tokio::spawn(connection);
        match request(&handle, ifindex.cast_signed()).await {
            Err(Error::NetlinkError(error)) if [-ENODEV, -ENOENT].contains(&error.raw_code()) => Ok(()),
            outcome => outcome.map_err(kernel(&doing)),
        }
    })
}

async fn request(handle: &Handle, ifindex: i32) -> Result<(), Error> {
    let filters = || handle.traffic_filter(ifindex).get();
    for way in [filters().ingress(), filters().egress()] {
        if way.execute().try_next().await?.is_some() {
            return Ok(());
        }
    }
    let mut request = handle.qdisc().del(ifindex);
    request.message_mut().header.parent = TcHandle::CLSACT;
    request.execute().await
}

fn unmark(mark: &Path) -> Result<(), DatapathError> {
    fs::remove_dir(mark).map_err(kernel(format!("removing the mark {}", mark.display())))
}
