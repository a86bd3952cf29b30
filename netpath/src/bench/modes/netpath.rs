//! `netpath`: pods of a running agent.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    bench::{Mode, Pair, Path},
    lab::topology::{OUTSIDE, Topology},
    net::Netns,
};

/// Two pods that an agent made on the topology's node.
#[derive(Debug)]
pub struct Netpath {
    client: Netns,
    server: Netns,
    address: Ipv4Addr,
    topology: Arc<Topology>,
}

impl Netpath {
    /// From the namespaces of two pods; `address` is the second one's.
    pub fn new(client: Netns, server: Netns, address: Ipv4Addr, topology: Arc<Topology>) -> Self {
        Self { client, server, address, topology }
    }
}

impl Mode for Netpath {
    fn name(&self) -> &'static str {
        "netpath"
    }

    fn pair(&self, path: Path) -> Option<Pair<'_>> {
        let (server, address) = match path {
            Path::PodPod => (&self.server, self.address),
            Path::PodOutside => (&self.topology.outside.netns, OUTSIDE),
        };
        Some(Pair { client: &self.client, server, address })
    }
}
