//! Request and response, one at a time: client and server on one core, every round trip recorded.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use hdrhistogram::Histogram;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{Pair, Plan, sockets, stats};

/// The core to measure on: the last one we may use, since interrupts and everybody else prefer the first.
///
/// # Errors
/// What the kernel says.
pub(super) fn core() -> io::Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    (0..CpuSet::count())
        .rev()
        .find(|&core| allowed.is_set(core).unwrap_or(false))
        .ok_or_else(|| io::Error::other("no core to run on"))
}

/// Keeps the calling thread on one core.
fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// One byte each way over TCP. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says, on either side.
pub(super) fn tcp(pair: &Pair<'_>, plan: &Plan, core: usize) -> io::Result<Histogram<u64>> {
    let listener = sockets::tcp_listen(pair.server, pair.address)?;
    let to = listener.local_addr()?;
    with_server(
        core,
        |done| tcp_server(&listener, done),
        || {
            let mut stream = sockets::tcp_connect(pair.client, 0, to, sockets::PATIENCE)?;
            record(plan, || {
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])
            })
        },
    )
}

fn tcp_server(listener: &TcpListener, done: &AtomicBool) -> io::Result<()> {
    while !done.load(Ordering::Relaxed) {
        let Some((mut stream, _)) = sockets::tcp_accept(listener)? else { continue };
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        return Ok(());
    }
    Ok(())
}

/// One byte each way over UDP. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says, on either side; a lost datagram.
pub(super) fn udp(pair: &Pair<'_>, plan: &Plan, core: usize) -> io::Result<Histogram<u64>> {
    let server = sockets::udp_listen(pair.server, pair.address)?;
    let to = server.local_addr()?;
    with_server(
        core,
        |done| udp_server(&server, done),
        || {
            let socket = sockets::udp_connect(pair.client, 0, to, sockets::PATIENCE)?;
            let times = record(plan, || {
                socket.send(&[1])?;
                socket.recv(&mut [0]).map(drop)
            });
            // Ends the server at once; if this is lost, it sees `done` a tick later.
            socket.send(&[])?;
            times
        },
    )
}

fn udp_server(server: &UdpSocket, done: &AtomicBool) -> io::Result<()> {
    let mut byte = [0];
    while !done.load(Ordering::Relaxed) {
        let Some((length, peer)): Option<(usize, SocketAddr)> = sockets::ticked(server.recv_from(&mut byte))?
        else {
            continue;
        };
        if length == 0 {
            return Ok(());
        }
        server.send_to(&byte, peer)?;
    }
    Ok(())
}

/// ICMP echo; the server is the peer's kernel. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says; a lost echo.
pub(super) fn icmp(pair: &Pair<'_>, plan: &Plan, core: usize) -> io::Result<Histogram<u64>> {
    let client = || {
        let mut pinger = sockets::Pinger::open(pair.client, pair.address, sockets::PATIENCE)?;
        record(plan, || pinger.ping().map(drop))
    };
    with_server(core, |_| Ok(()), client)
}

/// Runs both on `core`, each on a thread of its own. The client's failure is the one that is told, since the server's
/// usually follows from it.
fn with_server(
    core: usize,
    server: impl FnOnce(&AtomicBool) -> io::Result<()> + Send,
    client: impl FnOnce() -> io::Result<Histogram<u64>> + Send,
) -> io::Result<Histogram<u64>> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| pin(core).and_then(|()| server(&done)));
        let client = scope.spawn(|| {
            let times = pin(core).and_then(|()| client());
            done.store(true, Ordering::Relaxed);
            times
        });
        let panicked = |_| io::Error::other("a measuring thread panicked");
        let times = client.join().map_err(panicked).flatten();
        let served = server.join().map_err(panicked).flatten();
        times.and_then(|times| served.map(|()| times))
    })
}

/// Round trips for warm-up and slice; the slice's are recorded. The clock is read once a round trip.
fn record(plan: &Plan, mut round_trip: impl FnMut() -> io::Result<()>) -> io::Result<Histogram<u64>> {
    let mut times = stats::histogram()?;
    let begin = Instant::now();
    let (start, end) = (begin + plan.warm_up, begin + plan.warm_up + plan.slice);
    let mut before = begin;
    loop {
        round_trip()?;
        let now = Instant::now();
        if now >= end && !times.is_empty() {
            return Ok(times);
        }
        if now >= start {
            times.saturating_record((now - before).as_nanos() as u64);
        }
        before = now;
    }
}
