//! Pods as the store keeps them.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mac, PodName};

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

/// A pod: a network namespace attached by an interface with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Number in the kernel tables, never 0 and not used again while flows of it may exist.
    pub id: u32,
    /// Name, unique on the node.
    pub name: PodName,
    /// Network it is in.
    pub network: String,
    /// Its addresses, one of each family of the network, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC of the interface inside the pod.
    pub mac: Mac,
    /// Name of the host end of the veth pair.
    pub interface: String,
    /// Row in the table of pods' counters.
    pub slot: u32,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Whether that file was made for the pod, and goes with it.
    pub owns_netns: bool,
    /// MTU asked for; follows the uplink if absent.
    pub mtu: Option<u32>,
    /// Labels given when it was added.
    pub labels: BTreeMap<String, String>,
    /// How far it is.
    pub state: PodState,
}
