//! BGP as a node speaks it, through BIRD.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

/// All that the node tells BIRD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// Number of the own autonomous system.
    pub local_as: u32,
    /// Unique among all that speak BGP here.
    pub router_id: Ipv4Addr,
    /// What is advertised: prefixes that pods of this node, and nobody else's, have addresses of.
    pub blocks: Vec<IpNet>,
    /// What the node's own pods have addresses of, advertised or not: no route to it is learned.
    pub own: Vec<IpNet>,
    /// The cluster's pools: routes to parts of them are learned from every session.
    pub pools: Vec<IpNet>,
    /// Blocks of other nodes, to which netpath has routes of its own, direct or by tunnels.
    pub direct: Vec<IpNet>,
    /// With whom it speaks.
    pub sessions: Vec<BgpSession>,
}

/// A session with one neighbour.
#[derive(Clone, PartialEq, Eq)]
pub struct BgpSession {
    /// The neighbour's address: carries routes of its family.
    pub address: IpAddr,
    /// The own address of it; the kernel's choice if absent.
    pub source: Option<IpAddr>,
    /// The neighbour's autonomous system.
    pub remote_as: u32,
    /// Name of the node, of a neighbour that is one of the cluster.
    pub node: Option<String>,
    /// Whether it is on the link of an uplink.
    pub near: bool,
    /// Whether an IPv6 session carries IPv4 routes as well (RFC 8950).
    pub ipv4: bool,
    /// Whether this node reflects routes to it (RFC 4456).
    pub rr_client: bool,
    /// The secret of RFC 2385, if it has one.
    pub password: Option<String>,
    /// What is learned from it beside routes to parts of the pools.
    pub accept: Vec<Accepted>,
}

/// Without the password.
impl fmt::Debug for BgpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BgpSession({} as {})", self.address, self.remote_as)
    }
}

/// Prefixes that routes are learned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The prefix.
    pub prefix: IpNet,
    /// Whether all that lies in it is accepted as well.
    pub longer: bool,
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, if self.longer { "+" } else { "" })
    }
}
