//! Networks: where pods get addresses from, and what their traffic may do.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
    /// Number in the kernel tables, never 0.
    pub number: u32,
    /// The node's slice of it, at most one prefix of each family, IPv4 first: a pod gets an address of each.
    pub blocks: Vec<IpNet>,
    /// Whether traffic to outside carries the node's address.
    pub masquerade: bool,
    /// Destinations that see the pod's own address all the same.
    pub no_masquerade: Vec<IpNet>,
    /// Who may open connections to a pod's own address.
    pub inbound: Inbound,
}

impl Network {
    /// The families it has addresses of.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.blocks.iter().map(|block| Family::of(block.addr()))
    }

    /// Whether it has addresses of a family.
    pub fn has(&self, family: Family) -> bool {
        self.families().any(|own| own == family)
    }
}
