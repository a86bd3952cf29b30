//! What can be measured between any two namespaces that talk, as a list.

use std::io;

use super::{
    Mode, Pair,
    load::{
        Cores, Slice, crr,
        flood::{self, Count},
        rotate, rr,
    },
    names::{Path, Protocol, Unit, Workload},
    series::Turn,
};

/// A datagram that fills a packet of 1,500 bytes over IPv4.
const FULL: usize = 1472;
/// A datagram in an Ethernet frame of 64 bytes with its checksum, the smallest: 64 - 14 - 20 - 8 - 4.
pub(super) const SMALL: usize = 18;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Bytes each way.
    Rr(Protocol, usize),
    /// One byte each way over UDP, each time in another of so many flows.
    Rotate(u64),
    Crr,
    /// Connections side by side.
    Stream(Protocol, u64),
    Pps,
}

impl Task {
    pub(super) const fn workload(self) -> Workload {
        match self {
            Self::Rr(..) | Self::Rotate(_) => Workload::Rr,
            Self::Crr => Workload::Crr,
            Self::Stream(..) => Workload::Stream,
            Self::Pps => Workload::Pps,
        }
    }

    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Rr(protocol, _) | Self::Stream(protocol, _) => protocol,
            Self::Crr => Protocol::Tcp,
            Self::Pps | Self::Rotate(_) => Protocol::Udp,
        }
    }

    /// What varies, and how much of it.
    pub(super) const fn variation(self) -> Option<(&'static str, u64)> {
        match self {
            Self::Rr(_, size) => Some(("bytes", size as u64)),
            Self::Stream(_, connections) => Some(("connections", connections)),
            Self::Rotate(flows) => Some(("flows", flows)),
            Self::Crr | Self::Pps => None,
        }
    }

    pub(super) const fn unit(self) -> Unit {
        match self {
            Self::Rr(..) | Self::Rotate(_) => Unit::Micros,
            Self::Crr => Unit::Connections,
            Self::Stream(..) => Unit::Gigabits,
            Self::Pps => Unit::Packets,
        }
    }

    /// Echo is answered by kernels, and tells what users feel of a path between pods only. IPv6 is measured where most of the
    /// work differs: between pods, and translated on the way to outside. Datagrams that fill a packet would be cut in two where
    /// packets go by a tunnel.
    pub(super) fn suits(self, path: Path) -> bool {
        let between_pods = matches!(path, Path::PodPod | Path::PodPodRemote);
        match self {
            Self::Rr(Protocol::Icmp, _) => between_pods,
            Self::Rr(Protocol::Udp, FULL) | Self::Stream(Protocol::Udp, _) => path != Path::PodPodRemote,
            _ if self.protocol().is_v6() => between_pods || path == Path::PodOutside,
            _ => true,
        }
    }

    /// Who talks, in a mode that has this path.
    pub(super) fn pair(self, mode: &dyn Mode, path: Path) -> Option<Pair<'_>> {
        if self.protocol().is_v6() { mode.pair_v6(path).ok() } else { mode.pair(path).ok() }
    }

    /// One turn. Blocks for about slice and warm-up.
    ///
    /// # Errors
    /// What the kernel says, on either side.
    pub(super) fn turn(self, pair: &Pair<'_>, slice: Slice, cores: Cores) -> io::Result<Turn> {
        match self {
            Self::Rr(Protocol::Tcp | Protocol::Tcp6, size) => {
                rr::tcp(pair, size, slice, cores).map(Turn::median)
            }
            Self::Rr(Protocol::Udp | Protocol::Udp6, size) => {
                rr::udp(pair, size, slice, cores).map(Turn::median)
            }
            Self::Rr(Protocol::Icmp, _) => rr::icmp(pair, slice, cores).map(Turn::median),
            Self::Rotate(flows) => rotate::udp(pair, flows, slice, cores).map(Turn::median),
            Self::Crr => crr::tcp(pair, slice, cores),
            Self::Stream(Protocol::Udp, connections) => {
                flood::udp(pair, connections, FULL, Count::Bits, slice, cores)
            }
            Self::Stream(_, connections) => flood::tcp(pair, connections, slice, cores),
            Self::Pps => flood::udp(pair, 1, SMALL, Count::Packets, slice, cores),
        }
    }
}

/// Round trips of the smallest messages: what a lab shows.
pub(super) const LATENCY: &[Task] = &[
    Task::Rr(Protocol::Tcp, 1),
    Task::Rr(Protocol::Udp, 1),
    Task::Rr(Protocol::Icmp, super::sockets::Pinger::PAYLOAD.len()),
];

/// What is measured beside [`LATENCY`].
const QUICK: &[Task] = &[
    Task::Rr(Protocol::Tcp6, 1),
    Task::Rr(Protocol::Udp6, 1),
    Task::Crr,
    Task::Stream(Protocol::Tcp, 1),
    Task::Stream(Protocol::Tcp, 16),
    Task::Stream(Protocol::Udp, 1),
    Task::Pps,
];

/// What is measured beside [`QUICK`] when there is time.
const FULL_ONLY: &[Task] = &[
    Task::Rr(Protocol::Tcp, 1024),
    Task::Rr(Protocol::Tcp, 16 * 1024),
    Task::Rr(Protocol::Udp, 512),
    Task::Rr(Protocol::Udp, FULL),
    Task::Stream(Protocol::Udp, 16),
];

/// The list for some workloads.
pub(super) fn tasks(quick: bool, workloads: &[Workload]) -> Vec<Task> {
    let more = if quick { &[] } else { FULL_ONLY };
    let all = LATENCY.iter().chain(QUICK).chain(more).copied();
    all.filter(|task| workloads.contains(&task.workload())).collect()
}
