//! The load generator: threads pinned to cores, with sockets that were opened in the namespaces.

mod cores;
pub(super) mod crr;
pub(super) mod flood;
pub(super) mod rotate;
pub(super) mod rr;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

pub use self::cores::Cores;
use super::stats;

/// How long a turn takes.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// How long it counts.
    pub counted: Duration,
    /// How long it runs before.
    pub warm_up: Duration,
}

/// Keeps the calling thread on one core.
pub(super) fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Runs both on `core`, each on a thread of its own. The client's failure is the one that is told, since the server's
/// usually follows from it.
fn with_server<T: Send>(
    core: usize,
    server: impl FnOnce(&AtomicBool) -> io::Result<()> + Send,
    client: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| pin(core).and_then(|()| server(&done)));
        let client = scope.spawn(|| {
            let found = pin(core).and_then(|()| client());
            done.store(true, Ordering::Relaxed);
            found
        });
        let found = client.join().map_err(panicked).flatten();
        let served = server.join().map_err(panicked).flatten();
        found.and_then(|found| served.map(|()| found))
    })
}

fn panicked<T>(_: T) -> io::Error {
    io::Error::other("a measuring thread panicked")
}

/// Does something again and again, for warm-up and slice; nanoseconds of each time in the slice. The clock is read once
/// a time.
fn record(slice: Slice, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Histogram<u64>> {
    let mut times = stats::histogram()?;
    let begin = Instant::now();
    let (start, end) = (begin + slice.warm_up, begin + slice.warm_up + slice.counted);
    let mut before = begin;
    loop {
        once()?;
        let now = Instant::now();
        if now >= end && !times.is_empty() {
            return Ok(times);
        }
        if now >= start {
            times.record((now - before).as_nanos() as u64).map_err(io::Error::other)?;
        }
        before = now;
    }
}
