//! Networks: where pods get addresses from, and what their traffic may do.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Backend, Pool};

/// Name of the network every node has.
pub const DEFAULT_NETWORK: &str = "default";

/// Number of [`DEFAULT_NETWORK`] in the kernel tables.
pub const DEFAULT_NETWORK_NUMBER: u32 = 1;

/// What a pod routes IPv4 via. Link-local, the same on every node, and never on a wire.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The least MTU IPv6 works with, bytes (RFC 8200, 5).
pub const MIN_MTU_V6: u32 = 1280;

/// An address family. IPv4 comes first, as in every listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// What pods route this family via.
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => GATEWAY_V4.into(),
            Self::V6 => GATEWAY_V6.into(),
        }
    }

    /// All addresses.
    pub fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            Self::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Who may open connections to a pod's own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inbound {
    /// Pods and nodes of the cluster.
    #[default]
    Cluster,
    /// Anybody who has a route.
    Any,
}

impl Inbound {
    /// The inverse of its text.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "cluster" => Some(Self::Cluster),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Any => "any",
        })
    }
}

/// A set of pods with subnets and rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Name.
    pub name: String,
    /// Number in the kernel tables of this node, never 0 there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub number: u32,
    /// The node's slices of it, IPv4 first: a pod gets an address of each family. One of each family, but for networks of a
    /// cluster: these have none before their first pod, and more when they are full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<IpNet>,
    /// What all nodes of the cluster claim blocks of, one of each family, IPv4 first. None if it is this node's alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// How its pods on other nodes are reached; as `cluster.backend` says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Whether the cluster is about to remove it: no pods join it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
    /// Whether traffic to outside carries the node's address.
    pub masquerade: bool,
    /// Destinations that see the pod's own address all the same.
    pub no_masquerade: Vec<IpNet>,
    /// Who may open connections to a pod's own address.
    pub inbound: Inbound,
    /// MTU of its pods that ask for none, bytes; follows the node's if absent.
    pub mtu: Option<u32>,
}

/// Settings of a network that can change at run time. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// [`Network::masquerade`].
    pub masquerade: Option<bool>,
    /// [`Network::no_masquerade`].
    pub no_masquerade: Option<Vec<IpNet>>,
    /// [`Network::inbound`].
    pub inbound: Option<Inbound>,
    /// [`Network::mtu`]; 0 takes it away.
    pub mtu: Option<u32>,
    /// [`Network::backend`].
    #[serde(default)]
    pub backend: Option<Backend>,
}

impl NetworkChange {
    /// The network with this change.
    pub fn apply(&self, network: Network) -> Network {
        Network {
            masquerade: self.masquerade.unwrap_or(network.masquerade),
            no_masquerade: self.no_masquerade.clone().unwrap_or(network.no_masquerade),
            inbound: self.inbound.unwrap_or(network.inbound),
            mtu: self.mtu.map_or(network.mtu, |mtu| Some(mtu).filter(|mtu| *mtu != 0)),
            backend: self.backend.or(network.backend),
            ..network
        }
    }

    /// This change, and a later one over it.
    pub fn then(self, later: Self) -> Self {
        Self {
            masquerade: later.masquerade.or(self.masquerade),
            no_masquerade: later.no_masquerade.or(self.no_masquerade),
            inbound: later.inbound.or(self.inbound),
            mtu: later.mtu.or(self.mtu),
            backend: later.backend.or(self.backend),
        }
    }
}

impl Network {
    /// The families it has addresses of, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6].into_iter().filter(|family| self.has(*family))
    }

    /// Whether it has addresses of a family.
    pub fn has(&self, family: Family) -> bool {
        let pools = self.pools.iter().map(|pool| pool.prefix);
        self.blocks.iter().copied().chain(pools).any(|one| Family::of(one.addr()) == family)
    }

    /// What the cluster's records have of it: all but what is this node's own.
    pub fn shared(self) -> Self {
        Self { number: 0, blocks: Vec::new(), ..self }
    }

    /// The prefixes that are its own: its pools, or the blocks of a network of this node alone.
    pub fn subnets(&self) -> Vec<IpNet> {
        if self.pools.is_empty() {
            return self.blocks.clone();
        }
        self.pools.iter().map(|pool| pool.prefix).collect()
    }
}

/// Networks of a cluster, as its records have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNetworks {
    /// Counts changes.
    #[serde(default)]
    pub revision: u64,
    /// What was changed of the network that every node has.
    #[serde(default)]
    pub default: NetworkChange,
    /// Those that were added, by name, as [`Network::shared`] has them.
    #[serde(default)]
    pub added: Vec<Network>,
}

impl SharedNetworks {
    /// How pods in a pool are reached where a network says so.
    pub fn backends(&self, pools: &[Pool]) -> Vec<(IpNet, Backend)> {
        let default = pools.iter().map(|pool| (pool.prefix, self.default.backend));
        let added = self.added.iter().flat_map(|one| one.pools.iter().map(|pool| (pool.prefix, one.backend)));
        default.chain(added).filter_map(|(prefix, backend)| Some((prefix, backend?))).collect()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_change_wins_and_nothing_else_changes() {
        let network = Network {
            name: "n".into(),
            number: 2,
            blocks: vec!["10.0.0.0/24".parse().unwrap()],
            pools: Vec::new(),
            backend: None,
            ending: false,
            masquerade: true,
            no_masquerade: Vec::new(),
            inbound: Inbound::Cluster,
            mtu: None,
        };
        let first = NetworkChange { masquerade: Some(false), mtu: Some(1400), ..NetworkChange::default() };
        let second = NetworkChange { masquerade: Some(true), inbound: Some(Inbound::Any), ..first.clone() };
        let both = first.clone().then(second.clone());
        assert_eq!(both.apply(network.clone()), second.apply(first.apply(network.clone())));
        assert_eq!(NetworkChange::default().apply(network.clone()), network);
        let reset = NetworkChange { mtu: Some(0), ..NetworkChange::default() };
        assert_eq!(both.then(reset).apply(network).mtu, None);
    }
}
