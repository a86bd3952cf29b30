//! Flags of `agent run`, each with its environment variable.

use std::path::PathBuf;

use super::{ConfigError, Place};

/// Flags of `agent run`. Texts are checked together with the file's, in [`Config::load`](super::Config::load).
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct AgentFlags {
    /// Configuration file [default: /etc/netpath/netpath.toml, if it is there; INSTANCE.toml for others]
    #[arg(long, value_name = "FILE", env = "NETPATH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Interface to the outside; may be repeated [default: that of the default route]
    #[arg(long = "uplink", value_name = "DEV", env = "NETPATH_UPLINKS", value_delimiter = ',')]
    pub uplinks: Vec<String>,
    /// Addresses for this node's pods; once for each family [default: 10.61.0.0/24]
    #[arg(long = "block", value_name = "CIDR", env = "NETPATH_BLOCK", value_delimiter = ',')]
    pub blocks: Vec<String>,
    /// etcd of the cluster that this node is in, as http://10.0.0.1:2379; may be repeated [default: none, the node is in no cluster]
    #[arg(long = "etcd", value_name = "URL", env = "NETPATH_ETCD", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// Where the cluster's nodes take their blocks from; once for each family [default: what the first node has said]
    #[arg(long = "pool", value_name = "CIDR", env = "NETPATH_POOLS", value_delimiter = ',')]
    pub pools: Vec<String>,
    /// Name of the node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NETPATH_NODE")]
    pub node: Option<String>,
    /// Whether traffic to outside carries the node's address [default: true]
    #[arg(long, value_name = "BOOL", env = "NETPATH_MASQUERADE")]
    pub masquerade: Option<bool>,
    /// Destination that sees the pod's own address all the same; may be repeated
    #[arg(long, value_name = "CIDR", env = "NETPATH_NO_MASQUERADE", value_delimiter = ',')]
    pub no_masquerade: Vec<String>,
    /// Who may open connections to a pod's own address: cluster or any [default: cluster]
    #[arg(long, value_name = "WHO", env = "NETPATH_INBOUND")]
    pub inbound: Option<String>,
    /// Port that pods do not reach on nodes, as tcp:2379 or udp:100-199; may be repeated [default: none]
    #[arg(long, value_name = "PROTOCOL:PORT[-PORT]", env = "NETPATH_PROTECT", value_delimiter = ',')]
    pub protect: Vec<String>,
    /// MTU of pods, bytes [default: the smallest of the uplinks]
    #[arg(long, value_name = "BYTES", env = "NETPATH_MTU")]
    pub mtu: Option<u32>,
    /// Source ports of translated flows [default: 32768-49151]
    #[arg(long, value_name = "FIRST-LAST", env = "NETPATH_SNAT_PORTS")]
    pub snat_ports: Option<String>,
    /// Address of an uplink that flows are translated to; may be repeated [default: what the kernel would choose]
    #[arg(
        long = "snat-address",
        value_name = "ADDRESS",
        env = "NETPATH_SNAT_ADDRESSES",
        value_delimiter = ','
    )]
    pub snat_addresses: Vec<String>,
    /// Entries of the flow table, two a flow, about 200 bytes of memory each [default: 262144]
    #[arg(long, value_name = "ENTRIES", env = "NETPATH_FLOWS_CAPACITY")]
    pub flows_capacity: Option<u32>,
    /// Flows that one pod may have [default: a quarter of what the table holds]
    #[arg(long, value_name = "FLOWS", env = "NETPATH_FLOWS_PER_POD")]
    pub flows_per_pod: Option<u32>,
    /// How programs are attached: tcx, clsact, or auto, which is tcx, but for new pods, which begin with clsact [default: auto]
    #[arg(long, value_name = "KIND", env = "NETPATH_DATAPATH_ATTACH")]
    pub attach: Option<String>,
    /// Which way packets take from pod to pod, unless a pod says otherwise: tc or xdp [default: tc]
    #[arg(long, value_name = "MODE", env = "NETPATH_DATAPATH_MODE")]
    pub mode: Option<String>,
    /// Whose sockets reach published ports by the node's own addresses: those of processes in this cgroup, or none's
    /// [default: all, by the root of cgroup version 2]
    #[arg(long, value_name = "PATH", env = "NETPATH_DATAPATH_CGROUP")]
    pub cgroup: Option<String>,
    /// Who may begin something by a published port: forward asks the node's FORWARD chains, none asks nobody [default: none]
    #[arg(long, value_name = "CHAIN", env = "NETPATH_DATAPATH_FIREWALL")]
    pub firewall: Option<String>,
    /// Group that may read from the API, by name or number [default: none, root alone may]
    #[arg(long, value_name = "GROUP", env = "NETPATH_API_GROUP")]
    pub api_group: Option<String>,
    /// Address and port to serve metrics on over HTTP; may be repeated [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", env = "NETPATH_METRICS_LISTEN", value_delimiter = ',')]
    pub metrics_listen: Vec<String>,
    /// Whether pods may reach the ports that metrics are served on [default: false]
    #[arg(long, value_name = "BOOL", env = "NETPATH_METRICS_PODS")]
    pub metrics_pods: Option<bool>,
    /// Start although the flows are those of a later build, which this one does not know: they are lost
    #[arg(long)]
    pub forget_flows: bool,
    /// Directory of socket and lock [default: /run/netpath/INSTANCE]
    #[arg(long, value_name = "DIR", env = "NETPATH_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// Directory of the store [default: /var/lib/netpath/INSTANCE]
    #[arg(long, value_name = "DIR", env = "NETPATH_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory on bpffs for pins [default: /sys/fs/bpf/netpath/INSTANCE]
    #[arg(long, value_name = "DIR", env = "NETPATH_PIN_DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Directory of the network namespaces it makes [default: /run/netns]
    #[arg(long, value_name = "DIR", env = "NETPATH_NETNS_DIR")]
    pub netns_dir: Option<PathBuf>,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    flags: AgentFlags,
}

impl AgentFlags {
    /// Names of the environment variables that stand for flags.
    pub fn variables() -> Vec<String> {
        let command = <Bare as clap::CommandFactory>::command();
        let names = command.get_arguments().filter_map(|argument| argument.get_env());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// What the environment alone says.
    pub(super) fn from_environment() -> Result<Self, ConfigError> {
        let parsed = <Bare as clap::Parser>::try_parse_from(["netpath"]);
        parsed.map(|bare| bare.flags).map_err(|error| ConfigError {
            place: Place::Flag("environment"),
            key: None,
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
            instead: "correct or unset the NETPATH_ variable".to_owned(),
        })
    }
}
