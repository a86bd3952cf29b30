//! Who is on the other end of the socket, and what they may do.

use std::{
    fs::{self, Permissions},
    io,
    net::IpAddr,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    },
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
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
};
use tokio::net::{UnixListener, UnixStream, unix::UCred};

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
    /// Came over TCP, where nobody is asked who they are; from here.
    Remote(IpAddr),
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
    let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    match group {
        _ if peer.uid() == 0 => Peer::Root,
        Some(group) if peer.gid() == group || has(&peer, stream, group, status) => Peer::Member,
        _ => Peer::Stranger,
    }
}

/// Whether a group is among the supplementary ones of who connected. SO_PEERGROUPS would tell at once, and has no safe
/// wrapper; so /proc is asked, by a number that may be another process's by now. It is not if the one that connected has not
/// ended since (SO_PEERPIDFD, Linux 6.5); on earlier kernels it may be, of the same user.
fn has(peer: &UCred, stream: &UnixStream, group: u32, status: impl Fn(i32) -> String) -> bool {
    let Some(pid) = peer.pid() else { return false };
    let status = status(pid);
    let is_user = numbers(&status, "Uid:").contains(&peer.uid());
    is_user && numbers(&status, "Groups:").contains(&group) && !has_ended(stream)
}

/// Whether the process that connected is known to have ended.
fn has_ended(stream: &UnixStream) -> bool {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(process) => {
            let mut ends = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            poll(&mut ends, PollTimeout::ZERO) != Ok(0)
        }
        Err(errno) => errno != Errno::ENOPROTOOPT,
    }
}

/// The numbers in a line of /proc/PID/status.
fn numbers(status: &str, name: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Lets a request pass if its sender may make it.
pub(super) async fn permit(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    match peer {
        Peer::Root => next.run(request).await,
        Peer::Member if request.method() == Method::GET => next.run(request).await,
        Peer::Member => Refusal::read_only().into_response(),
        Peer::Stranger | Peer::Remote(_) => Refusal::stranger().into_response(),
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
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn numbers_of_a_process() {
        let status = "Name:\tx\nUid:\t7\t7\t7\t7\nGroups:\t4 24 1000 \nNStgid:\t1\n";
        assert_eq!(numbers(status, "Groups:"), [4, 24, 1000]);
        assert_eq!(numbers(status, "Uid:"), [7; 4]);
        assert!(numbers("Groups:\t\n", "Groups:").is_empty() && numbers("Name:\tx\n", "Groups:").is_empty());
    }

    /// What /proc tells is of the process that connected, or of nobody.
    #[tokio::test]
    async fn another_process_of_the_same_number_makes_nobody_a_member() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // It stays until its input ends.
        let mut client = Command::new("logger");
        client.args(["--tcp", "--socket"]).arg(&path).stdin(Stdio::piped());
        let mut client = client.spawn().expect("util-linux's logger");
        let (stream, _) = listener.accept().await.unwrap();
        let peer = stream.peer_cred().unwrap();
        assert_eq!(peer.pid(), Some(client.id() as i32));
        let of = |uid: u32| move |_| format!("Uid:\t{uid}\t{uid}\nGroups:\t24 4711\n");
        assert!(has(&peer, &stream, 4711, of(peer.uid())) && !has(&peer, &stream, 4712, of(peer.uid())));
        assert!(!has(&peer, &stream, 4711, of(peer.uid() + 1)), "another user's");
        client.kill().unwrap();
        client.wait().unwrap();
        if getsockopt(&stream, sockopt::PeerPidfd).err() != Some(Errno::ENOPROTOOPT) {
            assert!(!has(&peer, &stream, 4711, of(peer.uid())), "the number may be another's");
        }
    }
}
