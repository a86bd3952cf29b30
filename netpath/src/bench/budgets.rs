//! What netpath holds itself to, and whether a run shows that it does.

use serde::{Deserialize, Serialize};

use super::{
    Figure,
    figure::Question,
    modes,
    names::{Path, Protocol, Workload},
    table::number,
};

/// An interval that is less sure shows nothing.
pub(super) const SURE: f64 = 0.95;

/// What of a figure is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Median,
    Direct,
    Bridge,
    Peer,
    Empty,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A line of the design's table, for one protocol.
struct Budget {
    what: &'static str,
    /// Who is held to it.
    mode: &'static str,
    question: Question<'static>,
    of: Of,
    bound: Bound,
    /// Modes that show what is possible on the same question: they do less than netpath has to.
    limits: &'static [&'static str],
}

const fn question(workload: Workload, path: Option<Path>, protocol: Option<Protocol>) -> Question<'static> {
    let path = match path {
        Some(path) => Some(path.name()),
        None => None,
    };
    let protocol = match protocol {
        Some(protocol) => Some(protocol.name()),
        None => None,
    };
    Question { workload: workload.name(), path, protocol, variant: None, amount: None }
}

/// Round trips of one byte.
const fn rr(what: &'static str, path: Path, protocol: Protocol, of: Of, limit: f64) -> Budget {
    let own = question(Workload::Rr, Some(path), Some(protocol));
    let question = Question { variant: Some("bytes"), amount: Some(1), ..own };
    let limits: &[&str] = match (path, of) {
        (_, Of::Direct | Of::Peer) => &[],
        (Path::PodPod, _) => &["direct"],
        _ => &["macvlan", "host"],
    };
    Budget { what, mode: "netpath", question, of, bound: Bound::AtMost(limit), limits }
}

/// The same between nodes, against the network that does it by other means.
const fn across(what: &'static str, mode: &'static str, protocol: Protocol) -> Budget {
    Budget { mode, ..rr(what, Path::PodPodRemote, protocol, Of::Peer, 0.85) }
}

const fn attach(what: &'static str, variant: &'static str) -> Budget {
    let question = Question { variant: Some(variant), ..question(Workload::Attach, None, None) };
    Budget { what, mode: "netpath", question, of: Of::Bridge, bound: Bound::AtMost(1.0 / 3.0), limits: &[] }
}

/// Round trips with 10,000 endpoints and 500,000 flows.
const fn scale(what: &'static str, path: Path, protocol: Protocol) -> Budget {
    let own = question(Workload::Scale, Some(path), Some(protocol));
    let question = Question { variant: Some("flows"), amount: Some(500_000), ..own };
    // Without tables: what it costs alone to ask in another flow each time.
    Budget { what, mode: "netpath", question, of: Of::Empty, bound: Bound::AtMost(1.05), limits: &["host"] }
}

const CONNECTIONS: Budget = Budget {
    what: "connections a second, pod to outside behind a router",
    mode: "netpath",
    question: question(Workload::Crr, Some(Path::PodOutside), Some(Protocol::Tcp)),
    of: Of::Bridge,
    bound: Bound::AtLeast(1.3),
    limits: &["macvlan", "host"],
};

const STREAM: Budget = Budget {
    what: "TCP stream pod to pod, one connection",
    mode: "netpath",
    question: Question {
        variant: Some("connections"),
        amount: Some(1),
        ..question(Workload::Stream, Some(Path::PodPod), Some(Protocol::Tcp))
    },
    of: Of::Direct,
    bound: Bound::AtLeast(0.95),
    limits: &[],
};

const FIRST: Budget = Budget {
    what: "first packet of a new pod, us",
    mode: "netpath",
    question: question(Workload::FirstPacket, Some(Path::PodPod), Some(Protocol::Udp)),
    of: Of::Median,
    bound: Bound::AtMost(1000.0),
    limits: &[],
};

