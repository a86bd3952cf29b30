//! What the programs would do with a packet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Protocol;

/// `POST /v1/trace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TraceRequest {
    /// Who sends: a pod's name, an address of a pod, of the node or outside, or `node`.
    pub source: String,
    /// Whom it is for: the same.
    pub destination: String,
    /// Protocol; TCP if a port is given, else echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Source port, or the identifier of an echo; 50000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination port; 80 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Length of the IP packet, bytes; as long as its headers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
    /// Hops left; 64 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Address that the sender claims to have; its own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source_address: Option<IpAddr>,
    /// Uplink where a packet from outside comes in, or one of the node leaves; as the node's routes say if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
}

/// Answer to `POST /v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    /// The packet's way.
    pub forward: TracedWay,
    /// The answer's, if it can be told: between local pods, and where a flow is known.
    pub reply: Option<TracedWay>,
    /// Why there is no reply, in words.
    pub no_reply: Option<String>,
}

/// A packet's way through the programs, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TracedWay {
    /// The programs that it meets, in order.
    pub programs: Vec<TracedProgram>,
    /// `delivered` (to a pod), `sent` (out of an uplink), `stack` (to the node's own network stack), `answered` (by the
    /// gateway) or `dropped`.
    pub verdict: String,
    /// The same in words.
    pub detail: String,
    /// Drop reason.
    pub reason: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
    /// The packet as it is at the end.
    pub packet: TracedPacket,
}

/// What one program decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TracedProgram {
    /// Name of the program.
    pub program: String,
    /// Interface it runs on.
    pub interface: String,
    /// Its decisions, in order.
    pub stages: Vec<TracedStage>,
}

/// A decision. What does not belong to it is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TracedStage {
    /// `parse`, `guard`, `endpoint`, `route`, `next_hop`, `flow`, `translation`, `deliver` or `drop`.
    pub stage: String,
    /// In words.
    pub decision: String,
    /// `endpoint`, `flow`: the pod concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `next_hop`: where it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `next_hop`: the neighbour; `translation`: the new address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// `translation`: the new port; of a new flow one that is free now, and not promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `next_hop`: the source address of the route, where the kernel tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source: Option<IpAddr>,
    /// `next_hop`, `endpoint`: MTU, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `flow`: whether a new one would be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<bool>,
    /// `route`: whether what leaves carries the node's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
}

/// A packet's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TracedPacket {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol: String,
    /// Source address.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Its port; the identifier of an echo.
    pub source_port: u16,
    /// Destination address.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Its port; the identifier of an echo.
    pub destination_port: u16,
    /// Length of the IP packet, bytes.
    pub length: u32,
    /// Hops left.
    pub ttl: u8,
}
