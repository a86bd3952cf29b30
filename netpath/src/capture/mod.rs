//! What a pod says and hears, before and after translation.
//!
//! Packets that netpath redirects pass by the host ends of the pods' links, where one would look for them. They are seen at
//! two places: on the pod's own interfaces, in its namespace, as the pod knows them; and on the uplinks, as the wire
//! does. A tap at each (`tap`) reads them; a packet of the wire is the pod's if FLOWS says so (`owner`), which has the
//! flow before its first packet leaves.

mod error;
mod file;
mod owner;
mod read;
mod tap;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

pub use self::{error::CaptureError, file::Pcapng, read::Tuple};
use self::{owner::Owner, read::Read, tap::Tap};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{Failure, FailureCode, Pod, Prefix, Protocol},
    },
    net::Netns,
};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// How often the pod is asked for, and the end of what it waits for.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for the agent's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to capture.
pub struct Options {
    /// The pod, as the agent told it.
    pub pod: Pod,
    /// The pod's network namespace, held open.
    pub netns: OwnedFd,
    /// Process id of the agent.
    pub agent: u32,
    /// Where its tables are pinned, as it sees it.
    pub pin_dir: String,
    /// The node's uplinks, by name.
    pub uplinks: Vec<String>,
    /// Only at these interfaces of the pod and uplinks; at all if empty.
    pub interfaces: Vec<String>,
    /// Most bytes of a packet that are kept.
    pub snaplen: u32,
    /// End after so many packets.
    pub count: Option<u64>,
    /// Which packets.
    pub filter: Filter,
}

/// Which packets are wanted: all of it must hold, at one side of the translation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// This protocol.
    pub protocol: Option<Protocol>,
    /// This port, as source or destination; the identifier of an echo.
    pub port: Option<u16>,
    /// This address or prefix, as source or destination.
    pub host: Option<Prefix>,
}

impl Filter {
    /// Whether a packet is wanted that is one tuple here and another beyond the translation.
    fn wants(&self, tuples: &[Option<Tuple>]) -> bool {
        let has = |tuple: &Tuple| {
            self.protocol.is_none_or(|protocol| protocol.0 == tuple.protocol)
                && self.port.is_none_or(|port| port == tuple.source.1 || port == tuple.destination.1)
                && self.host.is_none_or(|Prefix(host)| {
                    host.contains(&tuple.source.0) || host.contains(&tuple.destination.0)
                })
        };
        let is_open = self.protocol.is_none() && self.port.is_none() && self.host.is_none();
        is_open || tuples.iter().flatten().any(has)
    }
}

/// A place where packets are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// `POD/INTERFACE`, or an uplink's name.
    pub name: String,
    /// Whether it is an uplink.
    pub is_uplink: bool,
}

/// A packet that was seen.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Number of the point.
    pub point: usize,
    /// Whether it leaves by the interface, else it comes in.
    pub outgoing: bool,
    /// When, since 1970.
    pub time: Duration,
    /// The frame, cut off at the wanted length.
    pub frame: Vec<u8>,
    /// Its whole length, bytes.
    pub length: u32,
    /// What it is, if it is IP.
    pub tuple: Option<Tuple>,
    /// What the pod has it as, where that is something else.
    pub in_pod: Option<Tuple>,
    /// TCP's flags as `S`, `F`, `R`, `P` and `.`; empty for other protocols.
    pub flags: String,
}

/// Where captured packets go.
pub trait Sink {
    /// Takes one.
    ///
    /// # Errors
    /// If it cannot be written; that ends the capture.
    fn take(&mut self, points: &[Point], packet: &Captured) -> Result<(), CaptureError>;
}

/// Why a capture ended, and what it has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets that were wanted.
    pub packets: u64,
    /// Packets that the kernel had no room for.
    pub lost: u64,
    /// Whether the pod, or one of its interfaces, is gone.
    pub pod_gone: bool,
}

/// A capture that listens.
pub struct Capture {
    points: Vec<Point>,
    taps: Vec<Tap>,
    owner: Owner,
    filter: Filter,
    count: u64,
    pod: Pod,
    signals: SignalFd,
}