/// The design's table, without what other tools measure (the sweep of flows, the agent's memory).
const BUDGETS: &[Budget] = &[
    rr("round trip pod to pod, TCP", Path::PodPod, Protocol::Tcp, Of::Direct, 1.05),
    rr("round trip pod to pod, UDP", Path::PodPod, Protocol::Udp, Of::Direct, 1.05),
    rr("round trip pod to pod, TCP", Path::PodPod, Protocol::Tcp, Of::Bridge, 0.87),
    rr("round trip pod to pod, UDP", Path::PodPod, Protocol::Udp, Of::Bridge, 0.87),
    rr(
        "round trip pod to outside on the uplink's link, TCP",
        Path::PodOnlink,
        Protocol::Tcp,
        Of::Bridge,
        0.85,
    ),
    rr(
        "round trip pod to outside on the uplink's link, UDP",
        Path::PodOnlink,
        Protocol::Udp,
        Of::Bridge,
        0.85,
    ),
    rr("round trip pod to outside behind a router, TCP", Path::PodOutside, Protocol::Tcp, Of::Bridge, 0.90),
    rr("round trip pod to outside behind a router, UDP", Path::PodOutside, Protocol::Udp, Of::Bridge, 0.90),
    across("round trip pod to pod of another node by direct routes, TCP", "netpath-direct", Protocol::Tcp),
    across("round trip pod to pod of another node by direct routes, UDP", "netpath-direct", Protocol::Udp),
    across("round trip pod to pod of another node by VXLAN, TCP", "netpath-vxlan", Protocol::Tcp),
    across("round trip pod to pod of another node by VXLAN, UDP", "netpath-vxlan", Protocol::Udp),
    CONNECTIONS,
    STREAM,
    FIRST,
    attach("adding a pod", "add"),
    attach("removing a pod", "remove"),
    scale("10,000 endpoints and 500,000 flows: round trip pod to pod, TCP", Path::PodPod, Protocol::Tcp),
    scale("10,000 endpoints and 500,000 flows: round trip pod to pod, UDP", Path::PodPod, Protocol::Udp),
    scale(
        "10,000 endpoints and 500,000 flows: round trip pod to outside, TCP",
        Path::PodOutside,
        Protocol::Tcp,
    ),
    scale(
        "10,000 endpoints and 500,000 flows: round trip pod to outside, UDP",
        Path::PodOutside,
        Protocol::Udp,
    ),
];

/// A budget and what a run has found. Names are stable: scripts rely on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// What is held to it, in words.
    pub what: String,
    /// Which mode is judged: one of netpath's.
    #[serde(default)]
    pub mode: String,
    /// What of it is judged: `ratio_direct`, `ratio_bridge`, `ratio_peer`, `ratio_empty`, or `median` in the figure's unit.
    pub of: String,
    /// `at most` or `at least`.
    pub bound: String,
    /// The bound.
    pub limit: f64,
    /// What was measured; null if nothing was.
    pub measured: Option<f64>,
    /// Where the true one lies: from here
    pub low: Option<f64>,
    /// to here,
    pub high: Option<f64>,
    /// with this probability.
    pub confidence: Option<f64>,
    /// `held` or `missed` if the whole interval is on that side of the limit and holds the true one with 95 % at least; else
    /// `cannot tell`.
    pub verdict: String,
    /// Of what is not held, why, as far as the run shows it.
    pub why: String,
}

impl Judged {
    /// The bound in words.
    pub(super) fn budget(&self) -> String {
        let to = match self.of.as_str() {
            "ratio_direct" => Some("direct"),
            "ratio_bridge" => Some("bridge"),
            "ratio_peer" => modes::peer(&self.mode),
            "ratio_empty" => Some("2 endpoints"),
            _ => None,
        };
        let to = to.map_or_else(String::new, |to| format!(", / {to}"));
        format!("{} {}{to}", self.bound, number(self.limit))
    }

