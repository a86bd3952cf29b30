//! Pure model → records of the kernel tables.

mod node;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use netpath_common::abi::{
    ENDPOINT_INBOUND_ANY, ENDPOINT_MASQUERADE, Endpoint, Link, NODE_ROUTES, Route, RouteKind,
};

pub use self::node::{node, sources, unused_sources};
use crate::model::{GATEWAY, Inbound, Network, Pod};

/// What the node's surroundings look like now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The uplinks that exist.
    pub uplinks: Vec<Uplink>,
    /// Every address of the node, on whatever interface.
    pub addresses: Vec<IpAddr>,
}

/// An uplink that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its addresses, the one first of each family that flows leaving here are translated to where nothing says
    /// otherwise; none of them link-local IPv6.
    pub addresses: Vec<IpAddr>,
}

/// The record of a pod's addresses, all of one interface. `mtu` is the interface's.
pub fn endpoint(network: &Network, pod: &Pod, ifindex: u32, mtu: u32) -> Endpoint {
    let inbound = if network.inbound == Inbound::Any { ENDPOINT_INBOUND_ANY } else { 0 };
    let masquerade = if network.masquerade { ENDPOINT_MASQUERADE } else { 0 };
    Endpoint {
        ifindex,
        pod: pod.id,
        slot: pod.slot,
        identity: 0,
        mac: pod.mac.0,
        // No interface of a pod has more: the configuration and the API refuse it.
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        network: NETWORK,
        flags: inbound | masquerade,
        reserved: 0,
    }
}

/// Whose a pod's host end is.
pub fn link(pod: &Pod) -> Link {
    Link { pod: pod.id, mac: pod.mac.0, pad: 0 }
}

/// Number of the one network there is.
const NETWORK: u32 = 1;

/// What ROUTES holds: every prefix once, in order.
///
/// The node's own addresses, the pods' gateway and the block belong to the node's stack, which knows the block as
/// unreachable: local pods are found before any route. IPv4 only, as pods have no other addresses yet.
pub fn routes(network: &Network, surroundings: &Surroundings) -> Vec<(u32, IpNet, Route)> {
    let stack = Route::new(RouteKind::Stack, false);
    let mut routes = BTreeMap::new();
    routes.insert(Ipv4Net::default(), Route::new(RouteKind::Fib, network.masquerade));
    for prefix in &network.no_masquerade {
        routes.insert(*prefix, Route::new(RouteKind::Fib, false));
    }
    routes.insert(network.block, stack);
    let own = surroundings.addresses.iter().filter_map(|address| match address {
        // A pod's packet to 127/8 is a martian, wherever it is routed.
        IpAddr::V4(v4) if !v4.is_loopback() => Some(*v4),
        _ => None,
    });
    for address in own.chain([GATEWAY]) {
        routes.insert(Ipv4Net::from(address), stack);
    }
    let node = (NODE_ROUTES, IpNet::V4(network.block), stack);
    routes.into_iter().map(|(prefix, route)| (NETWORK, IpNet::V4(prefix), route)).chain([node]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DEFAULT_NETWORK, Mac, PodState};

    fn network() -> Network {
        Network {
            name: DEFAULT_NETWORK.to_owned(),
            block: "10.61.0.0/24".parse().unwrap(),
            masquerade: true,
            no_masquerade: vec!["10.0.0.0/8".parse().unwrap()],
            inbound: Inbound::Cluster,
        }
    }

    fn surroundings() -> Surroundings {
        let uplink =
            |ifindex, addresses| Uplink { name: format!("eth{ifindex}"), ifindex, mtu: 1500, addresses };
        let addresses = ["127.0.0.1", "192.0.2.2", "172.17.0.1", "::1", "2001:db8::2"];
        Surroundings {
            uplinks: vec![uplink(2, vec!["192.0.2.2".parse().unwrap()]), uplink(3, Vec::new())],
            addresses: addresses.map(|text| text.parse().unwrap()).into(),
        }
    }

    fn table(network: &Network) -> Vec<String> {
        let words = |(number, prefix, route): &(u32, IpNet, Route)| {
            format!("{number} {prefix} {} {}", route.kind, route.flags)
        };
        routes(network, &surroundings()).iter().map(words).collect()
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
            "0 10.61.0.0/24 0 0",
        ];
        assert_eq!(table(&network()), expected);
    }

    #[test]
    fn without_masquerade_every_way_out_keeps_the_pods_address() {
        let network = Network { masquerade: false, ..network() };
        assert!(table(&network).iter().all(|line| line.ends_with(" 0")));
    }

    #[test]
    fn a_no_masquerade_prefix_never_hides_the_block() {
        let network = Network { no_masquerade: vec!["10.61.0.0/24".parse().unwrap()], ..network() };
        assert!(table(&network).contains(&"1 10.61.0.0/24 0 0".to_owned()));
    }

    #[test]
    fn record_of_a_pod() {
        let pod = Pod {
            id: 9,
            name: "web".parse().unwrap(),
            network: DEFAULT_NETWORK.to_owned(),
            addresses: vec!["10.61.0.5".parse().unwrap()],
            mac: Mac([2, 0x6e, 10, 61, 0, 5]),
            interface: "np9".to_owned(),
            slot: 4,
            netns: "/run/netns/web".into(),
            owns_netns: true,
            mtu: None,
            labels: BTreeMap::new(),
            state: PodState::Ready,
        };
        let record = endpoint(&network(), &pod, 12, 1450);
        assert_eq!(record.flags, ENDPOINT_MASQUERADE);
        let open = Network { inbound: Inbound::Any, masquerade: false, ..network() };
        assert_eq!(endpoint(&open, &pod, 12, 1450).flags, ENDPOINT_INBOUND_ANY);
        assert_eq!((record.ifindex, record.pod, record.slot, record.mtu), (12, 9, 4, 1450));
        assert_eq!(record.mac, pod.mac.0);
    }
}
