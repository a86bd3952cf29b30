//! Other nodes of a cluster, as this one sends to them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Holder;

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By direct routes where the other node is on an uplink's link, else by tunnels.
    #[default]
    Auto,
    /// By direct routes, or not at all.
    Direct,
    /// By tunnels (VXLAN, RFC 7348).
    Vxlan,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Vxlan];

    /// Stable name, as in the configuration and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
        }
    }

    /// The inverse of its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == text)
    }
}

/// Another node, with what its pods have addresses of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is.
    #[serde(flatten)]
    pub holder: Holder,
    /// The addresses of its uplinks.
    pub addresses: Vec<IpAddr>,
    /// Its blocks.
    pub blocks: Vec<IpNet>,
}

/// What a node has to know of its cluster to send to other nodes' pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// What all blocks are of: no address of these is anybody's but a pod's.
    pub pools: Vec<IpNet>,
    /// Pools whose pods are reached by another backend than the node's.
    #[serde(default)]
    pub backends: Vec<(IpNet, Backend)>,
    /// The other nodes, by name.
    pub nodes: Vec<Peer>,
}

impl Peers {
    /// How a block is reached, if its network says so.
    pub fn backend_of(&self, block: IpNet) -> Option<Backend> {
        self.backends.iter().find(|(pool, _)| pool.contains(&block)).map(|(_, backend)| *backend)
    }

    /// The node whose block holds an address.
    pub fn holder_of(&self, address: IpAddr) -> Option<&Peer> {
        self.nodes.iter().find(|peer| peer.blocks.iter().any(|block| block.contains(&address)))
    }
}
