//! Several nodes: every node's pods to every node's, in both families, and each node's way to outside.

use std::{net::SocketAddr, thread, time::Duration};

use super::{
    Check, Counters, MB, Seen, Verdict,
    exchange::{self, Exchanged, icmp, tcp_exchange},
    explained, outside,
};
use crate::{
    lab::{
        nodes::{Cluster, Member, network::FAMILIES},
        topology,
    },
    model::Family,
};

/// How often outside tries a pod that the router may not know yet, and the pause between two tries: BIRD gives what it
/// learns to the kernel at once, and has hold-off times before.
const TRIES: (usize, Duration) = (40, Duration::from_millis(250));

/// A check to be made.
pub(in crate::lab) struct Job<'a> {
    /// What is checked.
    pub(in crate::lab) name: String,
    /// Who is asked what it counted, if it fails.
    nodes: [&'a Member; 2],
    run: Box<dyn Fn() -> Verdict + 'a>,
}

impl Job<'_> {
    /// Makes it. Blocks.
    pub(in crate::lab) fn check(&self, cluster: &Cluster) -> Check {
        explained(&self.name, || self.counters(cluster), || (self.run)())
    }

    /// What the nodes counted, both together.
    fn counters(&self, cluster: &Cluster) -> Result<Counters, String> {
        let [from, to] = self.nodes;
        let mut counters = Counters::of(&from.client, &cluster.runtime)?;
        if from.name() != to.name() {
            counters.add(Counters::of(&to.client, &cluster.runtime)?);
        }
        Ok(counters)
    }
}

/// What the name of every check of two nodes begins with.
pub(in crate::lab) fn pair(from: &Member, to: &Member) -> String {
    format!("{} → {}, ", from.name(), to.name())
}

/// A check of pods of two nodes.
type PairCheck = fn(&Member, &Member, Family) -> Verdict;

/// What pods of every two nodes, and of each, say to each other: the first one's first pod to the second one's second.
const PAIRS: &[(&str, PairCheck)] = &[
    ("ICMP", |from, to, f| icmp(&from.pods[0].netns, to.pods[1].at(f)?)),
    ("TCP 1 byte", |from, to, f| tcp(from, to, f, 1)),
    ("TCP 1 MB", |from, to, f| tcp(from, to, f, MB)),
    ("UDP 1 byte", |from, to, f| {
        let (server, address) = (&to.pods[1].netns, to.pods[1].at(f)?);
        own(from, f, exchange::udp_exchange(&from.pods[0].netns, server, address, 1, 1)?)
    }),
    ("node to pod, ICMP", |from, to, f| icmp(&from.node.space.netns, to.pods[1].at(f)?)),
];

fn tcp(from: &Member, to: &Member, family: Family, size: usize) -> Verdict {
    let (server, address) = (&to.pods[1].netns, to.pods[1].at(family)?);
    own(from, family, tcp_exchange(&from.pods[0].netns, server, address, size)?)
}

/// Pods of a cluster see each other's own addresses.
fn own(from: &Member, family: Family, seen: Exchanged) -> Verdict {
    let want = from.pods[0].at(family)?;
    match seen.peers.iter().find(|peer| peer.ip() != want) {
        Some(peer) => Err(format!("the pod sees {peer}, not the other pod's own address {want}")),
        None => Ok(Seen::new(seen.times, format!("the pod sees {want}"))),
    }
}

/// All checks, in order.
pub(in crate::lab) fn all(cluster: &Cluster) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = cluster.members.iter().map(|member| healthy(cluster, member)).collect();
    for (from, to) in cluster.pairs() {
        if from.name() != to.name() {
            jobs.push(backend(cluster, from, to));
        }
        for (family, (name, check)) in
            FAMILIES.iter().flat_map(|family| PAIRS.iter().map(move |row| (*family, row)))
        {
            let name = named(&format!("{}{name}", pair(from, to)), family);
            jobs.push(Job { name, nodes: [from, to], run: Box::new(move || check(from, to, family)) });
        }
    }
    for (member, family) in cluster.members.iter().flat_map(|one| FAMILIES.map(|family| (one, family))) {
        let (node, nodes) = (member.name(), [member; 2]);
        let name = named(&format!("{node} → outside, TCP"), family);
        jobs.push(Job { name, nodes, run: Box::new(move || to_outside(cluster, member, family)) });
        if cluster.open {
            let name = named(&format!("outside → {node}, by BGP, TCP"), family);
            jobs.push(Job { name, nodes, run: Box::new(move || from_outside(cluster, member, family)) });
        }
    }
    jobs
}

fn named(name: &str, family: Family) -> String {
    match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("{name}, ipv6"),
    }
}

/// Nothing is wrong by the node's own word.
fn healthy<'a>(cluster: &'a Cluster, member: &'a Member) -> Job<'a> {
    let run = move || {
        let status = cluster.runtime.block_on(member.client.status()).map_err(|error| error.to_string())?;
        let blocks: Vec<String> = member.blocks().map(ToString::to_string).collect();
        match status.problems.is_empty() {
            true => Ok(Seen::new(Vec::new(), format!("no problems; blocks {}", blocks.join(" and ")))),
            false => Err(status.problems.join("; ")),
        }
    };
    Job { name: format!("{}, status", member.name()), nodes: [member; 2], run: Box::new(run) }
}

/// The backend that two nodes use is the one that fits where they are.
fn backend<'a>(cluster: &'a Cluster, from: &'a Member, to: &'a Member) -> Job<'a> {
    let run = move || {
        let (used, expected) = (from.backend(to), cluster.expected(from, to));
        let links = match from.node.link == to.node.link {
            true => "on one link".to_owned(),
            false => format!("from link {} to link {}", from.node.link, to.node.link),
        };
        match used == expected {
            true => Ok(Seen::new(Vec::new(), format!("{used}, {links}"))),
            false => Err(format!("{used}, {links}: {expected} is to be expected")),
        }
    };
    Job { name: format!("{}backend", pair(from, to)), nodes: [from, to], run: Box::new(run) }
}

/// Outside is served, and sees the node's address.
fn to_outside(cluster: &Cluster, member: &Member, family: Family) -> Verdict {
    let (outside, to) = (&cluster.outside.netns, topology::outside(family));
    let seen = tcp_exchange(&member.pods[0].netns, outside, to, 1)?;
    outside::translated(member.node.address(family), seen)
}

/// Outside, which knows its router and nothing else, reaches the pod by its own address.
fn from_outside(cluster: &Cluster, member: &Member, family: Family) -> Verdict {
    let (outside, pod) = (&cluster.outside.netns, &member.pods[1]);
    let to = pod.at(family)?;
    let mut tried = icmp(outside, to);
    for _ in 1..TRIES.0 {
        if tried.is_ok() {
            break;
        }
        thread::sleep(TRIES.1);
        tried = icmp(outside, to);
    }
    tried?;
    let seen = tcp_exchange(outside, &pod.netns, to, 1)?;
    let want = topology::outside(family);
    match seen.peers.iter().map(SocketAddr::ip).find(|peer| *peer != want) {
        Some(peer) => Err(format!("the pod sees {peer}, not {want}")),
        None => Ok(Seen::new(seen.times, format!("the pod sees {want}"))),
    }
}
