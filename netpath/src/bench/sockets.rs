//! Sockets opened inside a namespace and used from any thread: a socket stays in the namespace it was made in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Netns;

/// Whoever waits for an answer gives up after this.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a server waits before it looks whether it should stop.
pub const TICK: Duration = Duration::from_millis(20);

/// A socket of an address's family.
fn open(netns: &Netns, address: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    netns.enter(|| Socket::new(domain, kind, Some(protocol))).map_err(io::Error::other)?
}

/// No address of the same family.
fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A TCP server on a free port of `address`. `accept` gives up with `WouldBlock` after [`TICK`].
///
/// # Errors
/// What the kernel says.
pub fn tcp_listen(netns: &Netns, address: impl Into<IpAddr>) -> io::Result<TcpListener> {
    let address = address.into();
    let socket = open(netns, address, Type::STREAM, Protocol::TCP)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.set_read_timeout(Some(TICK))?;
    socket.listen(16)?;
    Ok(socket.into())
}

/// A TCP connection, TCP_NODELAY, from `port` (0: any). Connecting takes at most `patience`, each read and write
/// [`PATIENCE`].
///
/// # Errors
/// What the kernel says.
pub fn tcp_connect(netns: &Netns, port: u16, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = open(netns, to.ip(), Type::STREAM, Protocol::TCP)?;
    if port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((unspecified(to.ip()), port)).into())?;
    }
    socket.connect_timeout(&to.into(), patience)?;
    let stream = TcpStream::from(socket);
    prepare(&stream)?;
    Ok(stream)
}

/// The next connection, TCP_NODELAY, each read and write at most [`PATIENCE`]; `None` if none came within [`TICK`].
///
/// # Errors
/// What the kernel says.
pub fn tcp_accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let Some((stream, peer)) = ticked(listener.accept())? else { return Ok(None) };
    prepare(&stream)?;
    Ok(Some((stream, peer)))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// A UDP server on a free port of `address`; receiving gives up with `WouldBlock` after [`TICK`].
///
/// # Errors
/// What the kernel says.
pub fn udp_listen(netns: &Netns, address: impl Into<IpAddr>) -> io::Result<UdpSocket> {
    let socket = udp_bind(netns, (address.into(), 0).into())?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// A UDP socket at an address and port, which waits for ever.
///
/// # Errors
/// What the kernel says.
pub(super) fn udp_bind(netns: &Netns, at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(netns, at.ip(), Type::DGRAM, Protocol::UDP)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// A UDP socket from `port` (0: any) that only talks to `to`; receiving gives up after `patience`.
///
/// # Errors
/// What the kernel says.
pub fn udp_connect(netns: &Netns, port: u16, to: SocketAddr, patience: Duration) -> io::Result<UdpSocket> {
    let socket = open(netns, to.ip(), Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SocketAddr::from((unspecified(to.ip()), port)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket.into())
}

/// Turns a timeout into `None`.
///
/// # Errors
/// Every other error.
pub fn ticked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_timeout(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nobody answered in time.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An error in words: the kernel calls a timeout "resource temporarily unavailable".
pub fn explain(error: &io::Error) -> String {
    if is_timeout(error) { "no answer".into() } else { error.to_string() }
}

/// Identifiers of echo requests: each pinger of this process has its own.
static IDENTIFIERS: AtomicU16 = AtomicU16::new(1);

/// An echo client, over ICMP or ICMPv6.
#[derive(Debug)]
pub struct Pinger {
    socket: Raw,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
    buffer: [u8; 2048],
}

impl Pinger {
    /// Payload of every echo request.
    pub const PAYLOAD: &'static [u8; 16] = b"netpath lab echo";

    /// A pinger that waits at most `patience` for each answer. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(netns: &Netns, to: impl Into<IpAddr>, patience: Duration) -> io::Result<Self> {
        let to = to.into();
        let socket = Raw::open(netns, to)?;
        socket.socket.connect(&SocketAddr::from((to, 0)).into())?;
        socket.socket.set_read_timeout(Some(patience))?;
        let identifier = IDENTIFIERS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { socket, to, identifier, sequence: 0, buffer: [0; 2048] })
    }

    /// One echo; the whole round trip.
    ///
    /// # Errors
    /// `TimedOut` or `WouldBlock` without an answer, else what the kernel says.
    pub fn ping(&mut self) -> io::Result<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = echo_request(self.socket.kinds, self.identifier, self.sequence);
        let sent = Instant::now();
        self.socket.socket.send(&request)?;
        loop {
            let (source, Some(echo)) = self.socket.receive(&mut self.buffer)? else { continue };
            let answer = (echo.kind, echo.identifier, echo.sequence);
            if answer == (self.socket.kinds.reply, self.identifier, self.sequence) && source == self.to {
                if echo.payload != Self::PAYLOAD {
                    return Err(io::Error::other("the answer carries another payload than the request"));
                }
                return Ok(sent.elapsed());
            }
            // Talking to itself, a raw socket sees the requests too; they must not make it wait forever.
            if sent.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Sees the echo requests that arrive in a namespace.
#[derive(Debug)]
pub struct EchoWitness(Raw);

impl EchoWitness {
    /// Starts to listen for those of an address's family. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(netns: &Netns, like: impl Into<IpAddr>) -> io::Result<Self> {
        let socket = Raw::open(netns, like.into())?;
        socket.socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sources of the [`Pinger`] requests that came since the last call, each once. Does not wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sources(&self) -> io::Result<Vec<IpAddr>> {
        let mut sources = Vec::new();
        let mut buffer = [0; 2048];
        while let Some((source, echo)) = ticked(self.0.receive(&mut buffer))? {
            if let Some(echo) = echo
                && echo.kind == self.0.kinds.request
                && echo.payload == Pinger::PAYLOAD
                && !sources.contains(&source)
            {
                sources.push(source);
            }
        }
        Ok(sources)
    }
}

/// A raw socket for ICMP or ICMPv6.
#[derive(Debug)]
struct Raw {
    socket: Socket,
    kinds: Kinds,
}

/// ICMP types.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    request: u8,
    reply: u8,
    /// IPv4 hands a raw socket the IP header as well.
    with_header: bool,
}

const V4: Kinds = Kinds { request: 8, reply: 0, with_header: true };
const V6: Kinds = Kinds { request: 128, reply: 129, with_header: false };

impl Raw {
    fn open(netns: &Netns, like: IpAddr) -> io::Result<Self> {
        let (kinds, protocol) = if like.is_ipv4() { (V4, Protocol::ICMPV4) } else { (V6, Protocol::ICMPV6) };
        Ok(Self { socket: open(netns, like, Type::RAW, protocol)?, kinds })
    }

    /// The next message, if it is an echo's, and who sent it.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(IpAddr, Option<Echo<'a>>)> {
        let (length, from) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), buffer)?;
        let v4 = |from: &SockaddrStorage| Some(from.as_sockaddr_in()?.ip().into());
        let v6 = |from: &SockaddrStorage| Some(from.as_sockaddr_in6()?.ip().into());
        let from = from.and_then(|from| v4(&from).or_else(|| v6(&from))).ok_or(io::ErrorKind::InvalidData)?;
        Ok((from, Echo::parse(&buffer[..length], self.kinds)))
    }
}

