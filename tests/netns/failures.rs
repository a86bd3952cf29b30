//! What pods of a cluster lose while parts of it fail: flows of both families run all the while between three nodes, by direct
//! routes and by tunnels, and are counted to the packet. Each test prints its figures; `cargo xtask failures` puts them into
//! docs/CLUSTER.md. In the end nodes and etcd have what they had before, and nothing more.

mod control;
mod link;
mod node;
mod partition;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netpath::{
    api::types::{ClusterNode, NodeSet},
    lab::checks::LabPod,
    model::Family,
    net::Netns,
    store::cluster::LEASE,
};
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    stream::{Counted, Streams},
    wait,
};

use crate::direct::ping;

/// A call to etcd begins no try later than after 15 s, which ends 3 s later, and the next sign of life follows after a second: a
/// change that was told in vain is told again by then.
const CALL: Duration = Duration::from_secs(19);
/// What netlink announces is repaired within it.
const ANNOUNCED: Duration = Duration::from_secs(2);
/// Nodes that etcd has not heard of are looked for so often (5 s), each for so long (4 s).
const LOOK: Duration = Duration::from_secs(9);
/// How much later a busy machine does what it does.
const SLACK: Duration = Duration::from_secs(4);
/// Longer than etcd waits for a node.
const LONG: Duration = LEASE.saturating_add(Duration::from_secs(5));

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Which datagrams and connections there are between the pods.
const FLOWS: [&str; 5] = ["a to b", "b to a", "a to c", "c to a", "c to b"];
const CONNECTIONS: [&str; 3] = ["a to b", "c to a", "b to c"];

/// Three nodes with a pod each: `a` and `b` are on one link, `c` is behind a router.
struct Scene {
    cluster: Cluster,
    pods: [LabPod; 3],
    streams: Streams,
    before: BTreeSet<String>,
    /// Each from the end of a failure to the beginning of the next.
    times: Vec<Range<Instant>>,
    /// How long the nodes' records took to be right.
    records: Duration,
}

impl Scene {
    /// With all flows.
    fn start() -> Self {
        Self::start_with(|_| true, |_| true)
    }

    /// With those that are chosen by name.
    fn start_with(datagrams: impl Fn(&str) -> bool, connections: impl Fn(&str) -> bool) -> Self {
        let mut cluster = Cluster::start(2);
        cluster.join_far();
        cluster.wait_known();
        let mut nodes = cluster.nodes.iter();
        let pods = ["a", "b", "c"].map(|name| nodes.next().expect("three nodes").named(name));
        let (mut streams, times, records) = (Streams::default(), Vec::new(), Duration::ZERO);
        wait::until("all is well", || all_is_well(&cluster));
        let before = cluster.inventory();
        for family in FAMILIES {
            for what in FLOWS.into_iter().filter(|what| datagrams(what)) {
                let (from, to) = ends(&pods, what, family);
                wait::until(what, || ping(from.0, &["-W", "1"], to.1).contains("1 received"));
                streams.datagrams(what, from, to);
            }
            for what in CONNECTIONS.into_iter().filter(|what| connections(what)) {
                let (from, to) = ends(&pods, what, family);
                streams.connection(what, from, to);
            }
        }
        streams.go_on("before anything fails");
        Self { cluster, pods, streams, before, times, records }
    }

    /// A pod of a node as it is now.
    fn open(&self, at: usize, name: &str) -> LabPod {
        let pods = self.cluster.runtime.block_on(self.cluster.nodes[at].client.pods()).expect("pods");
        let pod = pods.into_iter().find(|pod| pod.name == name).expect("the pod");
        LabPod::open(pod).expect("pod")
    }