impl Capture {
    /// Listens from now on. Call it before the process has other threads: SIGINT and SIGTERM are taken from the usual way to
    /// end.
    ///
    /// # Errors
    /// [`CaptureError`], with what was being done.
    pub fn open(options: Options) -> Result<Self, CaptureError> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let waiting = |errno: nix::Error| CaptureError::new("waiting for signals", errno);
        signals.thread_block().map_err(waiting)?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(waiting)?;
        let agent = PathBuf::from(format!("/proc/{}", options.agent));
        // bpffs is mounted where the agent is.
        let owner = Owner::open(&agent.join(format!("root{}", options.pin_dir)), &options.pod)?;
        let (points, taps) = listen(&options, &Netns::open(&agent.join("ns/net"))?)?;
        let count = options.count.unwrap_or(u64::MAX);
        Ok(Self { points, taps, owner, filter: options.filter, count, pod: options.pod, signals })
    }

    /// The places where it listens, by number.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Hands packets on until there are enough, a signal comes or the pod is gone. The agent may come and go.
    ///
    /// # Errors
    /// The sink's, or the kernel's.
    pub fn run(mut self, client: Client, sink: &mut dyn Sink) -> Result<Summary, CaptureError> {
        let mut summary = Summary::default();
        let gone = watch(client, self.pod.clone());
        while summary.packets < self.count {
            let is_asked_to_end = self.wait()?;
            summary.pod_gone = gone.load(Ordering::Relaxed);
            if is_asked_to_end || summary.pod_gone {
                // What there is when the end comes is still the capture's.
                let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                while self.hand_on(&mut summary, sink)?.is_some_and(|last| last < end) {}
                break;
            }
            self.hand_on(&mut summary, sink)?;
        }
        summary.lost = self.taps.iter().map(Tap::lost).sum();
        Ok(summary)
    }

    /// Hands on some of the packets that are there; returns when the last of them was seen.
    fn hand_on(
        &mut self,
        summary: &mut Summary,
        sink: &mut dyn Sink,
    ) -> Result<Option<Duration>, CaptureError> {
        let mut seen = Vec::new();
        for tap in &mut self.taps {
            tap.read(&mut seen)?;
        }
        // Two sockets are read one after the other.
        seen.sort_by_key(|packet: &Captured| packet.time);
        let last = seen.last().map(|packet| packet.time);
        for packet in seen {
            if summary.packets < self.count
                && let Some(packet) = self.wanted(packet)?
            {
                sink.take(&self.points, &packet)?;
                summary.packets += 1;
            }
        }
        Ok(last)
    }

    /// Waits for packets, a moment at most. Returns whether a signal has come.
    fn wait(&self) -> Result<bool, CaptureError> {
        let mut ready: Vec<_> =
            self.taps.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
        ready.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        let moment = u16::try_from(LOOK.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut ready, moment) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(CaptureError::new("waiting for packets", errno)),
        }
        Ok(ready.last().and_then(PollFd::any).unwrap_or(false))
    }

    /// The packet with what is known of it, if it is the pod's and wanted.
    fn wanted(&mut self, mut packet: Captured) -> Result<Option<Captured>, CaptureError> {
        let read = Read::of(&packet.frame);
        if self.points[packet.point].is_uplink {
            let Some(read) = &read else { return Ok(None) };
            let Some(in_pod) = self.owner.in_pod(read)? else { return Ok(None) };
            packet.in_pod = Some(in_pod).filter(|in_pod| *in_pod != read.tuple);
        }
        packet.tuple = read.as_ref().map(|read| read.tuple);
        packet.flags = read.map(|read| read.flags).unwrap_or_default();
        let is_wanted = self.filter.wants(&[packet.tuple, packet.in_pod]);
        Ok(is_wanted.then_some(packet))
    }
}

/// Taps in the pod and the node, and their points.
fn listen(options: &Options, node: &Netns) -> Result<(Vec<Point>, Vec<Tap>), CaptureError> {
    let pod = Netns::open(Path::new(&format!("/proc/self/fd/{}", options.netns.as_raw_fd())))?;
    let in_pod: Vec<_> = options.pod.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let uplinks: Vec<_> = options.uplinks.iter().map(String::as_str).collect();
    let there = [in_pod.join(", "), uplinks.join(", ")].join(", ");
    let (mut points, mut taps) = (Vec::new(), Vec::new());
    for (netns, mut names, is_uplink) in [(&pod, in_pod, false), (node, uplinks, true)] {
        names
            .retain(|name| options.interfaces.is_empty() || options.interfaces.iter().any(|one| one == name));
        if names.is_empty() {
            continue;
        }
        taps.push(Tap::open(netns, &names, points.len(), options.snaplen)?);
        points.extend(names.iter().map(|name| Point {
            name: if is_uplink { (*name).to_owned() } else { format!("{}/{name}", options.pod.name) },
            is_uplink,
        }));
    }
    if points.is_empty() {
        return Err(CaptureError::NoPoint { wanted: options.interfaces.join(", "), there });
    }
    Ok((points, taps))
}

/// Looks for the pod again and again on a thread that ends with the process; tells when it is gone, or its links were made
/// anew. An agent that does not answer tells nothing.
fn watch(client: Client, pod: Pod) -> Arc<AtomicBool> {
    let gone = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&gone);
    let client = client.with_patience(PATIENCE);
    let look = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        loop {
            let is_gone = match runtime.block_on(client.pod(&pod.name)) {
                Ok(now) => now.interfaces != pod.interfaces || now.netns != pod.netns,
                Err(ClientError::Refused(Failure { code: FailureCode::NotFound, .. })) => true,
                Err(_) => false,
            };
            if is_gone {
                tell.store(true, Ordering::Relaxed);
                return;
            }
            thread::sleep(LOOK);
        }
    };
    thread::spawn(look);
    gone
}
