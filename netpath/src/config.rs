//! File + environment + flags → one validated [`Config`]. A flag wins over its environment variable, that over the
//! file, the file over the default.

mod bgp;
mod cluster;
mod file;
mod flags;
mod flows;
mod instance;
mod reload;
mod serving;
mod snat;
mod value;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

pub use self::{
    bgp::{BgpConfig, BgpPeer},
    cluster::{ClusterConfig, DEFAULT_VXLAN_PORT},
    flags::AgentFlags,
    instance::{Instance, InstanceError, Paths},
};
use self::{file::File, value::Source};
use crate::{
    datapath::{AttachKind, Timeouts},
    model::{DEFAULT_NETWORK, DEFAULT_NETWORK_NUMBER, Mode, Network, Protected},
};

/// Entries of the flow table if nothing else is configured; a flow takes two. The kernel allocates them all at the
/// start, about 200 bytes each: 50 MiB.
pub const DEFAULT_FLOW_ENTRIES: u32 = 262_144;

/// Source ports of translated flows if nothing else is configured: kept out of the host's own ephemeral ports, which
/// on most kernels are 32768 to 60999, so that both have a good 10,000 and more.
pub const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 32_768..=49_151;

/// What an agent is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which of the machine's agents this is.
    pub instance: Instance,
    /// Where it keeps things.
    pub paths: Paths,
    /// Name of the node; the host's name if not configured.
    pub node: String,
    /// Names of the uplinks; if empty, the interface of the default route.
    pub uplinks: Vec<String>,
    /// The network of this node's pods.
    pub network: Network,
    /// The cluster that the node claims its blocks in, if it is in one: its network has none here then.
    pub cluster: Option<ClusterConfig>,
    /// How it speaks BGP, if it does.
    pub bgp: Option<BgpConfig>,
    /// Ports of nodes that pods do not reach, beside the agent's own: see [`protected_ports`](Self::protected_ports).
    pub protect: Vec<Protected>,
    /// MTU of pods that ask for none, bytes; the uplinks' smallest if absent.
    pub mtu: Option<u32>,
    /// Source ports of translated flows.
    pub snat_ports: RangeInclusive<u16>,
    /// Addresses that flows are translated to, of those that their uplink has; if empty, or none of a family is there, the
    /// address that the kernel would choose.
    pub snat_addresses: Vec<IpAddr>,
    /// Entries of the flow table; a flow takes two.
    pub flow_entries: u32,
    /// Flows that one pod may have; a quarter of what the table holds if absent.
    pub flows_per_pod: Option<u32>,
    /// How long flows may be idle.
    pub timeouts: Timeouts,
    /// How programs are attached; the best the kernel has if absent.
    pub attach: Option<AttachKind>,
    /// Which way packets take from pod to pod, unless a pod says otherwise.
    pub mode: Mode,
    /// Whose sockets reach published ports by the node's own addresses.
    pub cgroup: Cgroup,
    /// Whom the datapath asks who may begin something by a published port.
    pub firewall: Firewall,
    /// Number of the group that may read from the API beside root.
    pub api_group: Option<u32>,
    /// Where metrics are served over TCP.
    pub metrics_listen: Vec<SocketAddr>,
    /// Whether pods may reach that.
    pub metrics_pods: bool,
    /// Whether to start although the flows have a layout that this build does not know, and without them.
    pub forget_flows: bool,
}

/// What the node's netfilter has to say about published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// Nothing: packets never come to it.
    None,
    /// Its FORWARD chains see each connection until the pod answers.
    Forward,
}

/// Processes of the node, by their cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// All: the root of cgroup version 2, wherever it is mounted.
    Root,
    /// Those in this one, and below it.
    At(PathBuf),
    /// None of them.
    None,
}

