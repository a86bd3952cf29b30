//! Request and response, one at a time: client and server on one core, every round trip recorded.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{Cores, Slice, record, with_server};
use crate::{
    bench::{Pair, sockets},
    net::Netns,
};

/// `size` bytes each way over TCP. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says, on either side.
pub(in crate::bench) fn tcp(
    pair: &Pair<'_>,
    size: usize,
    slice: Slice,
    cores: Cores,
) -> io::Result<Histogram<u64>> {
    let listener = sockets::tcp_listen(pair.server, pair.address)?;
    let to = listener.local_addr()?;
    with_server(
        cores.one,
        |done| tcp_server(&listener, size, done),
        || {
            let mut stream = sockets::tcp_connect(pair.client, 0, to, sockets::PATIENCE)?;
            let mut message = vec![1; size];
            record(slice, || {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)
            })
        },
    )
}

fn tcp_server(listener: &TcpListener, size: usize, done: &AtomicBool) -> io::Result<()> {
    while !done.load(Ordering::Relaxed) {
        let Some((mut stream, _)) = sockets::tcp_accept(listener)? else { continue };
        let mut message = vec![0; size];
        // The first byte alone tells whether there is another request.
        while stream.read(&mut message[..1])? == 1 {
            stream.read_exact(&mut message[1..])?;
            stream.write_all(&message)?;
        }
        return Ok(());
    }
    Ok(())
}

/// `size` bytes each way over UDP. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says, on either side; a lost datagram.
pub(in crate::bench) fn udp(
    pair: &Pair<'_>,
    size: usize,
    slice: Slice,
    cores: Cores,
) -> io::Result<Histogram<u64>> {
    let server = sockets::udp_listen(pair.server, pair.address)?;
    let to = server.local_addr()?;
    with_server(
        cores.one,
        |done| udp_server(&server, size, done),
        || {
            let socket = sockets::udp_connect(pair.client, 0, to, sockets::PATIENCE)?;
            let mut message = vec![1; size];
            let times = record(slice, || {
                socket.send(&message)?;
                socket.recv(&mut message).map(drop)
            });
            // Ends the server at once; if this is lost, it sees `done` a tick later.
            socket.send(&[])?;
            times
        },
    )
}

fn udp_server(server: &UdpSocket, size: usize, done: &AtomicBool) -> io::Result<()> {
    let mut message = vec![0; size];
    while !done.load(Ordering::Relaxed) {
        let received: Option<(usize, SocketAddr)> = sockets::ticked(server.recv_from(&mut message))?;
        let Some((length, peer)) = received else { continue };
        if length == 0 {
            return Ok(());
        }
        server.send_to(&message[..length], peer)?;
    }
    Ok(())
}

/// ICMP echo; the server is the peer's kernel. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says; a lost echo.
pub(in crate::bench) fn icmp(pair: &Pair<'_>, slice: Slice, cores: Cores) -> io::Result<Histogram<u64>> {
    let client = || {
        let mut pinger = sockets::Pinger::open(pair.client, pair.address, sockets::PATIENCE)?;
        record(slice, || pinger.ping().map(drop))
    };
    with_server(cores.one, |_| Ok(()), client)
}

/// One byte there and back over UDP, once: the first round trip of a client that has sent nothing yet.
///
/// # Errors
/// What the kernel says, on either side; a lost datagram.
pub(in crate::bench) fn first(client: &Netns, pair: &Pair<'_>, cores: Cores) -> io::Result<Duration> {
    let server = sockets::udp_listen(pair.server, pair.address)?;
    let to = server.local_addr()?;
    with_server(
        cores.one,
        |done| udp_server(&server, 1, done),
        || {
            let socket = sockets::udp_connect(client, 0, to, sockets::PATIENCE)?;
            let sent = Instant::now();
            socket.send(&[1])?;
            socket.recv(&mut [0])?;
            let took = sent.elapsed();
            socket.send(&[])?;
            Ok(took)
        },
    )
}
