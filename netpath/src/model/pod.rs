//! Pods as the store keeps them.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Bandwidth, Mac, NameError, PodName, Publication};

/// Interfaces a pod can have. The kernel does not care; names and tables of more would not fit.
pub const MAX_INTERFACES: usize = 8;

/// Pods that one namespace can have: each has [`MAX_INTERFACES`] route tables of 8 bits there.
pub const MAX_PLACES: u8 = 16;

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Being made. Found after a crash, it is undone: nobody was told that it exists.
    Creating,
    /// Made; kept as described here.
    Ready,
    /// Being removed. Found after a crash or a failed removal, the removal is finished.
    Removing,
}

/// Which way packets take from a pod to another of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By tc: offloads and segments stay whole.
    #[default]
    Tc,
    /// By XDP where it can be, for many small packets.
    Xdp,
}

impl Mode {
    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tc, Self::Xdp].into_iter().find(|mode| mode.name() == text)
    }

    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }
}

/// What a pod has in place of networks, and of interfaces in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unattached {
    /// Nothing: a namespace of its own with a loopback interface.
    None,
    /// The node's own namespace.
    Host,
    /// The namespace of another pod.
    Pod(PodName),
}

impl Unattached {
    /// Reads what stands in the place of a network's name; absent if that is one.
    ///
    /// # Errors
    /// [`NameError`] for `pod:` before what is no name of a pod.
    pub fn parse(text: &str) -> Result<Option<Self>, NameError> {
        Ok(match text {
            "none" => Some(Self::None),
            "host" => Some(Self::Host),
            _ => text.strip_prefix("pod:").map(str::parse).transpose()?.map(Self::Pod),
        })
    }
}

impl fmt::Display for Unattached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Pod(other) => write!(f, "pod:{other}"),
        }
    }
}

/// A pod: a network namespace attached by interfaces with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Number in the kernel tables, never 0 and not used again while flows of it may exist.
    pub id: u32,
    /// Name, unique on the node.
    pub name: PodName,
    /// Its interfaces, each in a network of its own; the first has the pod's default routes.
    pub interfaces: Vec<Interface>,
    /// What it has instead; absent if it has interfaces.
    #[serde(default)]
    pub unattached: Option<Unattached>,
    /// Row in the table of pods' counters.
    pub slot: u32,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Whether that file was made for the pod, and goes with it.
    pub owns_netns: bool,
    /// MTU asked for; follows network and uplink if absent.
    pub mtu: Option<u32>,
    /// Whether its traffic to outside may carry the node's address, if the network says so too.
    pub masquerade: bool,
    /// The way asked for; the node's if absent.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Whether its offloads were set for XDP, or may have been. Written down before they are, and until they are set back.
    #[serde(default)]
    pub offloads: bool,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub publications: Vec<Publication>,
    /// What it may get, by each of its interfaces; all there is if absent.
    #[serde(default)]
    pub ingress: Option<Bandwidth>,
    /// What it may send, by all its interfaces together.
    #[serde(default)]
    pub egress: Option<Bandwidth>,
    /// Whether its interfaces may still have a queue of a limit that it no longer has. Written down with the change, until
    /// they are rid of it.
    #[serde(default)]
    pub stale_queues: bool,
    /// Labels given when it was added.
    pub labels: BTreeMap<String, String>,
    /// What the container engine that added it calls it.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// Inode of the namespace that the file was when the pod was added, where [`netns_id`](Self::netns_id) is known; all that
    /// records of earlier builds have.
    #[serde(default)]
    pub netns_inode: Option<u64>,
    /// The namespace that the pod stays with whatever becomes of the file: engines name some by a process, and process numbers
    /// are used again. Absent where the file's name tells.
    #[serde(default)]
    pub netns_id: Option<NetnsId>,
    /// Its number among the pods of its namespace, 0 for the first. It says which table of the namespace is whose.
    #[serde(default)]
    pub place: u8,
    /// How far it is.
    pub state: PodState,
}

/// A network namespace, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId {
    /// In which run of the kernel (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The kernel's number of it there (`SO_NETNS_COOKIE`), never given again.
    pub cookie: u64,
}

/// What identifies an interface for a container engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The engine's name of the container.
    pub container: String,
    /// Name of the interface inside.
    pub interface: String,
    /// The engine's name of the network.
    pub network: String,
}

/// A pod's interface in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name inside the pod.
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// Its addresses, one of each family of the network, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the pod may use here beside these.
    pub allowed: Vec<IpAddr>,
    /// MAC of the interface inside the pod.
    pub mac: Mac,
    /// Name of the host end of the veth pair.
    pub host: String,
}

impl Pod {
    /// Every address that leads to the pod.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces.iter().flat_map(Interface::all_addresses)
    }

    /// The pod whose namespace it shares.
    pub fn shares(&self) -> Option<&PodName> {
        match &self.unattached {
            Some(Unattached::Pod(other)) => Some(other),
            _ => None,
        }
    }
}

impl Interface {
    /// Every address that leads to this interface.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().chain(&self.allowed).copied()
    }
}
