//! How other nodes' pods are reached: the one place that chooses.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use netpath_common::abi::{MAX_UPLINKS, NODE_ROUTES, ROUTE_PEER, ROUTE_TUNNEL, Route, RouteKind};

use super::Surroundings;
use crate::model::{Backend, Family, Network, Peer, Peers};

/// A block that is reached by its node's own address, which is on the link of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The block.
    pub block: IpNet,
    /// The next hop: of the block's family, or for IPv4 of IPv6 (RFC 5549).
    pub via: IpAddr,
    /// Index of the uplink that leads there.
    pub ifindex: u32,
}

/// A block that is reached by a tunnel to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The block.
    pub block: IpNet,
    /// The node's address, of a family that this node has as well.
    pub remote: IpAddr,
}

/// The ways to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Blocks by direct routes.
    pub direct: Vec<Direct>,
    /// Blocks by tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Blocks by routes that a routing daemon has learned.
    pub learned: Vec<IpNet>,
    /// Blocks that no way leads to, each with the name of its node.
    pub unreached: Vec<(String, IpNet)>,
}

/// Chooses the way to every block of every other node. `links` has the subnets of the uplinks, each with the uplink's index.
/// Nodes in `lost` (by uid) have none. `backend` holds where the block's network says nothing else.
pub fn ways(peers: &Peers, links: &[(u32, IpNet)], lost: &BTreeSet<String>, backend: Backend) -> Ways {
    let mut ways = Ways::default();
    for peer in peers.nodes.iter().filter(|peer| !lost.contains(&peer.holder.uid)) {
        for block in &peer.blocks {
            let backend = peers.backend_of(*block).unwrap_or(backend);
            let direct = direct(peer, *block, links).filter(|_| backend != Backend::Vxlan);
            let remote = remote(peer, links).filter(|_| backend != Backend::Direct);
            match (direct, remote) {
                (Some(way), _) => ways.direct.push(way),
                (None, Some(remote)) => ways.tunnels.push(Tunnel { block: *block, remote }),
                (None, None) => ways.unreached.push((peer.holder.node.clone(), *block)),
            }
        }
    }
    ways
}

fn direct(peer: &Peer, block: IpNet, links: &[(u32, IpNet)]) -> Option<Direct> {
    let hops = || peer.addresses.iter().filter_map(|via| Some((*via, by(*via, links).next()?)));
    let same = hops().find(|(via, _)| via.is_ipv4() == block.addr().is_ipv4());
    let (via, ifindex) = same.or_else(|| hops().find(|_| block.addr().is_ipv4()))?;
    Some(Direct { block, via, ifindex })
}

/// The address that tunnels lead to a node by: IPv4 rather than IPv6, which takes more of each packet.
fn remote(peer: &Peer, links: &[(u32, IpNet)]) -> Option<IpAddr> {
    let spoken = |address: &IpAddr| match address {
        IpAddr::V4(_) => links.iter().any(|(_, own)| own.addr().is_ipv4()),
        IpAddr::V6(_) => {
            let lasts = |own: &IpNet| matches!(own, IpNet::V6(own) if !own.addr().is_unicast_link_local());
            links.iter().any(|(_, own)| lasts(own))
        }
    };
    let near = |address: &IpAddr| by(*address, links).next().is_some();
    let ours = peer.addresses.iter().copied().filter(spoken);
    ours.min_by_key(|address| (address.is_ipv6(), !near(address)))
}

/// The uplinks on whose link an address is.
fn by(address: IpAddr, links: &[(u32, IpNet)]) -> impl Iterator<Item = u32> {
    links.iter().filter(move |(_, subnet)| subnet.contains(&address)).map(|(ifindex, _)| *ifindex)
}