    /// What was measured, with its interval.
    pub(super) fn seen(&self) -> String {
        match (self.measured, self.low, self.high) {
            (Some(measured), Some(low), Some(high)) => {
                format!("{} ({} to {})", digits(measured), digits(low), digits(high))
            }
            _ => "-".into(),
        }
    }
}

/// Ratios with three decimals: a budget is a matter of hundredths.
fn digits(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { number(value) }
}

/// Holds every budget against the figures.
pub(super) fn judge(figures: &[Figure]) -> Vec<Judged> {
    BUDGETS.iter().map(|budget| budget.judge(figures)).collect()
}

impl Budget {
    fn judge(&self, figures: &[Figure]) -> Judged {
        let of = |mode: &str| {
            let figure = figures.iter().find(|one| one.mode == mode && one.question() == self.question)?;
            Some((figure, self.of.values(figure)?))
        };
        let found = of(self.mode);
        let verdict = found.map_or("cannot tell", |(figure, values)| self.verdict(values, figure.confidence));
        let possible = self.limits.iter().filter_map(|mode| {
            let (_, (value, ..)) = of(mode)?;
            Some(format!("{mode} has {}", digits(value)))
        });
        let possible = possible.chain(self.bare(figures)).collect::<Vec<_>>().join(", ");
        let why = match (verdict, found) {
            ("held", _) => String::new(),
            (_, None) => "not measured in this run".into(),
            ("cannot tell", Some((figure, _))) if figure.confidence < SURE => {
                format!("too few rounds ({})", figure.rounds)
            }
            ("cannot tell", _) => "the interval spans the limit".into(),
            _ => possible,
        };
        let (bound, limit) = match self.bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::AtLeast(limit) => ("at least", limit),
        };
        Judged {
            what: self.what.into(),
            mode: self.mode.into(),
            of: self.of.name().into(),
            bound: bound.into(),
            limit,
            measured: found.map(|(_, (value, ..))| value),
            low: found.map(|(_, (_, low, _))| low),
            high: found.map(|(_, (.., high))| high),
            confidence: found.map(|(figure, _)| figure.confidence),
            verdict: verdict.into(),
            why,
        }
    }

    /// What the bare link between the nodes has beside the peer.
    fn bare(&self, figures: &[Figure]) -> Option<String> {
        let peer = modes::peer(self.mode)?;
        let peer = figures.iter().find(|one| one.mode == peer && one.question() == self.question)?;
        Some(format!("direct has {}", digits(1.0 / peer.ratio_direct.filter(|ratio| *ratio > 0.0)?)))
    }

    fn verdict(&self, (_, low, high): (f64, f64, f64), confidence: f64) -> &'static str {
        let (held, missed) = match self.bound {
            Bound::AtMost(limit) => (high <= limit, low > limit),
            Bound::AtLeast(limit) => (low >= limit, high < limit),
        };
        match (held, missed) {
            _ if confidence < SURE => "cannot tell",
            (true, _) => "held",
            (_, true) => "missed",
            _ => "cannot tell",
        }
    }
}

