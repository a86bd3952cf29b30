//! Who is on the other end of the socket, and what they may do.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    sync::Arc,
};

use axum::{
    Extension,
    extract::Request,
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::net::{UnixListener, UnixStream};

use super::{connection::Accept, failure::Refusal};
use crate::agent::{Agent, AgentError};

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// May do everything.
    Root,
    /// Of the group `api.group`: may read.
    Member,
    /// May do nothing.
    Stranger,
}

/// The socket, which knows who comes.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    pub(super) agent: Arc<Agent>,
}

impl Accept for Socket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = judge(&stream, self.agent.api_group());
        Ok((stream, peer))
    }
}

/// The kernel noted who connected (SO_PEERCRED). It let nobody else by the socket's mode; this holds as well where
/// somebody has changed that, or handed a connection on.
fn judge(stream: &UnixStream, group: Option<u32>) -> Peer {
    let Ok(peer) = stream.peer_cred() else { return Peer::Stranger };
    if peer.uid() == 0 {
        return Peer::Root;
    }
    let is_member = |group| {
        let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
        let groups = peer.pid().and_then(status).map(|status| groups(&status)).unwrap_or_default();
        peer.gid() == group || groups.contains(&group)
    };
    if group.is_some_and(is_member) { Peer::Member } else { Peer::Stranger }
}

/// The supplementary groups in /proc/PID/status: SO_PEERCRED tells the first one only.
fn groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// Lets a request pass if its sender may make it.
pub(super) async fn permit(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    match peer {
        Peer::Root => next.run(request).await,
        Peer::Member if request.method() == Method::GET => next.run(request).await,
        Peer::Member => Refusal::read_only().into_response(),
        Peer::Stranger => Refusal::stranger().into_response(),
    }
}

/// Gives the socket the mode that goes with the group, and its members a way to it.
///
/// # Errors
/// If the file system refuses.
pub(crate) fn open_to(socket: &Path, group: Option<u32>) -> Result<(), AgentError> {
    set_access(socket, group).map_err(AgentError::io(format!("setting who may use {}", socket.display())))
}

fn set_access(socket: &Path, group: Option<u32>) -> io::Result<()> {
    let give = |path: &Path, group: u32| match fs::metadata(path)?.gid() {
        // No capability is needed for nothing.
        present if present == group => Ok(()),
        _ => chown(path, None, Some(group)),
    };
    give(socket, group.unwrap_or(0))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(socket, Permissions::from_mode(mode))?;
    let (Some(group), Some(dir)) = (group, socket.parent()) else { return Ok(()) };
    // The agent's directories are closed to others.
    if is_closed(dir)? {
        give(dir, group)?;
        fs::set_permissions(dir, Permissions::from_mode(0o710))?;
    }
    match dir.parent() {
        // Shared by instances, each with a group of its own.
        Some(parent) if parent == Path::new("/run/netpath") && is_closed(parent)? => {
            fs::set_permissions(parent, Permissions::from_mode(0o711))
        }
        _ => Ok(()),
    }
}

/// Whether others cannot pass through a directory.
fn is_closed(dir: &Path) -> io::Result<bool> {
    Ok(fs::metadata(dir)?.mode() & 0o001 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_process() {
        assert_eq!(groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1\n"), [4, 24, 1000]);
        assert!(groups("Groups:\t\n").is_empty());
        assert!(groups("Name:\tx\n").is_empty());
    }
}
