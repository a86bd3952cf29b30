//! What an agent would write into the tables for the scene. The records' fields are named here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpath_common::abi::{Addr, Endpoint, NODE_FLAG_INBOUND_ANY, Node, Route, RouteKind, Uplink};

use super::{Family, NODE, NODE6, Pod};

/// The addresses of pods.
pub(super) fn endpoints(pods: &[Pod]) -> Vec<(IpAddr, Endpoint)> {
    let of = |pod: &Pod| {
        let endpoint = Endpoint {
            ifindex: pod.ifindex,
            pod: pod.id,
            slot: pod.id,
            mac: pod.mac,
            mtu: 1500,
            ..Endpoint::default()
        };
        [pod.ip, pod.ip6].map(|address| (address, endpoint))
    };
    pods.iter().flat_map(of).collect()
}

/// The routes of both families.
pub(super) fn routes() -> Vec<(IpNet, Route)> {
    let net = |ip: IpAddr, length| IpNet::new(ip, length).expect("prefix");
    let any = |family: &Family| -> IpAddr {
        if family.is_v4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    };
    let of = |family: &Family| {
        let host = if family.is_v4() { 32 } else { 128 };
        let [block, unmasked] = [family.block, family.unmasked_net].map(|text| text.parse().expect("prefix"));
        [
            (net(any(family), 0), Route::new(RouteKind::Fib, true)),
            (block, Route::new(RouteKind::Stack, false)),
            (net(family.node, host), Route::new(RouteKind::Stack, false)),
            (unmasked, Route::new(RouteKind::Fib, false)),
            (net(family.refused, host), Route::new(RouteKind::Drop, false)),
        ]
    };
    [Family::V4, Family::V6].iter().flat_map(of).collect()
}

/// The node with its uplink.
pub(super) fn node(uplink: u32) -> Node {
    let mut node = Node { snat_first: 32768, snat_count: 16384, generation: 1, ..Node::default() };
    node.uplinks[0] = Uplink { ifindex: uplink, v4: NODE.into(), v6: NODE6.into(), ..Uplink::default() };
    node
}

/// Lets packets from outside in to the pods' own addresses.
pub(super) fn allow_inbound(node: &mut Node) {
    node.flags |= NODE_FLAG_INBOUND_ANY;
}

/// Takes the uplink's addresses away.
pub(super) fn forget_addresses(node: &mut Node) {
    (node.uplinks[0].v4, node.uplinks[0].v6) = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);
}
