//! Networks: where pods get addresses from, and what their traffic may do.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Name of the network every node has.
pub const DEFAULT_NETWORK: &str = "default";

/// What a pod routes via. Link-local, the same on every node, and never on a wire.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

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

/// A set of pods with a subnet and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Name.
    pub name: String,
    /// The node's slice of it: pods' addresses come from here.
    pub block: Ipv4Net,
    /// Whether traffic to outside carries the node's address.
    pub masquerade: bool,
    /// Destinations that see the pod's own address all the same.
    pub no_masquerade: Vec<Ipv4Net>,
    /// Who may open connections to a pod's own address.
    pub inbound: Inbound,
}
