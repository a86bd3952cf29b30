//! What an agent would write into the tables for the scene. The records' fields are named here and nowhere else.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netpath::datapath::Datapath;
use netpath_common::abi::{
    ENDPOINT_INBOUND_ANY, ENDPOINT_MASQUERADE, ENDPOINT_PUBLISHES, ENDPOINT_XDP, Endpoint, Link,
    NODE_FLAG_CLUSTER, NODE_FLAG_PUBLISHES, NODE_ROUTES, Node, PROTECTED_ANY, Pool, Published, PublishedKey,
    Route, RouteKind, Uplink, protected_place,
};

use super::{Family, NODE, NODE6, Pod, Scene};

/// SCTP's number.
const SCTP: u8 = 132;

/// Number of the scene's network.
const NETWORK: u32 = 1;

/// Writes all tables; returns the node's record. There are no newer links than the last.
pub(super) fn write(datapath: &mut Datapath, pods: &[Pod], (uplink, newest_link): (u32, u32)) -> Node {
    for pod in pods {
        for address in [pod.ip, pod.ip6] {
            datapath.set_endpoint(address, endpoint(pod)).expect("endpoint");
        }
        let link = Link { pod: pod.id, mac: pod.mac, ..Link::default() };
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
            (NODE_ROUTES, net(family.node, host), Route::new(RouteKind::Fib, false)),
            (NETWORK, unmasked, Route::new(RouteKind::Fib, false)),
            (NETWORK, net(family.refused, host), Route::new(RouteKind::Drop, false)),
        ]
    };
    [Family::V4, Family::V6].iter().flat_map(of).collect()
}

impl Scene {
    /// Publishes a port of TCP, UDP and SCTP, on one address of the node or on all of a family, and nothing else. SCTP has
    /// it in the pod as well.
    pub fn publish(&mut self, (address, port): (IpAddr, u16), pod: Pod, (to, pod_port): (IpAddr, u16)) {
        self.publish_protocols(&[6, 17, SCTP], (address, port), pod, (to, pod_port));
    }

    /// The same for these protocols.
    pub fn publish_protocols(
        &mut self,
        protocols: &[u8],
        (address, port): (IpAddr, u16),
        pod: Pod,
        (to, pod_port): (IpAddr, u16),
    ) {
        let (addr, port) = (address.into(), port.to_be());
        let mut entries = BTreeMap::new();
        for &protocol in protocols {
            let pod_port = if protocol == SCTP { port } else { pod_port.to_be() };
            let published = Published { addr: to.into(), pod: pod.id, port: pod_port, pad: 0 };
            entries.insert(PublishedKey::anywhere(&addr, port, protocol), Published::default());
            entries.insert(PublishedKey::on(addr, port, protocol), published);
        }
        self.datapath.set_published(&entries).expect("published ports");
        self.set_node(|node| node.flags |= NODE_FLAG_PUBLISHES);
        self.change_endpoint(pod, |endpoint| endpoint.flags |= ENDPOINT_PUBLISHES);
    }

    /// Publishes a port of every address of the node, TCP, UDP and SCTP of both families, as one of a pod (SCTP has it in the pod
    /// as well); or nothing.
    pub fn publish_both(&mut self, pod: Pod, ports: Option<(u16, u16)>) {
        let mut entries = BTreeMap::new();
        for (address, protocol) in
            [pod.ip, pod.ip6].into_iter().flat_map(|ip| [6, 17, SCTP].map(|one| (ip, one)))
        {
            if let Some((port, pod_port)) = ports {
                let pod_port = if protocol == SCTP { port } else { pod_port };
                let published =
                    Published { addr: address.into(), pod: pod.id, port: pod_port.to_be(), pad: 0 };
                entries.insert(PublishedKey::anywhere(&address.into(), port.to_be(), protocol), published);
            }
        }
        self.datapath.set_published(&entries).expect("published ports");
        let flag = |flags: u32, bit: u32| if ports.is_some() { flags | bit } else { flags & !bit };
        self.set_node(|node| node.flags = flag(node.flags, NODE_FLAG_PUBLISHES));
        for address in [pod.ip, pod.ip6] {
            let all = self.datapath.endpoints().expect("endpoints");
            let (_, mut endpoint) = all.into_iter().find(|(own, _)| *own == address).expect("the pod's");
            endpoint.flags = flag(endpoint.flags.into(), ENDPOINT_PUBLISHES.into()) as u16;
            self.datapath.set_endpoint(address, endpoint).expect("endpoint");
        }
    }

    /// Keeps pods from these ports of nodes, each with the number of its protocol, and from no others.
    pub fn protect(&mut self, ports: &[(u8, u16)]) {
        let mut words = BTreeMap::new();
        for &(proto, port) in ports {
            let (word, bit) = protected_place(proto, port).expect("a protocol with ports");
            *words.entry(word).or_default() |= bit;
        }
        if !words.is_empty() {
            words.insert(PROTECTED_ANY, 1);
        }
        self.datapath.set_protected(&words).expect("protected ports");
    }

    /// Puts the node into a cluster in which an address belongs to somebody: in the node's own routes and, if packets go there,
    /// in the network's.
    pub fn belongs(&mut self, address: IpAddr, route: Route) {
        self.all_belong(&[(address, route)]);
    }

    /// The same for several.
    pub fn all_belong(&mut self, owned: &[(IpAddr, Route)]) {
        let mut all = routes();
        for &(address, route) in owned {
            all.push((NODE_ROUTES, address.into(), route));
            if [RouteKind::Fib as u8, RouteKind::Tunnel as u8].contains(&route.kind) {
                all.push((NETWORK, address.into(), Route { uplinks: 0, ..route }));
            }
        }
        self.datapath.set_routes(&all).expect("routes");
        self.set_node(|node| node.flags |= NODE_FLAG_CLUSTER);
    }

    /// Changes the records of a pod's addresses.
    pub fn change_endpoint(&mut self, pod: Pod, change: impl Fn(&mut Endpoint)) {
        for address in [pod.ip, pod.ip6] {
            let mut endpoint = endpoint(&pod);
            change(&mut endpoint);
            self.datapath.set_endpoint(address, endpoint).expect("endpoint");
        }
    }

    /// Has a pod take frames by XDP.
    pub fn take_frames(&mut self, pod: Pod) {
        self.change_endpoint(pod, |endpoint| endpoint.flags |= ENDPOINT_XDP);
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
        self.change_endpoint(pod, |endpoint| endpoint.pod = number);
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
