//! Other nodes of a cluster, as this one sends to them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Holder;

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
    /// The other nodes, by name.
    pub nodes: Vec<Peer>,
}

impl Peers {
    /// The node whose block holds an address.
    pub fn holder_of(&self, address: IpAddr) -> Option<&Peer> {
        self.nodes.iter().find(|peer| peer.blocks.iter().any(|block| block.contains(&address)))
    }
}
