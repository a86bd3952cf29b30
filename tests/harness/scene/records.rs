//! What an agent would write into the tables for the scene. The records' fields are named here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpath::datapath::Datapath;
use netpath_common::abi::{
    ENDPOINT_INBOUND_ANY, ENDPOINT_MASQUERADE, Endpoint, Link, NODE_ROUTES, Node, Pool, Route, RouteKind,
    Uplink,
};

use super::{Family, NODE, NODE6, Pod, Scene};

/// The scene's network.
pub const NETWORK: u32 = 1;

/// Writes all tables; returns the node's record.
pub(super) fn write(datapath: &mut Datapath, pods: &[Pod], uplink: u32) -> Node {
    for pod in pods {
        let link = Link { pod: pod.id, mac: pod.mac, pad: 0 };
        datapath.set_link(pod.ifindex, link).expect("link");
        for address in [pod.ip, pod.ip6] {
            datapath.set_endpoint(address, endpoint(pod)).expect("endpoint");
        }
    }
    datapath.set_routes(&routes()).expect("routes");
    let mut node = Node { snat_first: 32768, snat_count: 16384, generation: 1, ..Node::default() };
    node.uplinks[0] = Uplink {
        ifindex: uplink,
        v4: Pool::new(&[NODE.into()]),
        v6: Pool::new(&[NODE6.into()]),
        ..Uplink::default()
    };
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
    let of = |family: &Family| {
        let host = family.pick(32, 128);
        let any = family.pick(Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let [block, unmasked] = [family.block, family.unmasked_net].map(|text| text.parse().expect("prefix"));
        [
            (NODE_ROUTES, block, Route::new(RouteKind::Stack, false)),
            (NETWORK, net(any, 0), Route::new(RouteKind::Fib, true)),
            (NETWORK, block, Route::new(RouteKind::Stack, false)),
            (NETWORK, net(family.node, host), Route::new(RouteKind::Stack, false)),
            (NETWORK, unmasked, Route::new(RouteKind::Fib, false)),
            (NETWORK, net(family.refused, host), Route::new(RouteKind::Drop, false)),
        ]
    };
    [Family::V4, Family::V6].iter().flat_map(of).collect()
}

impl Scene {
    /// Changes the endpoints of a pod, of both families.
    pub fn set_endpoint(&mut self, pod: Pod, change: impl Fn(&mut Endpoint)) {
        let endpoints = self.datapath.endpoints().expect("endpoints");
        for address in [pod.ip, pod.ip6] {
            let (_, mut endpoint) = *endpoints.iter().find(|(there, _)| *there == address).expect("endpoint");
            change(&mut endpoint);
            self.datapath.set_endpoint(address, endpoint).expect("endpoint");
        }
    }

    /// Lets packets from outside in to the pods' own addresses.
    pub fn allow_inbound(&mut self) {
        for pod in [self.a, self.b] {
            self.set_endpoint(pod, |endpoint| endpoint.flags |= ENDPOINT_INBOUND_ANY);
        }
    }

    /// Takes the uplink's addresses away.
    pub fn forget_addresses(&mut self) {
        self.set_node(|node| (node.uplinks[0].v4, node.uplinks[0].v6) = (Pool::default(), Pool::default()));
    }

    /// Removes a pod's addresses from the tables.
    pub fn remove_pod(&mut self, pod: Pod) {
        for address in [pod.ip, pod.ip6] {
            self.datapath.remove_endpoint(address).expect("endpoint");
        }
    }
}