impl Of {
    /// Name of the figure's field.
    const fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::Direct => "ratio_direct",
            Self::Bridge => "ratio_bridge",
            Self::Peer => "ratio_peer",
            Self::Empty => "ratio_empty",
        }
    }

    /// The value with its interval.
    fn values(self, figure: &Figure) -> Option<(f64, f64, f64)> {
        match self {
            Self::Median => Some((figure.median, figure.ci_low, figure.ci_high)),
            Self::Direct => Some((figure.ratio_direct?, figure.ratio_direct_low?, figure.ratio_direct_high?)),
            Self::Bridge => Some((figure.ratio_bridge?, figure.ratio_bridge_low?, figure.ratio_bridge_high?)),
            Self::Peer => Some((figure.ratio_peer?, figure.ratio_peer_low?, figure.ratio_peer_high?)),
            Self::Empty => Some((figure.ratio_empty?, figure.ratio_empty_low?, figure.ratio_empty_high?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::testing::figure;

    /// Round trips pod to pod over TCP, of netpath to `direct`.
    fn judged(low: f64, measured: f64, high: f64, confidence: f64) -> Judged {
        let netpath = Figure {
            ratio_direct: Some(measured),
            ratio_direct_low: Some(low),
            ratio_direct_high: Some(high),
            confidence,
            ..figure("netpath", "rr", "pod-pod", Some(("bytes", 1)))
        };
        judge(&[netpath]).remove(0)
    }

    #[test]
    fn a_verdict_needs_the_whole_interval_and_rounds_enough() {
        for (values, verdict, why) in [
            ((1.0, 1.03, 1.05, 0.97), "held", ""),
            ((1.04, 1.05, 1.06, 0.97), "cannot tell", "the interval spans the limit"),
            ((1.06, 1.07, 1.08, 0.97), "missed", ""),
            ((1.0, 1.0, 1.0, 0.75), "cannot tell", "too few rounds (11)"),
        ] {
            let judged = judged(values.0, values.1, values.2, values.3);
            assert_eq!((judged.verdict.as_str(), judged.why.as_str()), (verdict, why), "{judged:?}");
            assert_eq!(judged.measured, Some(values.1));
            assert_eq!(judged.budget(), "at most 1.05, / direct");
        }
        let nothing = judge(&[]);
        assert!(nothing.iter().all(|one| one.verdict == "cannot tell" && one.measured.is_none()));
    }

    #[test]
    fn what_is_missed_tells_what_is_possible() {
        let rate = |mode, ratio: f64| Figure {
            ratio_bridge: Some(ratio),
            ratio_bridge_low: Some(ratio - 0.01),
            ratio_bridge_high: Some(ratio + 0.01),
            unit: "connections/s".into(),
            ..figure(mode, "crr", "pod-outside", None)
        };
        let all = [rate("netpath", 1.19), rate("macvlan", 1.34), rate("host", 1.37)];
        let judged = judge(&all).into_iter().find(|one| one.bound == "at least" && one.limit == 1.3).unwrap();
        assert_eq!(judged.verdict, "missed");
        assert_eq!(judged.why, "macvlan has 1.340, host has 1.370");
        assert_eq!(judged.seen(), "1.190 (1.180 to 1.200)");
    }

    #[test]
    fn between_nodes_the_peer_is_the_measure_and_the_bare_link_the_limit() {
        let one = |mode| figure(mode, "rr", "pod-pod-remote", Some(("bytes", 1)));
        let (ratio_peer, ratio_peer_low, ratio_peer_high) = (Some(0.9), Some(0.89), Some(0.91));
        let own = Figure { ratio_peer, ratio_peer_low, ratio_peer_high, ..one("netpath-vxlan") };
        let all = [Figure { ratio_direct: Some(2.5), ..one("vxlan") }, own];
        let mut judged: Vec<_> = judge(&all).into_iter().filter(|one| one.measured.is_some()).collect();
        let judged = judged.pop().unwrap();
        assert_eq!((judged.mode.as_str(), judged.verdict.as_str()), ("netpath-vxlan", "missed"));
        assert_eq!(judged.budget(), "at most 0.85, / vxlan");
        assert_eq!(judged.why, "direct has 0.400");
    }

    #[test]
    fn every_budget_asks_what_is_measured() {
        for budget in BUDGETS {
            let name = budget.question.path.unwrap_or("");
            assert!(name.is_empty() || Path::of(name).is_some(), "{}", budget.what);
            assert!(Workload::of(budget.question.workload).is_some(), "{}", budget.what);
        }
        let lines: Vec<_> = judge(&[]).iter().map(|one| (one.what.clone(), one.budget())).collect();
        let mut once = lines.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), lines.len(), "a line stands twice");
    }
}
