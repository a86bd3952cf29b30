//! Pods.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Attachment, Bandwidth};

/// `POST /v1/pods`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PodAdd {
    /// Name of the pod, unique on the node.
    pub name: String,
    /// Networks to join, each with an interface of its own; the default network if empty. Or one of `none` (a loopback
    /// interface only), `host` (the node's namespace) and `pod:NAME` (that pod's namespace), with a name and labels only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Addresses wanted, one of each network and family at most; the agent chooses the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Addresses that the pod may use on its first interface beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub allowed_addresses: Vec<IpAddr>,
    /// Whether outside sees the pod's own address, even if its networks say otherwise.
    #[serde(default)]
    pub no_masquerade: bool,
    /// MAC wanted for the first interface, `aa:bb:cc:dd:ee:ff`; derived from the address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Existing network namespace to attach; `/run/netns/NAME` is made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// MTU; the uplink's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `tc` or `xdp`: which way packets take to other pods of the node; the node's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// For container engines: what they call it. Its interface has the name given there, the namespace may have other pods,
    /// and asking again for the same one changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// No other addresses than those wanted, whatever families the networks have.
    #[serde(default)]
    pub no_other_addresses: bool,
    /// Ports of the node that lead to the pod, `[IP:]PORT[-PORT]:PORT[-PORT][/tcp|udp|sctp]`: the node's, then the pod's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// What the pod may get, by each of its interfaces; all there is if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<Bandwidth>,
    /// What the pod may send, by all its interfaces together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<Bandwidth>,
}

/// `PATCH /v1/pods/NAME`: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PodSet {
    /// Outside sees the pod's own address, whatever its networks say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_masquerade: Option<bool>,
    /// `tc` or `xdp`: which way packets take to other pods of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Ports of the node that lead to the pod from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Those that no longer do, as they were published; connections by them end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpublish: Vec<String>,
    /// What the pod may get, by each of its interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<Bandwidth>,
    /// What the pod may send, by all its interfaces together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<Bandwidth>,
}

/// A pod, in `GET /v1/pods` and as the answer to `POST`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Network of its first interface; `none`, `host` or `pod:NAME` if it has no interface of its own.
    pub network: String,
    /// Addresses of its first interface; those of the pod whose namespace it shares.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// MAC of its first interface.
    pub mac: String,
    /// Name of the host end of its first veth pair.
    pub interface: String,
    /// Index of that host end; 0 while it does not exist.
    pub ifindex: u32,
    /// All its interfaces.
    #[serde(default)]
    pub interfaces: Vec<PodInterface>,
    /// Addresses that it may use beside these.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub allowed_addresses: Vec<IpAddr>,
    /// Whether outside sees its own address, even if its networks say otherwise.
    #[serde(default)]
    pub no_masquerade: bool,
    /// Path of its network namespace, as the agent sees it.
    pub netns: String,
    /// `ready`, `creating`, `removing`, or `failed: REASON`.
    pub state: String,
    /// Packets delivered to it.
    pub rx_packets: u64,
    /// Bytes delivered to it.
    pub rx_bytes: u64,
    /// Packets it sent.
    pub tx_packets: u64,
    /// Bytes it sent.
    pub tx_bytes: u64,
    /// MTU of its first interface.
    pub mtu: u32,
    /// `tc` or `xdp`: which way packets take to other pods of the node.
    #[serde(default)]
    pub mode: String,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub published: Vec<String>,
    /// What it may get, by each of its interfaces; absent if that is all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<Bandwidth>,
    /// What it may send, by all its interfaces together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<Bandwidth>,
    /// Labels given when it was added.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the container engine that added it calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
}

/// One of a pod's interfaces, in [`Pod`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodInterface {
    /// Name inside the pod.
    pub name: String,
    /// Network it is in.
    pub network: String,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Its MAC.
    pub mac: String,
    /// Name of the host end of its veth pair.
    pub interface: String,
    /// Index of the host end; 0 while it does not exist.
    pub ifindex: u32,
    /// Gateways of the pod's default routes that lead out here.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
}
