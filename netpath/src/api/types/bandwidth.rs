//! How much may pass.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A limit of what a pod gets or sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// Bits a second, Ethernet headers included. In a change of a pod, 0 takes the limit off.
    pub rate: u64,
    /// Bytes that may pass at once after a pause; chosen by the rate if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}
