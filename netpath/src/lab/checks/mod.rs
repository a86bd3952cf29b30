//! The connectivity matrix: real sockets in real namespaces, one row a check.
//!
//! A check is a function from a [`Scene`] to what was seen; `ROWS` is the one list.

mod arp;
mod exchange;
mod inbound;
mod outside;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::runtime::Handle;

use self::exchange::{icmp, tcp, udp};
use super::topology::{NODE, Topology};
use crate::{
    api::{client::Client, types::Pod},
    bench::stats,
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
    /// Its first address.
    pub address: Ipv4Addr,
}

impl LabPod {
    /// Opens a pod's namespace. The pod's path must mean the same here as for the agent.
    ///
    /// # Errors
    /// In words: no IPv4 address, or no namespace.
    pub fn open(pod: Pod) -> Result<Self, String> {
        let address = pod.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let address = address.ok_or_else(|| format!("pod {} has no IPv4 address", pod.name))?;
        let netns = Netns::open(pod.netns.as_ref()).map_err(|error| error.to_string())?;
        Ok(Self { pod, netns: Arc::new(netns), address })
    }

    /// Largest payload of a UDP datagram that needs no fragments.
    fn datagram(&self) -> usize {
        self.pod.mtu as usize - 28
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
        let drops = self.runtime.block_on(self.client.drops()).map_err(|error| error.to_string())?;
        let status = self.runtime.block_on(self.client.status()).map_err(|error| error.to_string())?;
        let mut counters = Counters::default();
        counters.0.extend(drops.into_iter().map(|drop| (drop.reason, drop.packets)));
        counters.0.extend(status.traffic.into_iter().map(|traffic| (traffic.class, traffic.packets)));
        Ok(counters)
    }
}

/// Packets by drop reason and traffic class. Reasons are CamelCase and classes lower case, so one map holds both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counters(BTreeMap<String, u64>);

impl Counters {
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

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// All checks, in order.
type Row = (&'static str, fn(&Scene) -> Verdict);
const ROWS: &[Row] = &[
    ("pod loopback, ICMP", |s| icmp(&s.pods[0].netns, LOOPBACK)),
    ("pod loopback, TCP", |s| tcp(&s.pods[0].netns, &s.pods[0].netns, LOOPBACK, 1)),
    ("pod → gateway 169.254.1.1, ARP", arp::gateway),
    ("pod → pod, ICMP", |s| icmp(&s.pods[0].netns, s.pods[1].address)),
    ("pod → pod, TCP 1 byte", |s| tcp(&s.pods[0].netns, &s.pods[1].netns, s.pods[1].address, 1)),
    ("pod → pod, TCP 1 MB", |s| tcp(&s.pods[1].netns, &s.pods[2].netns, s.pods[2].address, MB)),
    ("pod → pod, UDP 1 byte", |s| udp(&s.pods[0].netns, &s.pods[1].netns, s.pods[1].address, 1, 1)),
    ("pod → pod, UDP 1 MB", |s| {
        udp(&s.pods[2].netns, &s.pods[0].netns, s.pods[0].address, MB, s.pods[2].datagram())
    }),
    ("pod → itself, ICMP", |s| icmp(&s.pods[0].netns, s.pods[0].address)),
    ("pod → itself, TCP", |s| tcp(&s.pods[0].netns, &s.pods[0].netns, s.pods[0].address, 1)),
    ("node → pod, ICMP", |s| icmp(&s.topology.node.netns, s.pods[0].address)),
    ("node → pod, TCP", |s| tcp(&s.topology.node.netns, &s.pods[0].netns, s.pods[0].address, 1)),
    ("node → pod, UDP", |s| udp(&s.topology.node.netns, &s.pods[0].netns, s.pods[0].address, 1, 1)),
    ("pod → node, ICMP", |s| icmp(&s.pods[0].netns, NODE)),
    ("pod → node, TCP", |s| tcp(&s.pods[0].netns, &s.topology.node.netns, NODE, 1)),
    ("pod → node, UDP", |s| udp(&s.pods[0].netns, &s.topology.node.netns, NODE, 1, 1)),
    ("pod → outside, ICMP", outside::icmp),
    ("pod → outside, TCP 1 byte", |s| outside::tcp(s, 1)),
    ("pod → outside, TCP 1 MB", |s| outside::tcp(s, MB)),
    ("pod → outside, UDP 1 byte", |s| outside::udp(s, 1, 1)),
    ("pod → outside, UDP 1 MB", |s| outside::udp(s, MB, s.pods[0].datagram())),
    ("two pods, one source port → outside, TCP", outside::same_port_tcp),
    ("two pods, one source port → outside, UDP", outside::same_port_udp),
    ("outside → pod, no route", inbound::unrouted),
    ("outside → pod, routed via the node: refused", inbound::routed),
];

/// How many checks [`run`] makes.
pub const COUNT: usize = ROWS.len();

/// Makes all checks, calling `done` after each. Blocks; see [`Scene`].
pub fn run(scene: &Scene, mut done: impl FnMut(&Check)) -> Vec<Check> {
    let checks = ROWS.iter().map(|&(name, function)| {
        let check = check(scene, name, function);
        done(&check);
        check
    });
    checks.collect()
}

fn check(scene: &Scene, name: &str, function: fn(&Scene) -> Verdict) -> Check {
    let before = scene.counters();
    match function(scene) {
        Ok(seen) => Check { name: name.into(), ok: true, rtt_us: seen.rtt_us(), detail: seen.detail },
        Err(reason) => {
            let counted = match (before, scene.counters()) {
                (Ok(before), Ok(after)) => after.explain(&before),
                (Err(error), _) | (_, Err(error)) => format!("no counters: {error}"),
            };
            Check::failed(name.into(), format!("{reason} [{counted}]"))
        }
    }
}