/// What ROUTES holds of a cluster beside a node's own: the pools, and what belongs to other nodes. Networks with a block of the
/// pools send to other nodes' pods without translation; pods of others are nobody whom those nodes know.
/// `vni` is that of tunnels, 0 if there are none.
pub fn peer_routes(
    networks: &[Network],
    surroundings: &Surroundings,
    peers: &Peers,
    (links, vni): (&[(u32, IpNet)], u32),
    ways: &Ways,
) -> Vec<(u32, IpNet, Route)> {
    let mut routes = Vec::new();
    let in_pools = |block: &IpNet| peers.pools.iter().any(|pool| pool.contains(block));
    let is_inside = |network: &&Network| !network.pools.is_empty() || network.blocks.iter().any(in_pools);
    let inside: Vec<_> = networks.iter().filter(is_inside).collect();
    let mut add = |prefix: IpNet, route: Route| {
        let known = inside.iter().filter(|network| network.has(Family::of(prefix.addr())));
        routes.extend(known.map(|network| (network.number, prefix, Route { uplinks: 0, ..route })));
        routes.push((NODE_ROUTES, prefix, route));
    };
    for pool in &peers.pools {
        add(*pool, Route::new(RouteKind::Stack, false));
    }
    let of_peer = |peer: &Peer, kind, uplinks| {
        let route = Route { flags: ROUTE_PEER, uplinks, ..Route::new(kind, false) };
        match remote(peer, links).filter(|_| vni != 0) {
            Some(remote) => Route { vni, node: remote.into(), ..route },
            None => route,
        }
    };
    // Routers send by whichever uplink they like: their best way here need not be this node's best way there, and of several equal ones each
    // flow has another. A strict look at the reverse path is for who has one way only (RFC 3704, 2.2 and 2.4).
    let everywhere = places(surroundings.uplinks.iter().map(|uplink| uplink.ifindex), surroundings);
    let ways = by_block(ways);
    let mut nodes = Vec::new();
    for peer in &peers.nodes {
        let here = places(peer.addresses.iter().flat_map(|address| by(*address, links)), surroundings);
        let own = || peer.blocks.iter().filter_map(|block| Some((*block, *ways.get(block)?)));
        let has = |wanted| own().any(|(_, way)| way == wanted);
        let (mixed, tunnelled, learned) = (has(Way::Direct), has(Way::Tunnel), has(Way::Learned));
        for (block, way) in own() {
            let route = match way {
                Way::Direct => of_peer(peer, RouteKind::Fib, here),
                // Pods of a network with tunnels send to those of one with direct routes by these.
                Way::Tunnel => of_peer(peer, RouteKind::Tunnel, if mixed { here } else { 0 }),
                Way::Learned => of_peer(peer, RouteKind::Fib, everywhere),
            };
            add(block, route);
        }
        // A node behind a router comes in as its pods do.
        for address in peer.addresses.iter().filter(|address| !surroundings.addresses.contains(address)) {
            let here = if learned { everywhere } else { places(by(*address, links), surroundings) };
            let mut route = of_peer(peer, RouteKind::Stack, here);
            route.flags |= if tunnelled { ROUTE_TUNNEL } else { 0 };
            nodes.push((NODE_ROUTES, (*address).into(), route));
        }
    }
    routes.extend(nodes);
    routes
}

/// How a block is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Tunnel,
    Learned,
}

/// The ways by their blocks: a cluster may have thousands of both.
fn by_block(ways: &Ways) -> HashMap<IpNet, Way> {
    let direct = ways.direct.iter().map(|way| (way.block, Way::Direct));
    let tunnels = ways.tunnels.iter().map(|way| (way.block, Way::Tunnel));
    let learned = ways.learned.iter().map(|block| (*block, Way::Learned));
    direct.chain(tunnels).chain(learned).collect()
}

