//! Shapes of requests and answers. Field names are stable: scripts rely on them.

mod attachment;
mod bandwidth;
mod bgp;
mod cluster;
mod deny;
mod event;
mod failure;
mod filter;
mod pod;
mod publish;
mod removal;
mod trace;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use self::{
    attachment::{Attachment, AttachmentFilter},
    bandwidth::Bandwidth,
    bgp::{BgpConfiguration, BgpSession},
    cluster::{ClusterNode, NodeSet},
    deny::{Denied, DenyAdd},
    event::Event,
    failure::{Failure, FailureCode},
    filter::{FlowFilter, FlowSort, FlowState, Flushed, Prefix, Protocol},
    pod::{Pod, PodAdd, PodInterface, PodSet},
    publish::Published,
    removal::PodRemoval,
    trace::{Trace, TraceRequest, TracedPacket, TracedProgram, TracedStage, TracedWay},
};

/// `POST /v1/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkAdd {
    /// Name of the network, unique on the node.
    pub name: String,
    /// Prefixes that pods' addresses come from, one of each family at most.
    #[schema(value_type = Vec<String>)]
    pub subnets: Vec<IpNet>,
    /// Whether traffic to outside carries the node's address; yes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    /// Destinations that see the pod's own address all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub no_masquerade: Vec<IpNet>,
    /// `cluster` or `any`: who may open connections to a pod's own address; `cluster` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<String>,
    /// MTU of its pods; the node's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// In a cluster, `cluster` or `node`: whether all nodes have it, with blocks of the subnets, or this one alone; `cluster`
    /// if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Length of nodes' blocks of an IPv4 subnet; 26 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_length_v4: Option<u8>,
    /// The same for IPv6; 122 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_length_v6: Option<u8>,
    /// `auto`, `direct` or `vxlan`: how its pods on other nodes are reached; as `cluster.backend` says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// `PATCH /v1/networks/NAME`: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSet {
    /// Whether traffic to outside carries the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    /// Destinations that see the pod's own address all the same, in place of those so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub no_masquerade: Option<Vec<IpNet>>,
    /// `cluster` or `any`: who may open connections to a pod's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<String>,
    /// MTU of its pods; 0 for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `auto`, `direct` or `vxlan`: how its pods on other nodes are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// A network, in `GET /v1/networks` and as the answer to `POST` and `PATCH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Name.
    pub name: String,
    /// Prefixes the addresses of its pods on this node come from.
    #[schema(value_type = Vec<String>)]
    pub subnets: Vec<IpNet>,
    /// `cluster` if all nodes have it, else `node`.
    #[serde(default)]
    pub scope: String,
    /// What the nodes' blocks are of; none if this node alone has it.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<IpNet>,
    /// How its pods on other nodes are reached; null if this node alone has it.
    #[serde(default)]
    pub backend: Option<String>,
    /// Whether traffic to outside carries the node's address.
    pub masquerade: bool,
    /// Destinations that see the pod's own address all the same.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub no_masquerade: Vec<IpNet>,
    /// `cluster` or `any`: who may open connections to a pod's own address.
    pub inbound: String,
    /// MTU of its pods.
    pub mtu: u32,
    /// Pods in it.
    pub pods: u32,
}

/// A flow, in `GET /v1/flows` ([`FlowFilter`]): both directions in one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol: String,
    /// Who opened it.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Its port; the identifier for an echo.
    pub source_port: u16,
    /// To whom.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// What the source was translated to, if it was.
    #[schema(value_type = Option<String>)]
    pub translated_source: Option<IpAddr>,
    /// Translated port.
    pub translated_port: Option<u16>,
    /// The pod's address behind a published port, if it came by one.
    #[schema(value_type = Option<String>)]
    pub translated_destination: Option<IpAddr>,
    /// The pod's port there.
    pub translated_destination_port: Option<u16>,
    /// `unreplied`, `established`, `closing` or `reset`.
    pub state: String,
    /// Name of the pod it belongs to; its number if the pod is gone.
    pub pod: String,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Seconds since its last packet (kept to the second).
    pub idle_s: u64,
    /// Packets of the original direction.
    pub packets: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Packets of the reply direction.
    pub reply_packets: u64,
    /// Bytes of it.
    pub reply_bytes: u64,
}

/// Query of `GET /v1/drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct DropFilter {
    /// Reasons without packets as well.
    pub all: bool,
}

/// One drop reason, in `GET /v1/drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    /// Stable name of the reason.
    pub reason: String,
    /// Packets dropped since the tables were made.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What it means.
    #[serde(default)]
    pub meaning: String,
    /// What to do.
    pub advice: String,
}

/// A traffic class, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Stable name of the class.
    pub class: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A program where it is attached, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramStatus {
    /// Name in the ELF.
    pub name: String,
    /// Interface; empty for a hook of the node's sockets.
    pub interface: String,
    /// Kernel's id of the program.
    pub id: u32,
    /// `tcx` or `clsact`; for XDP `xdp-driver` or `xdp-generic`; `cgroup` for a hook of the node's sockets.
    pub attach: String,
}

/// Use of the SNAT range, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnatStatus {
    /// `FIRST-LAST`.
    pub range: String,
    /// Bindings in use (over all destinations).
    pub in_use: u64,
    /// Packets dropped because no port was free.
    pub exhausted: u64,
    /// What flows are translated to: the pool, else what the uplinks have.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Destinations that no port was free for, those with most packets; ten at most.
    #[serde(default)]
    pub exhausted_destinations: Vec<ExhaustedDestination>,
    /// How many ports bindings took to find a free one.
    #[serde(default)]
    pub tries: Vec<SnatTries>,
}

/// A destination that no port was free for, in [`SnatStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExhaustedDestination {
    /// Its address.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Its port; 0 for an echo.
    pub port: u16,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol: String,
    /// Packets dropped.
    pub packets: u64,
    /// The pod that sent the last of them; its number if it is gone.
    pub pod: String,
}

/// A row of a histogram, in [`SnatStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnatTries {
    /// Ports tried, more than the row before has.
    pub up_to: u32,
    /// Bindings that took so many.
    pub bindings: u64,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Uplinks, by name.
    pub uplinks: Vec<String>,
    /// Directory of pinned programs and tables, as the agent sees it.
    #[serde(default)]
    pub pin_dir: String,
    /// Attached programs.
    pub programs: Vec<ProgramStatus>,
    /// Programs on pods that came by filters and are still to be moved to tcx links.
    #[serde(default)]
    pub settling: u32,
    /// Whether the node's FORWARD chains are asked who may begin something by a published port (`datapath.firewall`).
    #[serde(default)]
    pub asks_firewall: bool,
    /// Number of pods.
    pub pods: u32,
    /// Flows tracked (both directions are one).
    pub flows: u64,
    /// Flows that fit.
    pub flow_capacity: u64,
    /// Source translation.
    pub snat: SnatStatus,
    /// Traffic by class.
    pub traffic: Vec<Traffic>,
    /// Kind and place of the store.
    pub store: String,
    /// What is wrong now, in words; empty is well.
    pub problems: Vec<String>,
}
