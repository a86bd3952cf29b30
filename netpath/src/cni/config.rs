//! The network configuration on standard input.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::error::{CniError, Code};
use crate::api::types::Bandwidth;

/// The least burst that the agent takes, bytes. Engines may ask for less, and get no less than a packet.
const LEAST_BURST: u64 = 2048;

/// What this plugin reads of it; engines and other plugins put more into it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    /// The engine's name of the network.
    pub(super) name: String,
    /// netpath's name of the network.
    network: Option<String>,
    instance: Option<String>,
    socket: Option<PathBuf>,
    spool: Option<PathBuf>,
    /// MTU of the pod's interface, bytes; the network's if absent.
    pub(super) mtu: Option<u32>,
    ipam: Option<Ipam>,
    pub(super) dns: Dns,
    #[serde(rename = "runtimeConfig")]
    pub(super) runtime: Runtime,
    #[serde(rename = "prevResult")]
    pub(super) previous: Option<Value>,
    /// A list that is null has nobody in it: that is how Go writes an empty one.
    #[serde(rename = "cni.dev/valid-attachments", deserialize_with = "listed")]
    valid: Option<Vec<Valid>>,
    /// What version 1.1.0 called it before an erratum.
    #[serde(rename = "cni.dev/attachments", deserialize_with = "listed")]
    valid_before: Option<Vec<Valid>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

/// An attachment that is not to be collected.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Valid {
    #[serde(rename = "containerID")]
    pub(super) container: String,
    #[serde(rename = "ifname")]
    pub(super) interface: String,
}

/// `dns` of configurations and results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// What an engine asks for one container by capabilities.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Runtime {
    ips: Option<Vec<String>>,
    pub(super) mac: Option<String>,
    pub(super) aliases: Option<BTreeMap<String, Vec<String>>>,
    dns: Option<RuntimeDns>,
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<PortMapping>>,
    bandwidth: Option<Limits>,
}

/// Capability `bandwidth`: bits a second, and bits that may pass at once. A rate of 0 is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limits {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

/// A port of the node that leads to the container, in capability `portMappings`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortMapping {
    host_port: u16,
    container_port: u16,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

/// Capability `dns`, whose words are others than those of results.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeDns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Config {
    /// netpath's name of the network.
    pub(super) fn network(&self) -> &str {
        self.network.as_deref().unwrap_or("default")
    }

    /// The agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| Path::new("/run/netpath").join(self.instance()).join("agent.sock"))
    }

    /// Where removals wait for an agent.
    pub(super) fn spool(&self) -> PathBuf {
        self.spool
            .clone()
            .unwrap_or_else(|| Path::new("/var/lib/netpath").join(self.instance()).join("cni-del"))
    }

    fn instance(&self) -> &str {
        self.instance.as_deref().unwrap_or("default")
    }

    /// The IPAM plugin that has the addresses, if it is not the agent.
    pub(super) fn ipam(&self) -> Option<&str> {
        self.ipam.as_ref().map(|ipam| ipam.kind.as_str()).filter(|kind| !kind.is_empty())
    }

    /// What `GC` leaves.
    pub(super) fn valid(&self) -> Option<&[Valid]> {
        self.valid.as_deref().or(self.valid_before.as_deref())
    }

    /// `dns` of the result: the engine's where it has any.
    pub(super) fn dns(&self) -> Dns {
        let mut dns = self.dns.clone();
        if let Some(own) = &self.runtime.dns {
            for (field, own) in [
                (&mut dns.nameservers, &own.servers),
                (&mut dns.search, &own.searches),
                (&mut dns.options, &own.options),
            ] {
                if !own.is_empty() {
                    field.clone_from(own);
                }
            }
        }
        dns
    }
}

impl Runtime {
    /// Addresses asked for; a prefix's length is the network's business.
    pub(super) fn ips(&self) -> Result<Vec<IpAddr>, CniError> {
        let read = |text: &String| {
            address(text).ok_or_else(|| {
                CniError::new(Code::InvalidConfig, format!("runtimeConfig.ips: '{text}' is no address"))
            })
        };
        self.ips.iter().flatten().map(read).collect()
    }

    /// Ports of the node that are to lead to the container, as the agent's API has them. Without a port of the node there is
    /// nothing to publish.
    pub(super) fn publications(&self) -> Vec<String> {
        let text = |one: &PortMapping| {
            let address = match one.host_ip.parse() {
                Ok(IpAddr::V6(v6)) => format!("[{v6}]:"),
                Ok(IpAddr::V4(v4)) => format!("{v4}:"),
                // What is no address is the agent's to refuse.
                Err(_) if one.host_ip.is_empty() => String::new(),
                Err(_) => format!("{}:", one.host_ip),
            };
            let protocol = if one.protocol.is_empty() { "tcp" } else { &one.protocol };
            format!("{address}{}:{}/{}", one.host_port, one.container_port, protocol.to_ascii_lowercase())
        };
        let asked = self.port_mappings.iter().flatten().filter(|one| one.host_port != 0);
        asked.map(text).collect()
    }
}

impl Runtime {
    /// What the container may get, and what it may send.
    pub(super) fn limits(&self) -> (Option<Bandwidth>, Option<Bandwidth>) {
        // What engines say where nobody has chosen a burst: it would let half a gigabyte pass before the limit holds.
        let chosen = |bits: u64| bits != 0 && bits != u64::from(u32::MAX) && bits != u64::from(u32::MAX >> 1);
        let limit = |rate, burst| {
            let burst =
                Some(burst).filter(|bits| chosen(*bits)).map(|bits| bits.div_ceil(8).max(LEAST_BURST));
            (rate != 0).then_some(Bandwidth { rate, burst })
        };
        let Some(limits) = &self.bandwidth else { return (None, None) };
        (limit(limits.ingress_rate, limits.ingress_burst), limit(limits.egress_rate, limits.egress_burst))
    }
}

impl Dns {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A list that is there, though it may be null.
fn listed<'a, D: Deserializer<'a>>(source: D) -> Result<Option<Vec<Valid>>, D::Error> {
    Ok(Some(Option::deserialize(source)?.unwrap_or_default()))
}

/// An address, with a prefix's length or without.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()))
}
