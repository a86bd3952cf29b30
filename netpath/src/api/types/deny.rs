//! The deny list.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Prefix;

/// `POST /v1/deny`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyAdd {
    /// Whose packets are dropped at the uplinks; all of these, or none if one is not valid.
    pub prefixes: Vec<Prefix>,
}

/// A prefix of the deny list, in `GET /v1/deny`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// Whose packets are dropped.
    #[schema(value_type = String)]
    pub prefix: IpNet,
    /// Packets dropped since it was added; of a source that several prefixes hold, by the longest.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}
