//! Pure model → records of the kernel tables, and what BIRD is told.

mod bgp;
mod learned;
mod node;
mod peers;
mod protect;
mod published;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use netpath_common::abi::{
    ENDPOINT_INBOUND_ANY, ENDPOINT_LIMITED_IN, ENDPOINT_LIMITED_OUT, ENDPOINT_MASQUERADE, ENDPOINT_PUBLISHES,
    Endpoint, Link, NODE_ROUTES, Route, RouteKind,
};

pub use self::{
    bgp::{bird, bird_without, is_bird_of_netpath, session_name},
    learned::with_learned,
    node::{Places, give_places, node, places, publishes, sources, unused_sources},
    peers::{Direct, Tunnel, Ways, peer_routes, ways},
    protect::Protection,
    published::{leads, published},
};
use crate::model::{Family, Inbound, Interface, Network, Pod};

/// What the node's surroundings look like now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The uplinks that exist.
    pub uplinks: Vec<Uplink>,
    /// Every address of the node, on whatever interface.
    pub addresses: Vec<IpAddr>,
    /// Broadcast addresses of the subnets it is in.
    pub broadcasts: Vec<Ipv4Addr>,
    /// Highest index of its interfaces, pods' aside.
    pub newest_link: u32,
}

/// An uplink that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its place in the node's record, which routes name it by; see [`give_places`].
    pub place: usize,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its addresses, the one first of each family that flows leaving here are translated to where nothing says
    /// otherwise; none of them link-local IPv6.
    pub addresses: Vec<IpAddr>,
}

/// The record of the addresses of one of a pod's interfaces. `ifindex` is the host end's, `mtu` the interface's.
pub fn endpoint(network: &Network, pod: &Pod, interface: &Interface, ifindex: u32, mtu: u32) -> Endpoint {
    let inbound = if network.inbound == Inbound::Any { ENDPOINT_INBOUND_ANY } else { 0 };
    let masquerade = if network.masquerade && pod.masquerade { ENDPOINT_MASQUERADE } else { 0 };
    let publishes = if pod.publications.is_empty() { 0 } else { ENDPOINT_PUBLISHES };
    let limited_in = if pod.ingress.is_some() { ENDPOINT_LIMITED_IN } else { 0 };
    let limited_out = if pod.egress.is_some() { ENDPOINT_LIMITED_OUT } else { 0 };
    Endpoint {
        ifindex,
        pod: pod.id,
        slot: pod.slot,
        identity: 0,
        mac: interface.mac.0,
        // No interface of a pod has more: the configuration and the API refuse it.
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        network: network.number,
        flags: inbound | masquerade | publishes | limited_in | limited_out,
        reserved: 0,
    }
}

/// Whose a pod's host end is, and what may come by it.
pub fn link(pod: &Pod, interface: &Interface) -> Link {
    let (rate, burst) = pod.egress.map_or((0, 0), |limit| (limit.bytes(), limit.tolerance()));
    Link { pod: pod.id, mac: interface.mac.0, pad: [0; 6], rate, burst }
}

/// What ROUTES holds: every prefix of every network once, in order; last the node's own.
pub fn routes(networks: &[Network], surroundings: &Surroundings) -> Vec<(u32, IpNet, Route)> {
    let blocks: Vec<IpNet> = networks.iter().flat_map(|network| network.blocks.iter().copied()).collect();
    let stack = Route::new(RouteKind::Stack, false);
    let of_network = |network: &Network| {
        let number = network.number;
        let routes = network_routes(network, &blocks, surroundings);
        routes.into_iter().map(move |(prefix, route)| (number, prefix, route))
    };
    let mut routes: Vec<_> = networks.iter().flat_map(of_network).collect();
    routes.extend(blocks.iter().map(|block| (NODE_ROUTES, *block, stack)));
    let own = surroundings.addresses.iter().copied().filter(|address| is_routed(*address));
    routes.extend(own.map(|address| (NODE_ROUTES, address.into(), Route::new(RouteKind::Fib, false))));
    routes
}