/// The places of uplinks in the node's record, a bit for each.
fn places(ifindexes: impl Iterator<Item = u32>, surroundings: &Surroundings) -> u16 {
    let uplink = |ifindex: u32| surroundings.uplinks.iter().find(|uplink| uplink.ifindex == ifindex);
    let here = ifindexes.filter_map(uplink).filter(|uplink| uplink.place < MAX_UPLINKS);
    here.fold(0, |places, uplink| places | 1 << uplink.place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compile::Uplink, model::Holder};

    fn peer(name: &str, addresses: &[&str], blocks: &[&str]) -> Peer {
        Peer {
            holder: Holder { node: name.into(), uid: format!("uid-of-{name}") },
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            blocks: blocks.iter().map(|text| text.parse().unwrap()).collect(),
            overlay: None,
        }
    }

    fn cluster() -> Peers {
        Peers {
            backends: Vec::new(),
            pools: vec!["10.64.0.0/16".parse().unwrap(), "fd00:64::/48".parse().unwrap()],
            nodes: vec![
                peer("far", &["203.0.113.9"], &["10.64.9.0/26"]),
                peer("six", &["2001:db8::6"], &["10.64.6.0/26", "fd00:64::600/122"]),
                peer("two", &["192.0.2.3", "2001:db8::3"], &["10.64.2.0/26", "fd00:64::200/122"]),
            ],
        }
    }

    fn links() -> Vec<(u32, IpNet)> {
        [(2, "192.0.2.2/24"), (7, "192.0.2.4/24"), (7, "2001:db8::2/64")]
            .map(|(ifindex, net)| (ifindex, net.parse().unwrap()))
            .into()
    }

    /// Uplinks by index, each with its place.
    fn at(uplinks: &[(u32, usize)]) -> Surroundings {
        let uplink = |&(ifindex, place): &(u32, usize)| Uplink {
            name: String::new(),
            ifindex,
            place,
            mtu: 1500,
            addresses: Vec::new(),
        };
        Surroundings { uplinks: uplinks.iter().map(uplink).collect(), ..Surroundings::default() }
    }

    #[test]
    fn a_block_is_reached_by_an_address_of_its_node_on_a_link() {
        let words = |ways: &Ways| {
            let direct = ways.direct.iter().map(|way| format!("{} {} {}", way.block, way.via, way.ifindex));
            let none = ways.unreached.iter().map(|(node, block)| format!("{block} {node}"));
            direct.chain(none).collect::<Vec<_>>()
        };
        let expected = [
            "10.64.6.0/26 2001:db8::6 7",
            "fd00:64::600/122 2001:db8::6 7",
            "10.64.2.0/26 192.0.2.3 2",
            "fd00:64::200/122 2001:db8::3 7",
            "10.64.9.0/26 far",
        ];
        assert_eq!(words(&ways(&cluster(), &links(), &BTreeSet::new(), Backend::Direct)), expected);
        let lost = ["six", "far"].map(|name| format!("uid-of-{name}")).into();
        assert_eq!(words(&ways(&cluster(), &links(), &lost, Backend::Direct)), expected[2..4]);
        let v4 = ways(&cluster(), &links()[..1], &BTreeSet::new(), Backend::Direct);
        assert_eq!(words(&v4)[0], "10.64.2.0/26 192.0.2.3 2");
        assert_eq!(v4.unreached.len(), 4, "no IPv6 block by an IPv4 address");
    }

    #[test]
    fn what_other_nodes_have_comes_in_by_the_links_they_are_on() {
        let surroundings = at(&[(2, 0), (7, 1)]);
        let mut network = Network {
            name: "default".into(),
            number: 1,
            blocks: vec!["10.64.1.0/26".parse().unwrap()],
            pools: Vec::new(),
            backend: None,
            ending: false,
            masquerade: true,
            no_masquerade: Vec::new(),
            inbound: crate::model::Inbound::Cluster,
            mtu: None,
        };
        let table = |network: &Network| {
            let ways = ways(&cluster(), &links(), &BTreeSet::new(), Backend::Direct);
            let row = |(network, prefix, route): (u32, IpNet, Route)| {
                format!("{network} {prefix} {} {} {}", route.kind, route.flags, route.uplinks)
            };
            let networks = std::slice::from_ref(network);
            let rows = peer_routes(networks, &surroundings, &cluster(), (&links(), 0), &ways);
            rows.into_iter().map(row).collect::<Vec<_>>()
        };
        // Kind 0 is the stack, 1 the FIB; flag 2 is another node's.
        let own = [
            "1 10.64.0.0/16 0 0 0",
            "0 10.64.0.0/16 0 0 0",
            "0 fd00:64::/48 0 0 0",
            "1 10.64.6.0/26 1 2 0",
            "0 10.64.6.0/26 1 2 2",
            "0 fd00:64::600/122 1 2 2",
            "1 10.64.2.0/26 1 2 0",
            "0 10.64.2.0/26 1 2 3",
            "0 fd00:64::200/122 1 2 3",
            "0 203.0.113.9/32 0 2 0",
            "0 2001:db8::6/128 0 2 2",
            "0 192.0.2.3/32 0 2 3",
            "0 2001:db8::3/128 0 2 2",
        ];
        assert_eq!(table(&network), own, "a node without a way is known for a node");
        network.blocks = vec!["10.61.0.0/24".parse().unwrap()];
        assert!(table(&network).iter().all(|row| row.starts_with("0 ")), "no pods of the cluster");
    }

    #[test]
    fn blocks_of_nodes_on_no_link_are_reached_by_tunnels() {
        let words = |backend| {
            let ways = ways(&cluster(), &links(), &BTreeSet::new(), backend);
            let tunnels = ways.tunnels.iter().map(|way| format!("{} {}", way.block, way.remote));
            (tunnels.collect::<Vec<_>>(), ways.direct.len(), ways.unreached.len())
        };
        assert_eq!(words(Backend::Direct), (vec![], 4, 1));
        assert_eq!(words(Backend::Auto), (vec!["10.64.9.0/26 203.0.113.9".to_owned()], 4, 0));
        let (all, direct, unreached) = words(Backend::Vxlan);
        assert_eq!((all.len(), direct, unreached), (5, 0, 0));
        assert_eq!(
            all[1..4],
            ["10.64.6.0/26 2001:db8::6", "fd00:64::600/122 2001:db8::6", "10.64.2.0/26 192.0.2.3"]
        );
        let v6 =
            [(7, "fe80::2/64"), (7, "192.0.2.4/24")].map(|(ifindex, net)| (ifindex, net.parse().unwrap()));
        let ways = ways(&cluster(), &v6, &BTreeSet::new(), Backend::Auto);
        assert_eq!(ways.unreached.len(), 2, "no address to send to the node from that has IPv6 only");
    }

    #[test]
    fn all_routes_of_a_node_name_one_end_of_tunnels() {
        let surroundings = at(&[(2, 0), (7, 1)]);
        let ways = ways(&cluster(), &links(), &BTreeSet::new(), Backend::Auto);
        let rows = peer_routes(&[], &surroundings, &cluster(), (&links(), 9), &ways);
        let of = |node: &str| {
            let of = |(_, prefix, route): &(u32, IpNet, Route)| {
                let ends = route.vni == 9 && route.node.to_ip().to_string() == node;
                ends.then(|| format!("{prefix} {} {} {}", route.kind, route.flags, route.uplinks))
            };
            rows.iter().filter_map(of).collect::<Vec<_>>()
        };
        // Kind 2 is a tunnel; flag 4 says that answers to the node take it.
        assert_eq!(of("203.0.113.9"), ["10.64.9.0/26 2 2 0", "203.0.113.9/32 0 6 0"]);
        let two =
            ["10.64.2.0/26 1 2 3", "fd00:64::200/122 1 2 3", "192.0.2.3/32 0 2 3", "2001:db8::3/128 0 2 2"];
        assert_eq!(of("192.0.2.3"), two, "let in by tunnels too, if that is how it sends");
    }
    #[test]
    fn what_is_learned_is_let_in_by_every_uplink() {
        let ways = ways(&cluster(), &links(), &BTreeSet::new(), Backend::Direct);
        let ways = crate::compile::with_learned(ways, &["10.64.9.0/26".parse().unwrap()]);
        let places = |surroundings: &Surroundings, prefix: &str| {
            let rows = peer_routes(&[], surroundings, &cluster(), (&links(), 0), &ways);
            let prefix = prefix.parse().unwrap();
            rows.into_iter().find(|(_, row, _)| *row == prefix).map(|(_, _, route)| route.uplinks)
        };
        for prefix in ["10.64.9.0/26", "203.0.113.9/32"] {
            assert_eq!(places(&at(&[(2, 0), (7, 1), (9, 4)]), prefix), Some(0b1_0011), "{prefix}");
        }
        assert_eq!(
            places(&at(&[(2, 0), (7, 1), (9, 4)]), "10.64.6.0/26"),
            Some(0b10),
            "on a link: by that alone"
        );
    }

    #[test]
    fn an_uplink_keeps_its_place_when_another_goes() {
        let ways = ways(&cluster(), &links(), &BTreeSet::new(), Backend::Direct);
        let places = |surroundings: &Surroundings| {
            let rows = peer_routes(&[], surroundings, &cluster(), (&links(), 0), &ways);
            let node = crate::compile::node(surroundings, &(32_768..=49_151), None, &[]);
            let row = rows.into_iter().find(|(_, row, _)| row.to_string() == "10.64.6.0/26").unwrap();
            (row.2.uplinks, crate::compile::places(&node))
        };
        let both = at(&[(2, 0), (7, 1)]);
        let (by_second, before) = places(&both);
        assert_eq!((by_second, &before[..3]), (0b10, &[2, 7, 0][..]));
        // The first goes; later another comes.
        let mut uplinks = both.uplinks[1..].to_vec();
        crate::compile::give_places(&mut uplinks, &before);
        let (still, after) = places(&Surroundings { uplinks: uplinks.clone(), ..both.clone() });
        assert_eq!((still, &after[..3]), (0b10, &[0, 7, 0][..]), "routes of before and after name the same");
        uplinks.insert(0, Uplink { ifindex: 12, ..uplinks[0].clone() });
        crate::compile::give_places(&mut uplinks, &before);
        assert_eq!(uplinks.iter().map(|uplink| uplink.place).collect::<Vec<_>>(), [2, 1], "not just left");
        crate::compile::give_places(&mut uplinks, &after);
        assert_eq!(uplinks.iter().map(|uplink| uplink.place).collect::<Vec<_>>(), [0, 1]);
        // All places taken: one that was left is better than none.
        let mut all: Vec<_> = (20..28).map(|ifindex| Uplink { ifindex, ..uplinks[0].clone() }).collect();
        crate::compile::give_places(&mut all, &[20, 21, 22, 23, 24, 25, 26, 99]);
        assert_eq!(all[7].place, 7);
    }
}
