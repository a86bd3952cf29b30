//! Who has a port of the node: an engine that binds what a container publishes, to keep it from others, is no obstacle to it.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::model::Transport;

/// Inodes of the sockets that processes have which have a container's ID among their arguments: podman's conmon (`-c ID`). It
/// keeps the container's ports as long as that runs, so it has them when a network is connected or reloaded. Processes of another
/// PID namespace are not seen, and so are somebody else's.
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
    let tables = match protocol {
        Transport::Tcp => ["tcp", "tcp6"].as_slice(),
        Transport::Udp => &["udp", "udp6"],
        Transport::Sctp => &[],
    };
    let text = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let texts: Vec<String> = tables.iter().map(text).collect();
    let lines = texts.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(|line| on(line, protocol, wanted)).collect()
}

/// The inode of a line's socket, if it is in the way: "sl local remote st queues timer retransmits uid timeout inode …", the
/// local address as HEX:PORT. Connections of TCP keep the port from nobody.
fn on(line: &str, protocol: Transport, wanted: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.rsplit_once(':')?;
    let keeps = protocol == Transport::Udp || fields.get(3) == Some(&LISTEN);
    let same = u16::from_str_radix(port, 16) == Ok(wanted.port()) && meets(local(address)?, wanted.ip());
    (keeps && same).then(|| fields.get(9)?.parse().ok())?
}

/// Whether a socket with this local address keeps another from `wanted`: `::` is mostly both families' (IPV6_V6ONLY is not told).
fn meets(local: IpAddr, wanted: IpAddr) -> bool {
    let family = local.is_ipv4() == wanted.is_ipv4();
    local == wanted
        || (wanted.is_unspecified() && family)
        || (local.is_unspecified() && (family || local.is_ipv6()))
}

/// An address as the tables have it: words of four bytes, each as the machine's number. IPv4 in IPv6 is IPv4.
fn local(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(IpAddr::from(word(0)?));
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?];
    let bytes: [u8; 16] = words.concat().try_into().ok()?;
    Some(IpAddr::from(bytes).to_canonical())
}

/// Directories of processes that have the container's ID among their arguments.
fn processes_of(container: &str) -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(move |process| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == container.as_bytes())
    })
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
    fn addresses_are_read_as_the_kernel_writes_them() {
        let one = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(local(&format!("{one:08X}")), Some([127, 0, 0, 1].into()));
        let word = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
        let own = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 2]].map(word).concat();
        assert_eq!(local(&own), Some("2001:db8::2".parse().unwrap()));
        let mapped = [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [127, 0, 0, 1]].map(word).concat();
        assert_eq!(local(&mapped), Some([127, 0, 0, 1].into()));
        assert_eq!((local(""), local("0100007"), local("x100007F")), (None, None, None));
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
        assert!(!with_holder(tcp.try_clone().unwrap().into(), &["-c", "another"], is_own));
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
