//! Datagrams larger than the way: they go in parts and come whole.

use std::net::IpAddr;

use netpath::net::Netns;
use netpath_tests::{
    for_both_families,
    node::run_in,
    scene::Family,
    side::{Echo, Side, connected, dual},
};

for_both_families!(udp_of_16_000_bytes_goes_both_ways, pings_of_10_000_bytes_are_answered);

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

fn udp_of_16_000_bytes_goes_both_ways(family: Family) {
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

fn pings_of_10_000_bytes_are_answered(family: Family) {
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
