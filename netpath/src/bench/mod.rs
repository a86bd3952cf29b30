//! The benchmark: round trips of several modes side by side, interleaved and pinned to one core.
//!
//! Wake-ups between cores dominate an unpinned round trip and differ from run to run; on one core what is left is the
//! path of the packet. Modes take turns within each round, and ratios are taken within a round before the median over
//! rounds is, so that a noisy second moves all modes of its round and no ratio.

pub mod modes;
mod rr;
pub mod sockets;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, net::Ipv4Addr, time::Duration};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::net::Netns;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Two pods of one node.
    PodPod,
    /// A pod and a server behind the node's router.
    PodOutside,
}

impl Path {
    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodPod => "pod-pod",
            Self::PodOutside => "pod-outside",
        }
    }

    /// Protocols measured on it.
    const fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::PodPod => &[Protocol::Tcp, Protocol::Udp, Protocol::Icmp],
            Self::PodOutside => &[Protocol::Tcp, Protocol::Udp],
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// One byte each way on one connection, TCP_NODELAY.
    Tcp,
    /// One byte each way.
    Udp,
    /// Echo, answered by the peer's kernel.
    Icmp,
}

impl Protocol {
    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A network to be measured.
pub trait Mode: Send + Sync {
    /// Stable name, as in JSON.
    fn name(&self) -> &'static str;

    /// Who talks to whom on this path; `None` if the mode does not have it.
    fn pair(&self, path: Path) -> Option<Pair<'_>>;
}

/// Two namespaces that talk.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who asks.
    pub client: &'a Netns,
    /// Who answers.
    pub server: &'a Netns,
    /// The server's address, as the client reaches it.
    pub address: Ipv4Addr,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns each case gets.
    pub rounds: usize,
    /// How long a turn counts.
    pub slice: Duration,
    /// How long a turn runs before it counts.
    pub warm_up: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { rounds: 7, slice: Duration::from_millis(200), warm_up: Duration::from_millis(20) }
    }
}

/// One row of the latency table. Times are of whole round trips.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the mode.
    pub mode: &'static str,
    /// Name of the path.
    pub path: &'static str,
    /// Name of the protocol.
    pub protocol: &'static str,
    /// Median over all round trips of all rounds, microseconds.
    pub median_us: f64,
    /// 99th percentile of the same, microseconds.
    pub p99_us: f64,
    /// To mode `direct` on the same path; `None` if that was not measured.
    pub ratio_direct: Option<f64>,
    /// To mode `bridge` on the same path; `None` if that was not measured.
    pub ratio_bridge: Option<f64>,
}

/// A case that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("measuring {mode} {path} {protocol}, round {round}: {reason}")]
pub struct Failure {
    /// Name of the mode.
    pub mode: &'static str,
    /// Name of the path.
    pub path: &'static str,
    /// Name of the protocol.
    pub protocol: &'static str,
    /// Round in which it failed, from 1.
    pub round: usize,
    /// The kernel's reason.
    pub reason: String,
}

/// What [`run`] found.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Cases measured, in order of path, protocol, mode.
    pub rows: Vec<Row>,
    /// Cases given up.
    pub failures: Vec<Failure>,
}

/// One mode on one path with one protocol.
struct Case<'a> {
    mode: &'static str,
    path: Path,
    protocol: Protocol,
    pair: Pair<'a>,
    /// Median of each round, nanoseconds.
    medians: Vec<f64>,
    all: Histogram<u64>,
    failure: Option<Failure>,
}

impl Case<'_> {
    fn measure(&mut self, plan: &Plan, core: usize) -> io::Result<()> {
        let round = match self.protocol {
            Protocol::Tcp => rr::tcp(&self.pair, plan, core),
            Protocol::Udp => rr::udp(&self.pair, plan, core),
            Protocol::Icmp => rr::icmp(&self.pair, plan, core),
        }?;
        self.medians.push(round.value_at_quantile(0.5) as f64);
        self.all.add(&round).map_err(io::Error::other)
    }

    fn row(&self, bases: &BTreeMap<(Path, Protocol, &str), &[f64]>) -> Row {
        let ratio = |base| {
            let base = bases.get(&(self.path, self.protocol, base))?;
            stats::median_ratio(&self.medians, base)
        };
        Row {
            mode: self.mode,
            path: self.path.name(),
            protocol: self.protocol.name(),
            median_us: stats::micros(self.all.value_at_quantile(0.5)),
            p99_us: stats::micros(self.all.value_at_quantile(0.99)),
            ratio_direct: ratio("direct"),
            ratio_bridge: ratio("bridge"),
        }
    }
}

/// Measures every path and protocol of every mode, moving `progress` by one a turn. Blocks for about
/// rounds × cases × (slice + warm-up). A case that fails is given up; the others go on.
///
/// # Errors
/// If this process may not run on any core, or a histogram cannot be made.
pub fn run(modes: &[&dyn Mode], plan: &Plan, progress: &ProgressBar) -> io::Result<Measured> {
    let core = rr::core()?;
    let mut cases = cases(modes)?;
    progress.set_length((cases.len() * plan.rounds) as u64);
    for round in 1..=plan.rounds {
        for case in &mut cases {
            progress.set_message(format!("{} {} {}", case.path.name(), case.protocol.name(), case.mode));
            if case.failure.is_none()
                && let Err(error) = case.measure(plan, core)
            {
                let (mode, path, protocol) = (case.mode, case.path.name(), case.protocol.name());
                case.failure =
                    Some(Failure { mode, path, protocol, round, reason: sockets::explain(&error) });
            }
            progress.inc(1);
        }
    }
    Ok(summary(cases))
}

/// Cases in the order of their turns: modes of one path and protocol next to each other.
fn cases<'a>(modes: &[&'a dyn Mode]) -> io::Result<Vec<Case<'a>>> {
    let mut cases = Vec::new();
    for path in [Path::PodPod, Path::PodOutside] {
        for &protocol in path.protocols() {
            for mode in modes {
                let Some(pair) = mode.pair(path) else { continue };
                let (all, medians) = (stats::histogram()?, Vec::new());
                cases.push(Case { mode: mode.name(), path, protocol, pair, medians, all, failure: None });
            }
        }
    }
    Ok(cases)
}

fn summary(cases: Vec<Case<'_>>) -> Measured {
    let (good, bad): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.failure.is_none());
    let bases = good.iter().map(|c| ((c.path, c.protocol, c.mode), c.medians.as_slice())).collect();
    let rows = good.iter().map(|case| case.row(&bases)).collect();
    Measured { rows, failures: bad.into_iter().filter_map(|case| case.failure).collect() }
}
