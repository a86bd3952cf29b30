//! Published ports.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A publication, in `GET /v1/published`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The node's address; `*` for every one, `0.0.0.0` or `::` for those of a family.
    pub address: String,
    /// First port of the node.
    pub port: u16,
    /// How many ports, of node and pod.
    pub ports: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The pod that it leads to.
    pub pod: String,
    /// First port of the pod.
    pub pod_port: u16,
    /// Connections that go by it now, as the flow table knows them.
    pub connections: u64,
}
