//! The benchmark on real networks: those that need no agent.

use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use indicatif::ProgressBar;

use super::{
    load::{rotate, rr},
    modes::{Bridge, Direct, MODES},
    *,
};
use crate::lab::{
    stage::Stage,
    testing::with_topology,
    topology::{NODE, OUTSIDE, Topology, net},
};

fn pair(topology: &Topology) -> Pair<'_> {
    Pair { client: &topology.node.netns, server: &topology.outside.netns, address: OUTSIDE.into() }
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
        let back =
            Pair { client: &topology.outside.netns, server: &topology.node.netns, address: NODE.into() };
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
            assert!(row.median > 0.5 && row.p99 >= Some(row.median) && row.ci_low <= row.ci_high, "{row:?}");
            let own = if row.mode == "direct" { row.ratio_direct } else { row.ratio_bridge };
            assert_eq!(own, Some(1.0));
            assert_eq!(row.ratio_direct.is_some(), row.path.as_deref() == Some("pod-pod"));
        }
    });
}

/// Who outside and the router see, by mode: the uplink where a mode translates.
const SEEN: [(&str, IpAddr); 6] = [
    ("bridge", v4([198, 18, 2, 2])),
    ("bridge", IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 2, 0, 0, 0, 2))),
    ("bridge-plain", v4([172, 31, 0, 2])),
    ("routed", v4([198, 18, 5, 2])),
    ("macvlan", v4([198, 18, 6, 10])),
    ("host", v4([198, 18, 7, 2])),
];

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

#[test]
fn every_mode_but_netpath_is_what_it_says_on_each_of_its_paths() {
    with_topology(None, |topology| async move {
        let site = Site::around(topology, Stage::idle());
        let (mut seen, mut seen_near) = (Vec::new(), Vec::new());
        for (name, build) in MODES.iter().filter(|(name, _)| !name.starts_with("netpath")) {
            let mode = build(&site).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(mode.name(), *name);
            let newcomer = match mode.newcomer(1) {
                Some(newcomer) => Some(newcomer.await.unwrap()),
                None => None,
            };
            let pairs = |path: &Path| [(*path, mode.pair(*path).ok()), (*path, mode.pair_v6(*path).ok())];
            for (path, pair) in Path::ALL.iter().flat_map(pairs) {
                let Some(pair) = pair else { continue };
                let witness = sockets::EchoWitness::open(pair.server, pair.address).unwrap();
                // Newcomers are on the node of the other paths.
                let newcomer = newcomer.as_ref().filter(|_| path != Path::PodPodRemote);
                for client in [Some(pair.client), newcomer].into_iter().flatten() {
                    let ping = sockets::Pinger::open(client, pair.address, sockets::PATIENCE).unwrap().ping();
                    ping.unwrap_or_else(|error| panic!("{name} {path}: {error}"));
                    if client.inode() == pair.client.inode() {
                        let sources = witness.sources().unwrap().into_iter().map(|source| (*name, source));
                        match path {
                            Path::PodOutside => seen.extend(sources),
                            Path::PodOnlink => seen_near.extend(sources),
                            Path::PodPod | Path::NodePod | Path::PodPodRemote => {}
                        }
                    }
                }
            }
        }
        assert_eq!(seen, SEEN);
        seen.retain(|(_, address)| address.is_ipv4());
        assert_eq!(seen_near, seen, "on the uplink's link");
    });
}

#[test]
fn floods_and_connections_count_what_arrives() {
    with_topology(None, |topology| async move {
        let (slice, cores) = (short(60).slice, Cores::choose().unwrap());
        let pair = pair(&topology);
        for task in task::tasks(false, Workload::ALL) {
            let turn = task.turn(&pair, slice, cores).unwrap_or_else(|error| panic!("{task:?}: {error}"));
            assert!(turn.value > 0.0 && !turn.samples.is_empty(), "{task:?}: {turn:?}");
        }
        // Nobody listens at an address that the server does not have, and nobody waits for ever.
        let nobody = Pair { address: NODE.into(), ..pair };
        for task in
            task::tasks(false, Workload::ALL).into_iter().filter(|task| task.protocol() != Protocol::Icmp)
        {
            assert!(task.turn(&nobody, slice, cores).is_err(), "{task:?}");
        }
    });
}

#[test]
fn flows_take_turns_and_each_is_answered_by_the_address_it_asked() {
    with_topology(None, |topology| async move {
        let (first, length) = rotate::SERVERS;
        topology.outside.configure("lo", &[net(first, length)]).await.unwrap();
        topology.router.route(net(first, length).trunc(), OUTSIDE.into()).await.unwrap();
        let (slice, cores) = (short(20).slice, Cores::choose().unwrap());
        // Far more flows than round trips: an answer from an address that was not asked is an error.
        let times = rotate::udp(&pair(&topology), 500_000, slice, cores).unwrap();
        assert!(times.len() > 10, "{} round trips", times.len());
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
            if path == Path::PodPod {
                Ok(Pair { address: NODE.into(), ..pair(self.0) })
            } else {
                Err("not here")
            }
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
