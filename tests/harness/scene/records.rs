//! What an agent would write into the tables for the scene. The records' fields are named here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpath::datapath::Datapath;
use netpath_common::abi::{
    ENDPOINT_INBOUND_ANY, ENDPOINT_MASQUERADE, ENDPOINT_XDP, Endpoint, Link, NODE_ROUTES, Node, Pool, Route,
    RouteKind, Uplink,
};

use super::{Family, NODE, NODE6, Pod, Scene};

/// Number of the scene's network.
const NETWORK: u32 = 1;

/// Writes all tables; returns the node's record. There are no newer links than the last.
pub(super) fn write(datapath: &mut Datapath, pods: &[Pod], (uplink, newest_link): (u32, u32)) -> Node {
    for pod in pods {
        for address in [pod.ip, pod.ip6] {
            datapath.set_endpoint(address, endpoint(pod)).expect("endpoint");
        }
        let link = Link { pod: pod.id, mac: pod.mac, pad: 0 };
        datapath.set_link(pod.ifindex, link).expect("link");
    }
    datapath.set_routes(&routes()).expect("routes");
    let mut node =
        Node { snat_first: 32768, snat_count: 16384, generation: 1, newest_link, ..Node::default() };
    node.uplinks[0] =
        Uplink { ifindex: uplink, pad: 0, v4: Pool::new(&[NODE.into()]), v6: Pool::new(&[NODE6.into()]) };
    datapath.set_node(&node).expect("node");
    node
}

fn endpoint(pod: &Pod) -> Endpoint {
    Endpoint {
        ifindex: pod.ifindex,
        pod: pod.id,
        slot: pod.id,
        mac: pod.mac,
        mtu: 1500,
        network: NETWORK,
        flags: ENDPOINT_MASQUERADE,
        ..Endpoint::default()
    }
}

/// The routes of both families.
fn routes() -> Vec<(u32, IpNet, Route)> {
    let net = |ip: IpAddr, length| IpNet::new(ip, length).expect("prefix");
    let any = |family: &Family| -> IpAddr {
        if family.is_v4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    };
    let of = |family: &Family| {
        let host = if family.is_v4() { 32 } else { 128 };
        let [block, unmasked] = [family.block, family.unmasked_net].map(|text| text.parse().expect("prefix"));
        [
            (NETWORK, net(any(family), 0), Route::new(RouteKind::Fib, true)),
            (NETWORK, block, Route::new(RouteKind::Stack, false)),
            (NODE_ROUTES, block, Route::new(RouteKind::Stack, false)),
            (NETWORK, net(family.node, host), Route::new(RouteKind::Stack, false)),
            (NETWORK, unmasked, Route::new(RouteKind::Fib, false)),
            (NETWORK, net(family.refused, host), Route::new(RouteKind::Drop, false)),
        ]
    };
    [Family::V4, Family::V6].iter().flat_map(of).collect()
}

impl Scene {
    /// Has a pod take frames by XDP.
    pub fn take_frames(&mut self, pod: Pod) {
        for address in [pod.ip, pod.ip6] {
            let endpoint = endpoint(&pod);
            let endpoint = Endpoint { flags: endpoint.flags | ENDPOINT_XDP, ..endpoint };
            self.datapath.set_endpoint(address, endpoint).expect("endpoint");
        }
    }

    /// Lets packets from outside in to the pods' own addresses.
    pub fn allow_inbound(&mut self) {
        for (address, endpoint) in self.datapath.endpoints().expect("endpoints") {
            let open = Endpoint { flags: endpoint.flags | ENDPOINT_INBOUND_ANY, ..endpoint };
            self.datapath.set_endpoint(address, open).expect("endpoint");
        }
    }

    /// Gives a pod's addresses to a pod with another number.
    pub fn set_pod_number(&mut self, pod: Pod, number: u32) {
        for address in [pod.ip, pod.ip6] {
            let endpoint = Endpoint { pod: number, ..endpoint(&pod) };
            self.datapath.set_endpoint(address, endpoint).expect("endpoint");
        }
    }

    /// Takes the uplink's addresses away.
    pub fn forget_addresses(&mut self) {
        self.set_node(|node| {
            (node.uplinks[0].v4, node.uplinks[0].v6) = (Pool::default(), Pool::default());
        });
    }

    /// Removes a pod's addresses from the tables.
    pub fn remove_pod(&mut self, pod: Pod) {
        for address in [pod.ip, pod.ip6] {
            self.datapath.remove_endpoint(address).expect("endpoint");
        }
    }
}
