//! Nodes of a cluster.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PATCH /v1/nodes/NAME`, of the node that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSet {
    /// Whether it takes no new pods.
    pub drained: bool,
}

/// A node of the cluster, in `GET /v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The addresses of its uplinks.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The blocks that its pods have addresses of.
    #[schema(value_type = Vec<String>)]
    pub blocks: Vec<IpNet>,
    /// How this node sends to its pods: `direct` by routes to the node, `vxlan` by a tunnel, `bgp` by routes that BIRD has learned. Absent if there is no way, and for this node.
    pub backend: Option<String>,
    /// `ready`, `drained` if it takes no new pods, or `away` when etcd has not heard of it for 30 s; as this node has last heard.
    pub state: String,
    /// Whether it is the one that answers.
    pub own: bool,
}