/// A setting that is not valid, or a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where the setting stands.
    pub place: Place,
    /// The key in the file, if it is about one.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub reason: String,
    /// What to write or to do instead.
    pub instead: String,
}

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line (1 is the first) if toml tells.
    File(PathBuf, Option<usize>),
    /// A flag or its environment variable, as `--block or NETPATH_BLOCK`.
    Flag(&'static str),
    /// Nowhere: the default does not do here.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration ({}): ", self.place)?;
        if let Some(key) = self.key {
            write!(f, "{key} ")?;
        }
        write!(f, "{}; {}", self.reason, self.instead)
    }
}

impl Config {
    /// Reads the file (`--config`, else [`Instance::file`] if it is there), puts the flags over it, and checks
    /// everything.
    ///
    /// # Errors
    /// The first setting that is not valid, with where it stands and what to write instead.
    pub fn load(flags: &AgentFlags, instance: &Instance) -> Result<Self, ConfigError> {
        let (file, path) = read(flags, instance)?;
        let source = Source { flags, file: &file, path: &path };
        let cluster = cluster::cluster(&source)?;
        let blocks = if cluster.is_some() { Vec::new() } else { value::blocks(&source)? };
        Ok(Self {
            bgp: bgp::bgp(&source, cluster.as_ref())?,
            cluster,
            protect: value::protect(&source)?,
            mtu: value::mtu(&source, &blocks)?,
            instance: instance.clone(),
            paths: value::paths(&source, instance)?,
            node: value::node(&source)?,
            uplinks: value::uplinks(&source)?,
            network: Network {
                name: DEFAULT_NETWORK.to_owned(),
                number: DEFAULT_NETWORK_NUMBER,
                blocks,
                pools: Vec::new(),
                backend: None,
                ending: false,
                masquerade: flags.masquerade.or(file.masquerade).unwrap_or(true),
                no_masquerade: value::no_masquerade(&source)?,
                inbound: value::inbound(&source)?,
                mtu: None,
            },
            snat_ports: snat::ports(&source)?,
            snat_addresses: snat::addresses(&source)?,
            flow_entries: flows::entries(&source)?,
            flows_per_pod: flows::per_pod(&source)?,
            timeouts: flows::timeouts(&source)?,
            attach: value::attach(&source)?,
            mode: value::mode(&source)?,
            cgroup: value::cgroup(&source)?,
            firewall: value::firewall(&source)?,
            api_group: serving::group(&source)?,
            metrics_listen: serving::listen(&source)?,
            metrics_pods: flags.metrics_pods.or(file.metrics.pods).unwrap_or(false),
            forget_flows: flags.forget_flows,
        })
    }

    /// What an agent would be told that is started here with this file, or the usual one, and no other flag.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn of_environment(file: Option<PathBuf>, instance: &Instance) -> Result<Self, ConfigError> {
        let flags = AgentFlags::from_environment()?;
        Self::load(&AgentFlags { config: file.or(flags.config.clone()), ..flags }, instance)
    }
}

impl Paths {
    /// The paths of an instance as the environment and its file in `/etc/netpath` have them, for what runs without
    /// an agent.
    ///
    /// # Errors
    /// As [`Config::load`], but only about the file as a whole and the paths.
    pub fn load(instance: &Instance) -> Result<Self, ConfigError> {
        let flags = AgentFlags::from_environment()?;
        let (file, path) = read(&flags, instance)?;
        value::paths(&Source { flags: &flags, file: &file, path: &path }, instance)
    }
}

/// The file, and its path for messages.
fn read(flags: &AgentFlags, instance: &Instance) -> Result<(File, PathBuf), ConfigError> {
    let usual = instance.file();
    let path = flags.config.as_ref().unwrap_or(&usual);
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((file::parse(&text, path)?, path.clone())),
        Err(error) if flags.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok((File::default(), usual))
        }
        Err(error) => Err(ConfigError {
            place: Place::File(path.clone(), None),
            key: None,
            reason: format!("cannot be read: {error}"),
            instead: "name a readable file with --config, or none".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
