//! Who has a port of the node: an engine that binds what a container publishes, to keep it from others, is no obstacle to it.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{model::Transport, net::sockets};

/// Inodes of the sockets of processes that were told to look after a container: podman's conmon. It keeps the container's ports as
/// long as that runs, so it has them when a network is connected or reloaded. Other engines have no process that keeps ports
/// and names the container. Processes of another PID namespace are not seen, and so are somebody else's.
pub(super) fn sockets_of(container: &str) -> HashSet<u64> {
    processes_of(container).flat_map(|process| open_sockets(&process)).collect()
}

/// Whether an address and port of the node are in use by some of these sockets and by no others.
pub(super) fn have(own: &HashSet<u64>, protocol: Transport, wanted: SocketAddr) -> bool {
    let sockets = sockets_on(protocol, wanted);
    !sockets.is_empty() && sockets.is_subset(own)
}

/// Inodes of the sockets that keep an address and port from others. Of SCTP none are known: podman binds none.
fn sockets_on(protocol: Transport, wanted: SocketAddr) -> HashSet<u64> {
    let all = match protocol {
        Transport::Tcp => sockets::tcp(),
        Transport::Udp => sockets::udp(),
        Transport::Sctp => Vec::new(),
    };
    all.into_iter().filter(|one| one.keeps(wanted)).map(|one| one.inode).collect()
}

/// How conmon is told its container, the ID being the next argument: podman and CRI-O use the first.
const CONTAINER: [&[u8]; 2] = [b"-c", b"--cid"];

/// Directories of processes with such an argument for the container.
fn processes_of(container: &str) -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(move |process| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        is_told(&arguments, container)
    })
}

/// Whether a command line, which any process can have an ID in, is one that looks after the container.
fn is_told(arguments: &[u8], container: &str) -> bool {
    // The first is what the process calls itself.
    let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).skip(1).collect();
    arguments.windows(2).any(|pair| CONTAINER.contains(&pair[0]) && pair[1] == container.as_bytes())
}

/// Inodes of a process's sockets.
fn open_sockets(process: &Path) -> HashSet<u64> {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let inode = |name: &str| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    open.filter_map(|file| inode(fs::read_link(file.path()).ok()?.to_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, UdpSocket},
        os::fd::OwnedFd,
        process::{Command, Stdio},
    };

    use super::*;

    /// Passes a socket on to a process with these arguments, as podman does to conmon.
    fn with_holder<T>(socket: OwnedFd, arguments: &[&str], look: impl FnOnce() -> T) -> T {
        let mut holder = Command::new("sh");
        holder.args(["-c", "echo >&2; read -r line", "holder"]).args(arguments);
        holder.stdin(Stdio::piped()).stdout(Stdio::from(socket)).stderr(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        // Its arguments can be read only some time after it was started.
        holder.stderr.take().unwrap().read_exact(&mut [0]).unwrap();
        let seen = look();
        holder.kill().unwrap();
        holder.wait().unwrap();
        seen
    }

    #[test]
    fn what_a_process_calls_itself_tells_nothing() {
        let conmon = b"/usr/bin/conmon\0--api-version\x001\0-c\0abc\0-u\0abc\0-r\0/usr/bin/crun\0";
        assert!(is_told(conmon, "abc") && !is_told(conmon, "ab") && !is_told(conmon, "/usr/bin/crun"));
        for stranger in [&b"abc\0"[..], b"-c\0abc\0", b"ncat\0-lk\0abc\0", b"", b"\0"] {
            assert!(!is_told(stranger, "abc"), "{}", String::from_utf8_lossy(stranger));
        }
    }

    #[test]
    fn a_port_is_a_containers_if_its_engine_alone_has_it() {
        let id = format!("container-{}", std::process::id());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = tcp.local_addr().unwrap();
        let everywhere = SocketAddr::new([0; 4].into(), wanted.port());
        let is_own = || have(&sockets_of(&id), Transport::Tcp, wanted);
        let all_is_own = || have(&sockets_of(&id), Transport::Tcp, everywhere);
        assert!(!is_own(), "this process has it, and no such argument");
        assert!(with_holder(tcp.try_clone().unwrap().into(), &["-c", &id], is_own));
        assert!(with_holder(tcp.try_clone().unwrap().into(), &["--cid", &id], is_own));
        for stranger in [&["-c", "another"][..], &[&id], &["-n", &id], &["-c", "-x", &id]] {
            assert!(!with_holder(tcp.try_clone().unwrap().into(), stranger, is_own), "{stranger:?}");
        }
        let also = TcpListener::bind(("127.0.0.2", wanted.port())).unwrap();
        assert!(
            with_holder(tcp.try_clone().unwrap().into(), &["-c", &id], is_own),
            "others by another address"
        );
        assert!(
            !with_holder(tcp.into(), &["-c", &id], all_is_own),
            "somebody else has it on another address"
        );
        drop(also);
        assert!(!is_own(), "nobody has it");
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let wanted = udp.local_addr().unwrap();
        assert!(with_holder(udp.into(), &["-c", &id], || have(&sockets_of(&id), Transport::Udp, wanted)));
    }
}
