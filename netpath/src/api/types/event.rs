//! Events as they happen.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One line of `GET /v1/events` (newline-delimited JSON until the client leaves).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Wall clock, milliseconds since 1970.
    pub time_ms: u64,
    /// `drop`, `flow`, or `lost`: some events are missing here.
    pub kind: String,
    /// Drop reason, for a drop. For `lost`: `drops-held-back` and `flows-held-back` (the rate limit), `ring-full` (the agent
    /// was too slow) or `slow-reader` (this client was).
    pub reason: Option<String>,
    /// For `lost`: how many; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// The pod concerned, if one is.
    pub pod: Option<String>,
    /// Interface the program ran on; absent for `lost`, as are the program and the protocol.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// The program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// `tcp`, `udp`, `icmp`, or the number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Source address; absent if the packet was not parsed that far.
    #[schema(value_type = Option<String>)]
    pub source: Option<IpAddr>,
    /// Its port.
    pub source_port: u16,
    /// Destination address.
    #[schema(value_type = Option<String>)]
    pub destination: Option<IpAddr>,
    /// Its port.
    pub destination_port: u16,
    /// For a flow: translated source.
    #[schema(value_type = Option<String>)]
    pub translated_source: Option<IpAddr>,
    /// Translated port.
    pub translated_port: Option<u16>,
    /// Packet length, bytes.
    pub length: u32,
}

impl Event {
    /// So many events are missing here.
    pub fn of_loss(time_ms: u64, why: &str, lost: u64) -> Self {
        Self { time_ms, kind: "lost".into(), reason: Some(why.into()), lost: Some(lost), ..Self::default() }
    }
}
