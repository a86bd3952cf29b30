//! The matrix itself: its arithmetic, and what it says of a node that has pods but no netpath.

use super::*;
use crate::{bench::modes::nft::masquerade, lab::testing::with_topology, net::PodLink};

fn counters(values: &[(&str, u64)]) -> Counters {
    Counters(values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
}

#[test]
fn growth_is_told_and_nothing_else() {
    let before = counters(&[("InboundDenied", 2), ("local", 10)]);
    let after = counters(&[("InboundDenied", 5), ("Malformed", 1), ("local", 10)]);
    assert_eq!(after.growth(&before, "InboundDenied"), 3);
    assert_eq!(after.explain(&before), "InboundDenied +3, Malformed +1");
    assert!(before.explain(&before).contains("no packet"));
}

#[test]
fn round_trip_is_the_median_in_microseconds() {
    let times = [30_000, 10_000, 20_456].map(Duration::from_nanos).to_vec();
    assert_eq!(Seen::new(times, "").rtt_us(), Some(20.46));
    assert_eq!(Seen::default().rtt_us(), None);
}

#[test]
fn names_are_unique_and_enough() {
    let mut names: Vec<_> = all().map(|row| row.0).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count());
    let v6 = names.iter().filter(|name| name.contains("ipv6")).count();
    assert!(v6 >= 14 && v6 * 2 == names.len(), "{names:?}");
}

/// A pod attached to the node, with nobody at the gateways' addresses but permanent neighbour entries.
async fn attach(topology: &Topology, name: &str, number: u8) -> LabPod {
    let (node, interface) = (&topology.node, format!("veth-{name}"));
    let v6 = Ipv6Addr::new(0xfd00, 0x61, 0, 0, 0, 0, 0, number.into());
    let addresses = vec![IpAddr::from([10, 61, 0, number]), v6.into()];
    let space = topology.spec.space(name).await.unwrap();
    let link = PodLink {
        host_name: interface.clone(),
        host_mac: [2, 0, 0, 0, 1, 1],
        pod_name: "eth0".into(),
        pod_mac: [2, 0, 0, 0, 0, number],
        mtu: 1500,
        addresses: addresses.clone(),
        gateways: vec![Family::V4.gateway(), Family::V6.gateway()],
        allowed: Vec::new(),
        to_pod: None,
        from_pod: None,
        sourced: None,
    };
    let ifindex = link.ensure(&node.netlink, &node.netns, &space.netns).await.unwrap();
    let pod = Pod {
        name: name.into(),
        network: "default".into(),
        addresses,
        mac: String::new(),
        interface,
        ifindex,
        interfaces: Vec::new(),
        allowed_addresses: Vec::new(),
        no_masquerade: false,
        netns: topology.spec.dir.join(&space.name).display().to_string(),
        state: "ready".into(),
        rx_packets: 0,
        rx_bytes: 0,
        tx_packets: 0,
        tx_bytes: 0,
        mtu: 1500,
        mode: "tc".into(),
        published: Vec::new(),
        ingress_bandwidth: None,
        egress_bandwidth: None,
        labels: BTreeMap::new(),
        attachment: None,
    };
    LabPod::open(pod).unwrap()
}

#[test]
fn a_node_that_routes_and_masquerades_fails_only_what_netpath_adds() {
    with_topology(None, |topology| async move {
        topology.node.forward().unwrap();
        for family in [Family::V4, Family::V6] {
            masquerade(&topology.node, topology::block(family), "none").unwrap();
        }
        let mut pods = Vec::new();
        for (number, name) in (2..).zip(["a", "b", "c"]) {
            pods.push(attach(&topology, name, number).await);
        }
        let client = Client::new("/nonexistent/agent.sock");
        let scene = Scene { topology: Arc::new(topology), pods, client, runtime: Handle::current() };
        let stage = scene.clone();
        let checks = tokio::task::spawn_blocking(move || run(&stage, |_| ())).await.unwrap();
        let failed: Vec<_> =
            checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
        let expected = [
            "pod → gateway 169.254.1.1, ARP",
            "outside → pod, routed via the node: refused",
            "pod → gateway fe80::1, neighbour discovery, ipv6",
            "outside → pod, routed via the node: refused, ipv6",
        ];
        assert_eq!(failed, expected, "{checks:#?}");
        assert!(checks.iter().filter(|check| check.rtt_us.is_some()).count() >= 40);
        // With the way known, nothing stops outside here, and that is seen.
        for (family, pod) in [(Family::V4, "10.61.0.2:"), (Family::V6, "[fd00:61::2]:")] {
            let (block, node) = (topology::block(family), topology::node(family));
            scene.topology.router.route(block, node).await.unwrap();
            let stage = scene.clone();
            let through =
                tokio::task::spawn_blocking(move || inbound::attempt(&stage, family)).await.unwrap();
            assert!(through.unwrap_err().starts_with(&format!("outside connected to {pod}")));
        }
    });
}
