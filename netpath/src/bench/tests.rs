//! The benchmark on real networks: those that need no agent.

use std::sync::Arc;

use super::{
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

#[test]
fn node_and_outside_reach_each_other_and_names_carry_the_prefix() {
    with_topology(Some(1400), |topology| async move {
        let plan = Plan { rounds: 1, slice: Duration::from_millis(5), warm_up: Duration::ZERO };
        let core = rr::core().unwrap();
        assert!(rr::tcp(&pair(&topology), &plan, core).unwrap().len() > 10);
        let back = Pair { client: &topology.outside.netns, server: &topology.node.netns, address: NODE };
        assert!(rr::icmp(&back, &plan, core).unwrap().len() > 10);
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
        let plan = Plan { rounds: 3, slice: Duration::from_millis(30), warm_up: Duration::from_millis(5) };
        let progress = ProgressBar::hidden();
        let measured = run(&[&direct, &bridge], &plan, &progress).unwrap();
        assert_eq!(measured.failures, []);
        assert_eq!(progress.position(), 3 * (2 * 3 + 2));
        let names: Vec<_> = measured.rows.iter().map(|row| (row.mode, row.path, row.protocol)).collect();
        let both = |protocol| [("direct", "pod-pod", protocol), ("bridge", "pod-pod", protocol)];
        let outside = [("bridge", "pod-outside", "tcp"), ("bridge", "pod-outside", "udp")];
        assert_eq!(names, [&both("tcp")[..], &both("udp"), &both("icmp"), &outside].concat());
        for row in &measured.rows {
            assert!(row.median_us > 0.5 && row.p99_us >= row.median_us, "{row:?}");
            let own = if row.mode == "direct" { row.ratio_direct } else { row.ratio_bridge };
            assert_eq!(own, Some(1.0));
            assert_eq!(row.ratio_direct.is_some(), row.path == "pod-pod");
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
        fn pair(&self, path: Path) -> Option<Pair<'_>> {
            // Not an address of the server: it cannot even listen there.
            (path == Path::PodPod).then_some(Pair { address: NODE, ..pair(self.0) })
        }
    }
    with_topology(None, |topology| async move {
        let direct = Direct::build(&topology.spec).await.unwrap();
        let plan = Plan { rounds: 2, slice: Duration::from_millis(5), warm_up: Duration::ZERO };
        let measured = run(&[&Broken(&topology), &direct], &plan, &ProgressBar::hidden()).unwrap();
        assert_eq!(measured.rows.iter().filter(|row| row.mode == "direct").count(), 3);
        let failure = &measured.failures[0];
        assert_eq!((failure.mode, failure.protocol, failure.round), ("broken", "tcp", 1));
    });
}