/// An echo message.
#[derive(Debug, PartialEq, Eq)]
struct Echo<'a> {
    kind: u8,
    identifier: u16,
    sequence: u16,
    payload: &'a [u8],
}

impl<'a> Echo<'a> {
    fn parse(packet: &'a [u8], kinds: Kinds) -> Option<Self> {
        let header = if kinds.with_header { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
        let (icmp, payload) = packet.get(header..)?.split_at_checked(8)?;
        let word = |at: usize| u16::from_be_bytes([icmp[at], icmp[at + 1]]);
        Some(Self { kind: icmp[0], identifier: word(4), sequence: word(6), payload })
    }
}

/// The kernel fills ICMPv6's checksum in, whatever stands there.
fn echo_request(kinds: Kinds, identifier: u16, sequence: u16) -> [u8; 24] {
    let mut packet = [0; 24];
    packet[0] = kinds.request;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..].copy_from_slice(Pinger::PAYLOAD);
    let sum = internet_checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 1071 over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_sums_to_zero_and_parses_back() {
        let request = echo_request(V4, 7, 513);
        assert_eq!(internet_checksum(&request), 0);
        let mut packet = vec![0x45; 20];
        packet.extend(request);
        let want = Echo { kind: 8, identifier: 7, sequence: 513, payload: Pinger::PAYLOAD };
        assert_eq!(Echo::parse(&packet, V4), Some(want));
        assert_eq!(Echo::parse(&packet[..27], V4), None);
        assert_eq!(Echo::parse(&[], V4), None);
        let request = echo_request(V6, 7, 513);
        assert_eq!(Echo::parse(&request, V6).unwrap().kind, 128);
        assert_eq!(Echo::parse(&request[..7], V6), None);
    }

    #[test]
    fn a_timeout_is_no_error() {
        assert!(matches!(ticked::<()>(Err(io::ErrorKind::WouldBlock.into())), Ok(None)));
        assert_eq!(explain(&io::ErrorKind::WouldBlock.into()), "no answer");
        assert!(ticked::<()>(Err(io::ErrorKind::ConnectionRefused.into())).is_err());
    }
}
