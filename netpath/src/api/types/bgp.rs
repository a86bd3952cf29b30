//! BGP.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A session of the node's BIRD, in `GET /v1/bgp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BgpSession {
    /// The neighbour's address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its autonomous system.
    pub remote_as: u32,
    /// Name of the node, if it is one of the cluster.
    pub node: Option<String>,
    /// `Established`, another of BIRD's states, or `absent` if BIRD does not know the session.
    pub state: String,
    /// Routes that were learned from it, of both families.
    pub imported: u64,
    /// Routes that it was told.
    pub exported: u64,
    /// What went wrong last, in BIRD's words.
    pub error: Option<String>,
}

/// `GET /v1/bgp/configuration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BgpConfiguration {
    /// The file that it is written to.
    pub file: String,
    /// What BIRD is told, without passwords.
    pub text: String,
}
