//! Echo over ICMP, TCP and UDP, every byte compared.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Seen, Verdict};
use crate::{
    bench::sockets::{self, PATIENCE, Pinger, explain},
    net::Netns,
};

/// Round trips of a small exchange; the median of so many is steady enough for a table.
const SMALL: usize = 20;
/// Round trips of a large one.
const LARGE: usize = 3;
/// Datagrams under way at once. Receive buffers hold some 90 of full size, so none is lost for want of room.
const WINDOW: usize = 16;

/// What an exchange saw.
#[derive(Debug)]
pub(super) struct Exchanged {
    /// Whole round trips: first byte sent to last byte back.
    pub(super) times: Vec<Duration>,
    /// Who the server saw, each once.
    pub(super) peers: Vec<SocketAddr>,
}

fn repeats(size: usize) -> usize {
    if size > 1000 { LARGE } else { SMALL }
}

/// Echo requests, answered by the kernel at `to`.
pub(super) fn icmp(from: &Netns, to: IpAddr) -> Verdict {
    let doing = |error: io::Error| format!("echo request to {to}: {}", explain(&error));
    let mut pinger = Pinger::open(from, to, PATIENCE).map_err(doing)?;
    let times: io::Result<Vec<_>> = (0..SMALL).map(|_| pinger.ping()).collect();
    Ok(Seen::new(times.map_err(doing)?, format!("{SMALL} echoes answered by {to}")))
}

/// `size` bytes there and back over one connection, several times.
pub(super) fn tcp(from: &Netns, server: &Netns, to: IpAddr, size: usize) -> Verdict {
    let seen = tcp_exchange(from, server, to, size)?;
    Ok(Seen::new(seen.times, format!("{} × {size} bytes echoed by {to}", repeats(size))))
}

/// `size` bytes there and back in datagrams of at most `datagram` bytes, several times.
pub(super) fn udp(from: &Netns, server: &Netns, to: IpAddr, size: usize, datagram: usize) -> Verdict {
    let seen = udp_exchange(from, server, to, size, datagram)?;
    Ok(Seen::new(seen.times, format!("{} × {size} bytes echoed by {to}", repeats(size))))
}

/// As [`tcp`], telling peers.
pub(super) fn tcp_exchange(
    from: &Netns,
    server: &Netns,
    to: IpAddr,
    size: usize,
) -> Result<Exchanged, String> {
    let (listener, to) = listen_tcp(server, to)?;
    let (times, peers) = with_server(
        |done| serve_tcp(&listener, size, done),
        || {
            let mut stream = sockets::tcp_connect(from, 0, to, PATIENCE)
                .map_err(|e| format!("connect to {to}: {}", explain(&e)))?;
            let sent = pattern(size, 0);
            let mut back = vec![0; size];
            let mut times = Vec::new();
            for turn in 0..repeats(size) {
                let start = Instant::now();
                let exchanged = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut back));
                exchanged.map_err(|error| format!("turn {turn} with {to}: {}", explain(&error)))?;
                times.push(start.elapsed());
                compare(&sent, &back).map_err(|error| format!("turn {turn} with {to}: {error}"))?;
            }
            Ok(times)
        },
    )?;
    Ok(Exchanged { times, peers })
}

/// A TCP server on a free port, and where it is.
pub(super) fn listen_tcp(netns: &Netns, address: IpAddr) -> Result<(TcpListener, SocketAddr), String> {
    let listener = sockets::tcp_listen(netns, address);
    listener
        .and_then(|l| Ok((l.local_addr()?, l)))
        .map(|(to, l)| (l, to))
        .map_err(|e| format!("listen on {address}: {e}"))
}

/// A UDP server on a free port, and where it is.
pub(super) fn listen_udp(netns: &Netns, address: IpAddr) -> Result<(UdpSocket, SocketAddr), String> {
    let socket = sockets::udp_listen(netns, address);
    socket
        .and_then(|s| Ok((s.local_addr()?, s)))
        .map(|(to, s)| (s, to))
        .map_err(|e| format!("bind to {address}: {e}"))
}

/// Echoes messages of `size` bytes on every connection, each on a thread of its own, until `done`. Returns the peers.
pub(super) fn serve_tcp(
    listener: &TcpListener,
    size: usize,
    done: &AtomicBool,
) -> io::Result<Vec<SocketAddr>> {
    let mut peers = Vec::new();
    thread::scope(|scope| {
        while !done.load(Ordering::Relaxed) {
            let Some((mut stream, peer)) = sockets::tcp_accept(listener)? else { continue };
            peers.push(peer);
            // A connection that breaks is the client's to tell: it misses its bytes.
            scope.spawn(move || {
                let mut message = vec![0; size];
                while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
            });
        }
        Ok(peers)
    })
}

