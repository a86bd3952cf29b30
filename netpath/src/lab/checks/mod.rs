//! The connectivity matrix: real sockets in real namespaces, one row a check.
//!
//! A check is a function from a [`Scene`] to what was seen; `ROWS` is the one list.

mod arp;
mod exchange;
mod inbound;
mod nd;
pub(super) mod nodes;
mod outside;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::runtime::Handle;

use self::exchange::{icmp, tcp, udp};
use super::topology::{self, Topology};
use crate::{
    api::{client::Client, types::Pod},
    bench::stats,
    model::Family,
    net::Netns,
};

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Median of whole round trips, microseconds; `None` where there is none.
    pub rtt_us: Option<f64>,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// A row for something that went wrong outside the matrix.
    pub(super) fn failed(name: String, detail: String) -> Self {
        Self { name, ok: false, rtt_us: None, detail }
    }
}

/// A pod of the lab.
#[derive(Clone, Debug)]
pub struct LabPod {
    /// As the agent told it.
    pub pod: Pod,
    /// Its namespace.
    pub netns: Arc<Netns>,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
}

impl LabPod {
    /// Opens a pod's namespace. The pod's path must mean the same here as for the agent.
    ///
    /// # Errors
    /// In words: no IPv4 address, or no namespace.
    pub fn open(pod: Pod) -> Result<Self, String> {
        let address = pod.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let address = address.ok_or_else(|| format!("pod {} has no IPv4 address", pod.name))?;
        let netns = Netns::open(pod.netns.as_ref()).map_err(|error| error.to_string())?;
        Ok(Self { pod, netns: Arc::new(netns), address })
    }

    /// Its address of a family.
    ///
    /// # Errors
    /// In words, if it has none.
    pub fn at(&self, family: Family) -> Result<IpAddr, String> {
        let found = self.pod.addresses.iter().find(|address| Family::of(**address) == family);
        found.copied().ok_or_else(|| format!("pod {} has no {family} address", self.pod.name))
    }

    /// Largest payload of a UDP datagram that needs no fragments.
    fn datagram(&self, family: Family) -> usize {
        let headers = match family {
            Family::V4 => 28,
            Family::V6 => 48,
        };
        self.pod.mtu as usize - headers
    }
}

/// Where the checks play. They block, so they run on a blocking thread of the runtime that `runtime` belongs to.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Node, router and outside.
    pub topology: Arc<Topology>,
    /// At least three pods on the node.
    pub pods: Vec<LabPod>,
    /// The node's agent.
    pub client: Client,
    /// Runtime that the topology's netlink sockets live on.
    pub runtime: Handle,
}

impl Scene {
    /// Drop counters by reason, and traffic counters by class.
    fn counters(&self) -> Result<Counters, String> {
        Counters::of(&self.client, &self.runtime)
    }
}

/// Packets by drop reason and traffic class. Reasons are CamelCase and classes lower case, so one map holds both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Those of a node.
    fn of(client: &Client, runtime: &Handle) -> Result<Self, String> {
        let drops = runtime.block_on(client.drops()).map_err(|error| error.to_string())?;
        let status = runtime.block_on(client.status()).map_err(|error| error.to_string())?;
        let mut counters = Self::default();
        counters.0.extend(drops.into_iter().map(|drop| (drop.reason, drop.packets)));
        counters.0.extend(status.traffic.into_iter().map(|traffic| (traffic.class, traffic.packets)));
        Ok(counters)
    }

    /// Adds those of another node.
    fn add(&mut self, other: Self) {
        for (name, packets) in other.0 {
            *self.0.entry(name).or_default() += packets;
        }
    }

    /// How much `name` grew since `before`.
    fn growth(&self, before: &Self, name: &str) -> u64 {
        let at = |counters: &Self| counters.0.get(name).copied().unwrap_or(0);
        at(self).saturating_sub(at(before))
    }

    /// Everything that grew since `before`, in words.
    fn explain(&self, before: &Self) -> String {
        let grown =
            self.0.keys().map(|name| (name, self.growth(before, name))).filter(|(_, growth)| *growth > 0);
        let words: Vec<String> = grown.map(|(name, growth)| format!("{name} +{growth}")).collect();
        if words.is_empty() { "netpath's programs counted no packet".into() } else { words.join(", ") }
    }
}

/// What a check that is fine has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Whole round trips.
    times: Vec<Duration>,
    detail: String,
}

impl Seen {
    fn new(times: Vec<Duration>, detail: impl Into<String>) -> Self {
        Self { times, detail: detail.into() }
    }

    fn rtt_us(&self) -> Option<f64> {
        let micros: Vec<f64> = self.times.iter().map(|time| time.as_nanos() as f64 / 1000.0).collect();
        stats::median(&micros).map(|median| (median * 100.0).round() / 100.0)
    }
}

/// Fine, or what is wrong.
type Verdict = Result<Seen, String>;

/// One megabyte, the size of the large exchanges.
const MB: usize = 1_000_000;

/// A row: its name, the families it is made for, and what it does.
type Row = (&'static str, &'static [Family], fn(&Scene, Family) -> Verdict);

const BOTH: &[Family] = &[Family::V4, Family::V6];

