//! Datagrams larger than the way: they go in parts and come whole.

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use netpath::{api::types::PodAdd, lab::checks::LabPod, net::Netns};
use netpath_tests::{
    for_both_families, kernel,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::{Echo, Side, connected, dual},
};

for_both_families!(
    udp_of_16_000_bytes_goes_both_ways,
    pings_of_10_000_bytes_are_answered,
    what_the_stack_cuts_leaves_with_the_routes_source,
);

/// Sends a datagram of 16,000 bytes and reads the answer, several times over one flow.
fn exchange(from: &Netns, side: &Side, echo: &Echo, name: &str) {
    let socket = connected(from, side, echo.address);
    let mut buffer = vec![0; 65_536];
    for round in 0..5_u8 {
        let payload: Vec<u8> = (0..16_000_u32).map(|n| n as u8 ^ round).collect();
        socket.send(&payload).expect("send");
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{name}, round {round}: {error}"));
        assert_eq!(buffer[..length], payload, "{name}, round {round}");
    }
}

pub(super) fn udp_of_16_000_bytes_goes_both_ways(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let outside = Echo::start(&node.topology.outside.netns, side.outside);
    let pod = Echo::start(&b.netns, side.address(&b));
    let on_node = Echo::start(&node.topology.node.netns, side.node);
    exchange(&a.netns, &side, &outside, "pod to outside");
    exchange(&b.netns, &side, &outside, "another pod to outside");
    exchange(&a.netns, &side, &pod, "pod to pod");
    exchange(&a.netns, &side, &on_node, "pod to node");
    exchange(&node.topology.node.netns, &side, &pod, "node to pod");
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    let flow = flows.iter().find(|flow| flow.destination == side.outside).expect("a flow to outside");
    // Five rounds of eleven parts (IPv6: twelve), counted in both directions.
    let parts = 5 * if side.v6 { 12 } else { 11 };
    assert_eq!((flow.packets, flow.reply_packets), (parts, parts), "{flow:?}");
}

pub(super) fn pings_of_10_000_bytes_are_answered(family: Family) {
    let side = Side::of(&family);
    let (_node, a, b) = dual("");
    let ping = |to: IpAddr, name: &str| {
        let arguments = ["-c", "3", "-i", "0.05", "-W", "2", "-s", "10000", &to.to_string()];
        let said = run_in(&a.netns, "ping", &arguments);
        assert!(said.contains("3 received"), "{name}:\n{said}");
    };
    ping(side.outside, "outside");
    ping(side.address(&b), "pod");
    ping(side.node, "node");
}

/// The first datagram of a flow is larger than the uplink carries: the host stack cuts it (IPv4) or has the pod cut it.
pub(super) fn what_the_stack_cuts_leaves_with_the_routes_source(family: Family) {
    if kernel::lacks((6, 7), "asking the FIB for a route's source") {
        return;
    }
    let side = Side::of(&family);
    let node = Node::start("");
    kernel::forward_ipv6(&node.topology.node.netns);
    let a = LabPod::open(node.add(&PodAdd { name: "a".into(), mtu: Some(2000), ..PodAdd::default() }));
    let a = a.expect("pod");
    let second: IpAddr = if side.v6 { "2001:db8:5::5" } else { "198.18.5.5" }.parse().expect("address");
    let [source, outside, router, first] =
        [second, side.outside, side.router, side.node].map(|ip| ip.to_string());
    let on_router = ["route", "add", &source, "via", &first];
    assert_eq!(run_in(&node.topology.router.netns, "ip", &on_router), "");
    let nodad: &[&str] = if side.v6 { &["nodad"] } else { &[] };
    for arguments in [
        [&["address", "add", &source, "dev", "up0"], nodad].concat(),
        vec!["route", "add", &outside, "via", &router, "dev", "up0", "src", &source],
    ] {
        assert_eq!(run_in(&node.topology.node.netns, "ip", &arguments), "", "{arguments:?}");
    }
    let server = node.topology.outside.netns.enter(|| UdpSocket::bind((side.outside, 0)));
    let server = server.expect("namespace").expect("server");
    server.set_read_timeout(Some(Duration::from_millis(500))).expect("time-out");
    // What a link is sent before it runs is lost, and this is not about that.
    let said = run_in(&a.netns, "ping", &["-c", "1", "-w", "30", "-i", "0.1", &router]);
    assert!(said.contains("1 received"), "{said}");
    let socket = connected(&a.netns, &side, server.local_addr().expect("address"));
    let payload: Vec<u8> = (0..16_000_u32).map(|n| (n % 251) as u8).collect();
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    // Over IPv6 the first one is lost and tells the pod how large its parts may be.
    let (length, peer) = loop {
        let _ = socket.send(&payload);
        match server.recv_from(&mut buffer) {
            Ok(got) => break got,
            Err(error) => assert!(side.v6 && Instant::now() < deadline, "the first datagram: {error}"),
        }
    };
    // Whole: so all of its parts had one source.
    assert_eq!((peer.ip(), buffer[..length] == payload), (second, true), "{peer}, {length} bytes");
    server.send_to(&payload, peer).expect("sent");
    let length = socket.recv(&mut buffer).expect("the answer");
    assert_eq!(buffer[..length], payload);
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    let to_outside = flows.iter().filter(|flow| flow.destination == side.outside);
    let translated: Vec<_> = to_outside.filter_map(|flow| flow.translated_source).collect();
    assert_eq!(translated, [second], "one flow: {flows:?}");
}