/// As [`udp`], telling peers.
pub(super) fn udp_exchange(
    from: &Netns,
    server: &Netns,
    to: IpAddr,
    size: usize,
    datagram: usize,
) -> Result<Exchanged, String> {
    let (listener, to) = listen_udp(server, to)?;
    let (times, peers) = with_server(
        |done| serve_udp(&listener, done),
        || {
            let socket = sockets::udp_connect(from, 0, to, PATIENCE)
                .map_err(|e| format!("connect to {to}: {}", explain(&e)))?;
            let datagrams = split(size, datagram);
            let turns = 0..repeats(size);
            turns
                .map(|turn| window(&socket, &datagrams).map_err(|e| format!("turn {turn} with {to}: {e}")))
                .collect()
        },
    )?;
    Ok(Exchanged { times, peers })
}

/// Echoes datagrams until `done`. Returns the peers, each once.
pub(super) fn serve_udp(socket: &UdpSocket, done: &AtomicBool) -> io::Result<Vec<SocketAddr>> {
    let mut peers = Vec::new();
    let mut buffer = vec![0; 65536];
    while !done.load(Ordering::Relaxed) {
        let Some((length, peer)) = sockets::ticked(socket.recv_from(&mut buffer))? else { continue };
        if !peers.contains(&peer) {
            peers.push(peer);
        }
        socket.send_to(&buffer[..length], peer)?;
    }
    Ok(peers)
}

/// Sends all datagrams, at most [`WINDOW`] ahead of the echoes, which must come back in order and unchanged.
fn window(socket: &UdpSocket, datagrams: &[Vec<u8>]) -> Result<Duration, String> {
    let start = Instant::now();
    let mut back = vec![0; 65536];
    let mut sent = 0;
    for (received, want) in datagrams.iter().enumerate() {
        while sent < datagrams.len() && sent - received < WINDOW {
            socket.send(&datagrams[sent]).map_err(|error| format!("send datagram {sent}: {error}"))?;
            sent += 1;
        }
        let at = |error| format!("echo of datagram {received} of {}: {error}", datagrams.len());
        let length = socket.recv(&mut back).map_err(|error| at(explain(&error)))?;
        compare(want, &back[..length]).map_err(at)?;
    }
    Ok(start.elapsed())
}

/// Runs both, ending the server when the client is through. The client's failure is the one that is told.
pub(super) fn with_server<T: Send>(
    server: impl FnOnce(&AtomicBool) -> io::Result<Vec<SocketAddr>> + Send,
    client: impl FnOnce() -> Result<T, String>,
) -> Result<(T, Vec<SocketAddr>), String> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| server(&done));
        let seen = client();
        done.store(true, Ordering::Relaxed);
        let peers = server.join().map_err(|_| "the server's thread panicked".to_owned())?;
        Ok((seen?, peers.map_err(|error| format!("the server: {error}"))?))
    })
}

/// Bytes that differ from place to place and from datagram to datagram.
pub(super) fn pattern(size: usize, salt: usize) -> Vec<u8> {
    (0..size).map(|at| ((at + salt * 7919).wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

fn split(size: usize, datagram: usize) -> Vec<Vec<u8>> {
    (0..size.div_ceil(datagram)).map(|at| pattern(datagram.min(size - at * datagram), at)).collect()
}

fn compare(sent: &[u8], back: &[u8]) -> Result<(), String> {
    if sent.len() != back.len() {
        return Err(format!("{} bytes came back for {}", back.len(), sent.len()));
    }
    match sent.iter().zip(back).position(|(sent, back)| sent != back) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} came back changed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_add_up_and_differ() {
        let datagrams = split(1_000_000, 1472);
        assert_eq!(datagrams.iter().map(Vec::len).sum::<usize>(), 1_000_000);
        assert_eq!(datagrams.len(), 680);
        assert_ne!(datagrams[0], datagrams[1]);
        assert_eq!(split(1, 1).len(), 1);
    }

    #[test]
    fn a_changed_or_missing_byte_is_told() {
        assert!(compare(b"abc", b"abc").is_ok());
        assert_eq!(compare(b"abc", b"axc").unwrap_err(), "byte 1 came back changed");
        assert_eq!(compare(b"abc", b"ab").unwrap_err(), "2 bytes came back for 3");
    }
}