/// All checks, in order: those over IPv4 first.
const ROWS: &[Row] = &[
    ("pod loopback, ICMP", BOTH, |s, f| icmp(&s.pods[0].netns, loopback(f))),
    ("pod loopback, TCP", BOTH, |s, f| tcp(&s.pods[0].netns, &s.pods[0].netns, loopback(f), 1)),
    ("pod → gateway 169.254.1.1, ARP", &[Family::V4], |s, _| arp::gateway(s)),
    ("pod → gateway fe80::1, neighbour discovery", &[Family::V6], |s, _| nd::gateway(s)),
    ("pod → pod, ICMP", BOTH, |s, f| icmp(&s.pods[0].netns, s.pods[1].at(f)?)),
    ("pod → pod, TCP 1 byte", BOTH, |s, f| tcp(&s.pods[0].netns, &s.pods[1].netns, s.pods[1].at(f)?, 1)),
    ("pod → pod, TCP 1 MB", BOTH, |s, f| tcp(&s.pods[1].netns, &s.pods[2].netns, s.pods[2].at(f)?, MB)),
    ("pod → pod, UDP 1 byte", BOTH, |s, f| udp(&s.pods[0].netns, &s.pods[1].netns, s.pods[1].at(f)?, 1, 1)),
    ("pod → pod, UDP 1 MB", BOTH, |s, f| {
        udp(&s.pods[2].netns, &s.pods[0].netns, s.pods[0].at(f)?, MB, s.pods[2].datagram(f))
    }),
    ("pod → itself, ICMP", BOTH, |s, f| icmp(&s.pods[0].netns, s.pods[0].at(f)?)),
    ("pod → itself, TCP", BOTH, |s, f| tcp(&s.pods[0].netns, &s.pods[0].netns, s.pods[0].at(f)?, 1)),
    ("node → pod, ICMP", BOTH, |s, f| icmp(&s.topology.node.netns, s.pods[0].at(f)?)),
    ("node → pod, TCP", BOTH, |s, f| tcp(&s.topology.node.netns, &s.pods[0].netns, s.pods[0].at(f)?, 1)),
    ("node → pod, UDP", BOTH, |s, f| udp(&s.topology.node.netns, &s.pods[0].netns, s.pods[0].at(f)?, 1, 1)),
    ("pod → node, ICMP", BOTH, |s, f| icmp(&s.pods[0].netns, topology::node(f))),
    ("pod → node, TCP", BOTH, |s, f| tcp(&s.pods[0].netns, &s.topology.node.netns, topology::node(f), 1)),
    ("pod → node, UDP", BOTH, |s, f| {
        udp(&s.pods[0].netns, &s.topology.node.netns, topology::node(f), 1, 1)
    }),
    ("pod → outside, ICMP", BOTH, outside::icmp),
    ("pod → outside, TCP 1 byte", BOTH, |s, f| outside::tcp(s, f, 1)),
    ("pod → outside, TCP 1 MB", BOTH, |s, f| outside::tcp(s, f, MB)),
    ("pod → outside, UDP 1 byte", BOTH, |s, f| outside::udp(s, f, 1, 1)),
    ("pod → outside, UDP 1 MB", BOTH, |s, f| outside::udp(s, f, MB, s.pods[0].datagram(f))),
    ("two pods, one source port → outside, TCP", BOTH, outside::same_port_tcp),
    ("two pods, one source port → outside, UDP", BOTH, outside::same_port_udp),
    ("outside → pod, no route", BOTH, inbound::unrouted),
    ("outside → pod, routed via the node: refused", BOTH, inbound::routed),
];

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The checks one after another: name, family, function.
fn all() -> impl Iterator<Item = (String, Family, fn(&Scene, Family) -> Verdict)> {
    let of = |family: Family| {
        let rows = ROWS.iter().filter(move |(_, families, _)| families.contains(&family));
        rows.map(move |&(name, _, function)| match family {
            Family::V4 => (name.to_owned(), family, function),
            Family::V6 => (format!("{name}, ipv6"), family, function),
        })
    };
    of(Family::V4).chain(of(Family::V6))
}

/// How many checks [`run`] makes.
pub fn count() -> usize {
    all().count()
}

/// Makes all checks, calling `done` after each. Blocks; see [`Scene`].
pub fn run(scene: &Scene, mut done: impl FnMut(&Check)) -> Vec<Check> {
    let checks = all().map(|(name, family, function)| {
        let check = check(scene, &name, || function(scene, family));
        done(&check);
        check
    });
    checks.collect()
}

fn check(scene: &Scene, name: &str, function: impl FnOnce() -> Verdict) -> Check {
    explained(name, || scene.counters(), function)
}

/// Makes a check; if it fails, what was counted meanwhile is told with it.
fn explained(
    name: &str,
    counters: impl Fn() -> Result<Counters, String>,
    function: impl FnOnce() -> Verdict,
) -> Check {
    let before = counters();
    match function() {
        Ok(seen) => Check { name: name.into(), ok: true, rtt_us: seen.rtt_us(), detail: seen.detail },
        Err(reason) => {
            let counted = match (before, counters()) {
                (Ok(before), Ok(after)) => after.explain(&before),
                (Err(error), _) | (_, Err(error)) => format!("no counters: {error}"),
            };
            Check::failed(name.into(), format!("{reason} [{counted}]"))
        }
    }
}
