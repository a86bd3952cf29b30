//! As much as goes through: senders on one core, receivers on another, what arrived counted every few milliseconds.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{Cores, Slice, panicked, pin};
use crate::bench::{Pair, series::Turn, sockets, stats};

/// How often is looked at what arrived.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of one write or read of a TCP stream.
const CHUNK: usize = 128 * 1024;
/// Room for datagrams that wait for their receiver: a few milliseconds' worth.
const ROOM: usize = 4 * 1024 * 1024;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Count {
    Bits,
    Packets,
}

/// What senders and receivers share with who looks on.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    arrived: AtomicU64,
    failed: AtomicBool,
}

/// TCP streams side by side. Payload, bits a second.
///
/// # Errors
/// What the kernel says, on either side.
pub(in crate::bench) fn tcp(
    pair: &Pair<'_>,
    connections: u64,
    slice: Slice,
    cores: Cores,
) -> io::Result<Turn> {
    let listener = sockets::tcp_listen(pair.server, pair.address)?;
    let to = listener.local_addr()?;
    let mut ends = Vec::new();
    for _ in 0..connections {
        let sender = sockets::tcp_connect(pair.client, 0, to, sockets::PATIENCE)?;
        let (receiver, _) = sockets::tcp_accept(&listener)?.ok_or(io::ErrorKind::TimedOut)?;
        ends.push((sender, receiver));
    }
    run(&ends, slice, cores, tcp_send, tcp_receive)
}

fn tcp_send(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    while !shared.stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)
}

fn tcp_receive(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        shared.arrived.fetch_add(length as u64 * 8, Ordering::Relaxed);
    }
}

/// UDP flows side by side, of datagrams with `size` bytes. What arrived, bits of payload or packets a second.
///
/// # Errors
/// What the kernel says, on either side.
pub(in crate::bench) fn udp(
    pair: &Pair<'_>,
    connections: u64,
    size: usize,
    count: Count,
    slice: Slice,
    cores: Cores,
) -> io::Result<Turn> {
    let mut ends = Vec::new();
    for _ in 0..connections {
        let receiver = sockets::udp_listen(pair.server, pair.address)?;
        setsockopt(&receiver, sockopt::RcvBufForce, &ROOM)?;
        let sender = sockets::udp_connect(pair.client, 0, receiver.local_addr()?, sockets::PATIENCE)?;
        ends.push((sender, receiver));
    }
    run(
        &ends,
        slice,
        cores,
        |socket, shared| udp_send(socket, size, shared),
        |socket, shared| udp_receive(socket, size, count, shared),
    )
}

fn udp_send(socket: &UdpSocket, size: usize, shared: &Shared) -> io::Result<()> {
    let datagram = vec![0x5a; size];
    while !shared.stop.load(Ordering::Relaxed) {
        socket.send(&datagram)?;
    }
    // Ends the receiver at once; if this is lost, it sees `stop` a tick later.
    socket.send(&[]).map(drop)
}

fn udp_receive(socket: &UdpSocket, size: usize, count: Count, shared: &Shared) -> io::Result<()> {
    let mut datagram = vec![0; size];
    loop {
        match sockets::ticked(socket.recv(&mut datagram))? {
            Some(0) => return Ok(()),
            Some(length) => {
                let one = if count == Count::Bits { length as u64 * 8 } else { 1 };
                shared.arrived.fetch_add(one, Ordering::Relaxed);
            }
            None if shared.stop.load(Ordering::Relaxed) => return Ok(()),
            None => {}
        }
    }
}

/// Runs a sender and a receiver for each connection, and looks on.
fn run<S: Sync>(
    ends: &[(S, S)],
    slice: Slice,
    cores: Cores,
    send: impl Fn(&S, &Shared) -> io::Result<()> + Sync,
    receive: impl Fn(&S, &Shared) -> io::Result<()> + Sync,
) -> io::Result<Turn> {
    let shared = Shared::default();
    let pinned = |core, work: &(dyn Fn() -> io::Result<()> + Sync)| {
        let outcome = pin(core).and_then(|()| work());
        if outcome.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        outcome
    };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (sender, receiver) in ends {
            let (pinned, send, receive, shared) = (&pinned, &send, &receive, &shared);
            threads.push(scope.spawn(move || pinned(cores.receiver, &|| receive(receiver, shared))));
            threads.push(scope.spawn(move || pinned(cores.sender, &|| send(sender, shared))));
        }
        let turn = look(&shared, slice);
        shared.stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> =
            threads.into_iter().map(|thread| thread.join().map_err(panicked).flatten()).collect();
        ended.into_iter().collect::<io::Result<()>>()?;
        turn
    })
}

/// Counts what arrives, a second, over the slice and in each part of it. A slice in which nothing arrives, as on a machine
/// that is busy with other things, lasts until something does.
fn look(shared: &Shared, slice: Slice) -> io::Result<Turn> {
    thread::sleep(slice.warm_up);
    let mut samples = stats::histogram()?;
    let seen = || (Instant::now(), shared.arrived.load(Ordering::Relaxed));
    let rate =
        |from: (Instant, u64), to: (Instant, u64)| (to.1 - from.1) as f64 / (to.0 - from.0).as_secs_f64();
    let begin = seen();
    let mut before = begin;
    while before.0 - begin.0 < slice.counted || before.1 == begin.1 {
        if shared.failed.load(Ordering::Relaxed) || before.0 - begin.0 > sockets::PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(LOOK.min(slice.counted));
        let now = seen();
        samples.record(rate(before, now) as u64).map_err(io::Error::other)?;
        before = now;
    }
    Ok(Turn { value: rate(begin, before), samples })
}