/// The routes of one network, for the families it has.
///
/// The node's own addresses, the pods' gateway and every block belong to the node's stack, which knows the blocks as
/// unreachable: local pods are found before any route.
fn network_routes(
    network: &Network,
    blocks: &[IpNet],
    surroundings: &Surroundings,
) -> BTreeMap<IpNet, Route> {
    let stack = Route::new(RouteKind::Stack, false);
    let has = |address: IpAddr| network.has(Family::of(address));
    let mut routes = BTreeMap::new();
    for family in network.families() {
        routes.insert(family.everything(), Route::new(RouteKind::Fib, network.masquerade));
        routes.insert(family.gateway().into(), stack);
    }
    for prefix in network.no_masquerade.iter().filter(|prefix| has(prefix.addr())) {
        routes.insert(*prefix, Route::new(RouteKind::Fib, false));
    }
    for block in blocks.iter().filter(|block| has(block.addr())) {
        routes.insert(*block, stack);
    }
    for address in surroundings.broadcasts.iter().map(|address| IpAddr::V4(*address)).filter(|one| has(*one))
    {
        routes.insert(address.into(), Route::new(RouteKind::Broadcast, false));
    }
    for address in surroundings.addresses.iter().filter(|address| has(**address) && is_routed(**address)) {
        routes.insert((*address).into(), stack);
    }
    routes
}

