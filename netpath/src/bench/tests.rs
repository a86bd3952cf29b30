//! The benchmark on real networks: those that need no agent.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;

use super::{
    load::rr,
    modes::{Bridge, Direct},
    *,
};
use crate::lab::{
    testing::with_topology,
    topology::{NODE, OUTSIDE, Topology},
};

fn pair(topology: &Topology) -> Pair<'_> {
    Pair { client: &topology.node.netns, server: &topology.outside.netns, address: OUTSIDE }
}

fn short(milliseconds: u64) -> Plan {
    let slice = Slice { counted: Duration::from_millis(milliseconds), warm_up: Duration::from_millis(1) };
    Plan { rounds: 3, slice }
}

const LAB: [Path; 2] = [Path::PodPod, Path::PodOutside];

#[test]
fn node_and_outside_reach_each_other_and_names_carry_the_prefix() {
    with_topology(Some(1400), |topology| async move {
        let (slice, cores) = (short(5).slice, Cores::choose().unwrap());
        assert!(rr::tcp(&pair(&topology), 700, slice, cores).unwrap().len() > 10);
        let back = Pair { client: &topology.outside.netns, server: &topology.node.netns, address: NODE };
        assert!(rr::icmp(&back, slice, cores).unwrap().len() > 10);
        assert_eq!(topology.node.name, "t-node");
        let uplink = topology.node.netlink.link("up0").await.unwrap().unwrap();
        assert_eq!(uplink.mtu, 1400);
    });
}

#[test]
fn direct_and_bridge_are_measured_side_by_side() {
    with_topology(None, |topology| async move {
        let direct = Direct::build(&topology.spec).await.unwrap();
        let topology = Arc::new(topology);
        let bridge = Bridge::build(Arc::clone(&topology)).await.unwrap();
        let progress = ProgressBar::hidden();
        let measured = latency(&[&direct, &bridge], &LAB, &short(30), &progress).unwrap();
        assert_eq!(measured.failures, []);
        assert_eq!(progress.position(), 3 * (2 * 3 + 2));
        let names: Vec<_> = measured
            .figures
            .iter()
            .map(|row| (row.mode.as_str(), row.path.as_deref().unwrap(), row.protocol.as_deref().unwrap()))
            .collect();
        let both = |protocol| [("direct", "pod-pod", protocol), ("bridge", "pod-pod", protocol)];
        let outside = [("bridge", "pod-outside", "tcp"), ("bridge", "pod-outside", "udp")];
        assert_eq!(names, [&both("tcp")[..], &both("udp"), &both("icmp"), &outside].concat());
        for row in &measured.figures {
            assert!(row.median > 0.5 && row.p99 >= row.median && row.ci_low <= row.ci_high, "{row:?}");
            let own = if row.mode == "direct" { row.ratio_direct } else { row.ratio_bridge };
            assert_eq!(own, Some(1.0));
            assert_eq!(row.ratio_direct.is_some(), row.path.as_deref() == Some("pod-pod"));
        }
    });
}

#[test]
fn bridge_pods_are_masqueraded() {
    with_topology(None, |topology| async move {
        let topology = Arc::new(topology);
        let bridge = Bridge::build(Arc::clone(&topology)).await.unwrap();
        let pair = bridge.pair(Path::PodOutside).unwrap();
        let witness = sockets::EchoWitness::open(pair.server, pair.address).unwrap();
        sockets::Pinger::open(pair.client, pair.address, sockets::PATIENCE).unwrap().ping().unwrap();
        assert_eq!(witness.sources().unwrap(), [Ipv4Addr::new(198, 18, 2, 2)]);
    });
}

#[test]
fn a_case_without_a_server_is_given_up_and_the_others_go_on() {
    struct Broken<'a>(&'a Topology);
    impl Mode for Broken<'_> {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn made_of(&self) -> String {
            String::new()
        }
        fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
            // Not an address of the server: it cannot even listen there.
            if path == Path::PodPod { Ok(Pair { address: NODE, ..pair(self.0) }) } else { Err("not here") }
        }
    }
    with_topology(None, |topology| async move {
        let direct = Direct::build(&topology.spec).await.unwrap();
        let measured =
            latency(&[&Broken(&topology), &direct], &LAB, &short(5), &ProgressBar::hidden()).unwrap();
        assert_eq!(measured.figures.iter().filter(|row| row.mode == "direct").count(), 3);
        let failure = &measured.failures[0];
        assert_eq!(
            (failure.mode.as_str(), failure.protocol.as_deref(), failure.round),
            ("broken", Some("tcp"), 1)
        );
    });
}