    /// Lets time pass.
    fn run_on(&self, time: Duration, chosen: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.streams.these_go_on("meanwhile", &chosen);
        }
    }

    /// A failure begins.
    fn fails(&mut self) {
        if let Some(time) = self.times.last_mut() {
            time.end = Instant::now();
        }
    }

    /// It is over.
    fn is_over(&mut self) {
        let now = Instant::now();
        self.times.push(now..now);
    }

    /// Waits until what one node tells is seen by all, everybody is well, and nothing is complained of; counted from a time.
    fn records_follow(&mut self, who: usize, since: Instant, within: Duration) {
        let node = &self.cluster.nodes[who];
        for (drained, state) in [(true, "drained"), (false, "ready")] {
            let told = self.cluster.runtime.block_on(node.client.node_set(&node.name, &NodeSet { drained }));
            told.expect("told");
            let rest = within.saturating_sub(since.elapsed());
            wait::within(rest, &format!("all see {} {state}", node.name), || {
                let sees = |other: &ClusterMember| {
                    other.known().iter().any(|one| one.name == node.name && one.state == state)
                };
                self.cluster.nodes.iter().all(sees)
            });
        }
        let rest = within.saturating_sub(since.elapsed());
        wait::within(rest, "all is well again", || all_is_well(&self.cluster));
        self.records = since.elapsed();
    }

    /// Ends the flows, and judges what was counted: of the flows that the failure does not hit nothing may be lost, those that
    /// it hits must go on in time, and nothing may be left over. Prints it first.
    fn finish(mut self, scenario: &str, hit: impl Fn(&str) -> bool, within: Duration) {
        self.streams.go_on("in the end");
        self.fails();
        let counted = self.streams.finish();
        let leaks = leaks(&self.cluster, &self.before);
        for family in FAMILIES {
            let of_family = counted.iter().filter(|one| one.v6 == (family == Family::V6));
            let (hits, others): (Vec<_>, Vec<_>) = of_family.partition(|one| hit(&one.what));
            let of = |flows: &[&Counted]| {
                let lost: usize = flows.iter().map(|one| one.lost.len()).sum();
                (lost, flows.iter().map(|one| one.sent).sum::<u64>())
            };
            let ((lost, sent), (hit_lost, hit_sent)) = (of(&others), of(&hits));
            let concerned = if hits.is_empty() { &others } else { &hits };
            let gap = concerned.iter().map(|one| one.gap).max().unwrap_or_default();
            let converged = hits.iter().flat_map(|one| self.times.iter().map(|time| one.converged(time)));
            let converged = converged.max().unwrap_or_default();
            println!(
                "FIGURES scenario={} family={} lost={lost} of={sent} hit_lost={hit_lost} hit_of={hit_sent} gap_ms={} \
                 converge_s={:.2} records_s={:.1} leaks={}",
                scenario.replace(' ', "_"),
                family.to_string().to_lowercase(),
                gap.as_millis(),
                converged.as_secs_f64(),
                self.records.as_secs_f64(),
                leaks.len(),
            );
            assert!(sent > 0 && lost == 0, "{family}: {lost} of {sent} of flows that are not hit");
            assert!(converged <= within, "{family}: {converged:?} until nothing was lost any more");
        }
        assert!(leaks.is_empty(), "{leaks:#?}");
        self.cluster.nodes.iter().for_each(ClusterMember::check_tables);
    }
}

/// Namespaces and addresses of what `"a to b"` is between.
fn ends<'a>(pods: &'a [LabPod; 3], what: &str, family: Family) -> ((&'a Netns, IpAddr), (&'a Netns, IpAddr)) {
    let end = |name: &str| {
        let pod = pods.iter().find(|pod| pod.pod.name == name).expect("a pod");
        (&*pod.netns, pod.at(family).expect("address"))
    };
    let (from, to) = what.split_once(" to ").expect("both");
    (end(from), end(to))
}

/// Whether a node sees that another is away.
fn away(node: &ClusterMember, other: &str) -> bool {
    node.known().iter().any(|one| one.name == other && one.state == "away")
}

/// The routes of a node to these blocks.
fn routes_to(node: &ClusterMember, blocks: &[IpNet]) -> Vec<String> {
    let of = |block: &IpNet| {
        let flag = if block.addr().is_ipv6() { "-6" } else { "-4" };
        node.run("ip", &[flag, "route", "show", "exact", &block.to_string()])
    };
    blocks.iter().map(of).flat_map(|said| said.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Whether all nodes see all others, have ways to them and complain of nothing.
fn all_is_well(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|node| {
        let known = node.known();
        let well = |one: &ClusterNode| one.state == "ready" && (one.own || one.backend.is_some());
        let status = cluster.runtime.block_on(node.client.status()).expect("status");
        let rests = status.problems.is_empty() && status.settling == 0;
        rests && known.len() == cluster.nodes.len() && known.iter().all(well)
    })
}

/// What there is now and was not before, or the other way round; waits for it to go.
fn leaks(cluster: &Cluster, before: &BTreeSet<String>) -> Vec<String> {
    // Those of agents that were killed go by themselves, a lease later.
    wait::until("the leases of agents that have ended are gone", || cluster.leases() == cluster.nodes.len());
    let begun = Instant::now();
    loop {
        let now = cluster.inventory();
        let new = now.difference(before).map(|line| format!("new: {line}"));
        let leaks: Vec<_> =
            new.chain(before.difference(&now).map(|line| format!("missing: {line}"))).collect();
        if leaks.is_empty() || begun.elapsed() > ANNOUNCED + SLACK {
            return leaks;
        }
    }
}