/// Whether packets for an address of the node are looked up at all: those for loopback are martians, and those for an
/// IPv6 link-local address are on no other link.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Bandwidth, DEFAULT_NETWORK, Mac, PodState};

    fn network() -> Network {
        Network {
            name: DEFAULT_NETWORK.to_owned(),
            number: 1,
            blocks: vec!["10.61.0.0/24".parse().unwrap()],
            pools: Vec::new(),
            backend: None,
            ending: false,
            masquerade: true,
            no_masquerade: vec!["10.0.0.0/8".parse().unwrap()],
            inbound: Inbound::Cluster,
            mtu: None,
        }
    }

    fn surroundings() -> Surroundings {
        let uplink = |ifindex, addresses| Uplink {
            name: format!("eth{ifindex}"),
            ifindex,
            place: 0,
            mtu: 1500,
            addresses,
        };
        let addresses = ["127.0.0.1", "192.0.2.2", "172.17.0.1", "::1", "2001:db8::2", "fe80::9"];
        Surroundings {
            uplinks: vec![
                uplink(2, vec!["192.0.2.2".parse().unwrap()]),
                uplink(3, vec!["2001:db8::2".parse().unwrap()]),
            ],
            addresses: addresses.map(|text| text.parse().unwrap()).into(),
            broadcasts: vec!["192.0.2.255".parse().unwrap()],
            newest_link: 3,
        }
    }

    fn dual() -> Network {
        let mut dual = network();
        dual.blocks.push("fd00:61::/64".parse().unwrap());
        dual.no_masquerade.push("fd00::/8".parse().unwrap());
        dual
    }

    fn table(networks: &[Network]) -> Vec<String> {
        let words = |(number, prefix, route): &(u32, IpNet, Route)| {
            format!("{number} {prefix} {} {}", route.kind, route.flags)
        };
        routes(networks, &surroundings()).iter().map(words).collect()
    }

    #[test]
    fn routes_of_a_node() {
        // Kind 0 is the stack, 1 the FIB; flag 1 is masquerade.
        let expected = [
            "1 0.0.0.0/0 1 1",
            "1 10.0.0.0/8 1 0",
            "1 10.61.0.0/24 0 0",
            "1 169.254.1.1/32 0 0",
            "1 172.17.0.1/32 0 0",
            "1 192.0.2.2/32 0 0",
            "1 192.0.2.255/32 4 0",
            "0 10.61.0.0/24 0 0",
            "0 192.0.2.2/32 1 0",
            "0 172.17.0.1/32 1 0",
            "0 2001:db8::2/128 1 0",
        ];
        assert_eq!(table(&[network()]), expected);
    }

    #[test]
    fn routes_of_both_families_ipv6() {
        let of_v6 = [
            "1 ::/0 1 1",
            "1 2001:db8::2/128 0 0",
            "1 fd00::/8 1 0",
            "1 fd00:61::/64 0 0",
            "1 fe80::1/128 0 0",
            "0 10.61.0.0/24 0 0",
            "0 fd00:61::/64 0 0",
            "0 192.0.2.2/32 1 0",
            "0 172.17.0.1/32 1 0",
            "0 2001:db8::2/128 1 0",
        ];
        let both = table(&[dual()]);
        assert_eq!(both[7..], of_v6);
        assert_eq!(both[..7], table(&[network()])[..7]);
        // A network of one family has no routes of the other.
        let only = Network { blocks: dual().blocks[1..].into(), ..dual() };
        assert_eq!(table(&[only])[..5], of_v6[..5]);
    }

    #[test]
    fn every_network_knows_every_block_and_has_its_own_ways_out() {
        let open = Network {
            name: "open".into(),
            number: 2,
            blocks: vec!["10.62.0.0/24".parse().unwrap()],
            masquerade: false,
            no_masquerade: Vec::new(),
            ..network()
        };
        let table = table(&[network(), open]);
        for line in ["1 10.62.0.0/24 0 0", "2 10.61.0.0/24 0 0", "2 0.0.0.0/0 1 0", "0 10.62.0.0/24 0 0"] {
            assert!(table.contains(&line.to_owned()), "{line}: {table:?}");
        }
    }

    #[test]
    fn without_masquerade_every_way_out_keeps_the_pods_address() {
        let network = Network { masquerade: false, ..network() };
        assert!(table(&[network]).iter().all(|line| line.ends_with(" 0")));
    }

    #[test]
    fn a_no_masquerade_prefix_never_hides_the_block() {
        let network = Network { no_masquerade: vec!["10.61.0.0/24".parse().unwrap()], ..network() };
        assert!(table(&[network]).contains(&"1 10.61.0.0/24 0 0".to_owned()));
    }

    /// A pod with one address.
    pub(in crate::compile) fn pod() -> Pod {
        let interface = Interface {
            name: "eth0".to_owned(),
            network: DEFAULT_NETWORK.to_owned(),
            addresses: vec!["10.61.0.5".parse().unwrap()],
            allowed: Vec::new(),
            mac: Mac([2, 0x6e, 10, 61, 0, 5]),
            host: "np9".to_owned(),
        };
        Pod {
            id: 9,
            name: "web".parse().unwrap(),
            interfaces: vec![interface],
            unattached: None,
            masquerade: true,
            slot: 4,
            netns: "/run/netns/web".into(),
            owns_netns: true,
            mtu: None,
            mode: None,
            offloads: false,
            publications: Vec::new(),
            ingress: None,
            egress: None,
            stale_queues: false,
            labels: BTreeMap::new(),
            attachment: None,
            netns_inode: None,
            netns_id: None,
            place: 0,
            state: PodState::Ready,
        }
    }

    #[test]
    fn record_of_a_pod() {
        let pod = pod();
        let interface = pod.interfaces[0].clone();
        let record = endpoint(&network(), &pod, &interface, 12, 1450);
        assert_eq!(record.flags, ENDPOINT_MASQUERADE);
        let open = Network { inbound: Inbound::Any, masquerade: false, ..network() };
        assert_eq!(endpoint(&open, &pod, &interface, 12, 1450).flags, ENDPOINT_INBOUND_ANY);
        assert_eq!((record.ifindex, record.pod, record.slot, record.mtu), (12, 9, 4, 1450));
        assert_eq!(record.mac, interface.mac.0);
        let whose = Link { pod: 9, mac: interface.mac.0, ..Link::default() };
        assert_eq!(link(&pod, &interface), whose);
        let limit = Some(Bandwidth::new(80_000_000, None).unwrap());
        let limited = Pod { ingress: limit, ..pod.clone() };
        assert_eq!(link(&limited, &interface), whose, "the queue has it");
        let flags = ENDPOINT_MASQUERADE | ENDPOINT_LIMITED_IN;
        assert_eq!(endpoint(&network(), &limited, &interface, 12, 1450).flags, flags);
        let limited = Pod { egress: limit, ..pod.clone() };
        assert_eq!(link(&limited, &interface), Link { rate: 10_000_000, burst: 129_830_400, ..whose });
        let flags = ENDPOINT_MASQUERADE | ENDPOINT_LIMITED_OUT;
        assert_eq!(endpoint(&network(), &limited, &interface, 12, 1450).flags, flags);
        let public = Pod { publications: vec!["8080:80".parse().unwrap()], ..pod.clone() };
        let flags = ENDPOINT_MASQUERADE | ENDPOINT_PUBLISHES;
        assert_eq!(endpoint(&network(), &public, &interface, 12, 1450).flags, flags);
        let bare = Pod { masquerade: false, ..pod };
        assert_eq!(endpoint(&network(), &bare, &interface, 12, 1450).flags, 0);
    }
}
