//! `netpath network`.

use std::process::ExitCode;

use clap::Subcommand;
use ipnet::IpNet;

use super::{
    Global,
    output::{Column, Format, print, table},
    units::list,
    wait,
};
use crate::api::types::{Network, NetworkAdd, NetworkSet};

/// Networks: sets of pods with subnets and rules.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a network for pods to join with 'pod add --network'
    #[command(after_help = "Examples:
  netpath network add back --subnet 10.62.0.0/24
  netpath network add lab --subnet 10.63.0.0/24 --subnet fd00:63::/64 --masquerade no --inbound any
In a cluster, for all nodes, with /27 for each, and for this node alone:
  netpath network add back --subnet 10.70.0.0/16 --block-length-v4 27 --backend vxlan
  netpath network add here --subnet 10.62.0.0/24 --scope node")]
    Add {
        /// Name of the network, unique on the node and in its cluster
        name: String,
        /// Addresses for its pods; once for each family
        #[arg(long = "subnet", value_name = "CIDR", required = true)]
        subnets: Vec<IpNet>,
        /// Who has it, on a node of a cluster: cluster or node [default: cluster]
        #[arg(long, value_name = "WHO")]
        scope: Option<String>,
        /// Length of nodes' blocks of an IPv4 subnet, in a cluster [default: 26]
        #[arg(long, value_name = "BITS")]
        block_length_v4: Option<u8>,
        /// The same for IPv6 [default: 122]
        #[arg(long, value_name = "BITS")]
        block_length_v6: Option<u8>,
        #[command(flatten)]
        rules: Rules,
    },
    /// Change a network while its pods run
    ///
    /// What is not named stays as it is. Flows that are translated already stay so until they end.
    #[command(after_help = "Examples:
  netpath network set back --masquerade no
  netpath network set default --no-masquerade 192.168.0.0/16 --no-masquerade fd00::/8
  netpath network set default --no-masquerade none")]
    Set {
        /// Name of the network
        name: String,
        #[command(flatten)]
        rules: Rules,
    },
    /// Remove networks that have no pods
    Rm {
        /// Names of the networks
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// List networks: subnets, translation, who may connect to their pods
    #[command(after_help = "Examples:
  netpath network ls
  netpath network ls -o json | jq -r '.[].subnets[]'")]
    Ls,
}

/// What a network's pods may do.
#[derive(Debug, clap::Args)]
pub struct Rules {
    /// Whether traffic to outside carries the node's address: yes or no [default for a new network: yes]
    #[arg(long, value_name = "YES", value_parser = yes)]
    masquerade: Option<bool>,
    /// Destination that sees the pod's own address all the same; may be repeated; none for none
    #[arg(long = "no-masquerade", value_name = "CIDR", value_parser = prefix)]
    no_masquerade: Vec<Destination>,
    /// Who may open connections to a pod's own address: cluster or any [default for a new network: cluster]
    #[arg(long, value_name = "WHO")]
    inbound: Option<String>,
    /// MTU of its pods, bytes; 0 for the node's [default for a new network: the node's]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// How its pods on other nodes of a cluster are reached: auto, direct or vxlan [default for a new network: as cluster.backend says]
    #[arg(long, value_name = "HOW")]
    backend: Option<String>,
}

/// A value of `--no-masquerade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    None,
    Prefix(IpNet),
}

impl Rules {
    fn no_masquerade(&self) -> Vec<IpNet> {
        let prefix = |one: &Destination| match one {
            Destination::None => None,
            Destination::Prefix(prefix) => Some(*prefix),
        };
        self.no_masquerade.iter().filter_map(prefix).collect()
    }
}

pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let client = global.client();
    let shown = |network: &Network| render(std::slice::from_ref(network));
    match command {
        Command::Add { name, subnets, scope, block_length_v4, block_length_v6, rules } => {
            let no_masquerade = rules.no_masquerade();
            let Rules { masquerade, inbound, mtu, backend, .. } = rules;
            let request = NetworkAdd {
                name,
                subnets,
                masquerade,
                no_masquerade,
                inbound,
                mtu,
                scope,
                block_length_v4,
                block_length_v6,
                backend,
            };
            global.output.show(&wait(client.network_add(&request))?, shown)?;
        }
        Command::Set { name, rules } => {
            let given = !rules.no_masquerade.is_empty();
            let change = NetworkSet {
                no_masquerade: given.then(|| rules.no_masquerade()),
                masquerade: rules.masquerade,
                inbound: rules.inbound,
                mtu: rules.mtu,
                backend: rules.backend,
            };
            global.output.show(&wait(client.network_set(&name, &change))?, shown)?;
        }
        Command::Rm { names } => return remove(global, &names),
        Command::Ls => global.output.show(&wait(client.networks())?[..], render)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(global: &Global, names: &[String]) -> anyhow::Result<ExitCode> {
    let client = global.client();
    super::each(names, |name| {
        wait(client.network_rm(name))?;
        if global.output == Format::Table { print(&format!("network {name} is removed\n")) } else { Ok(()) }
    })
}

pub(super) fn render(networks: &[Network]) -> String {
    let columns = [
        Column::Left("NAME"),
        Column::Left("SUBNETS"),
        Column::Left("MASQUERADE"),
        Column::Left("INBOUND"),
        Column::Right("MTU"),
        Column::Right("PODS"),
    ];
    let rows = networks.iter().map(|network| {
        [
            network.name.clone(),
            subnets(network),
            masquerade(network),
            network.inbound.clone(),
            network.mtu.to_string(),
            network.pods.to_string(),
        ]
    });
    table(&columns, rows)
}

/// Those of this node; of a network of the cluster also what they are of, and how other nodes' are reached.
fn subnets(network: &Network) -> String {
    let own = if network.subnets.is_empty() { "-".to_owned() } else { list(&network.subnets) };
    match &network.backend {
        Some(backend) => format!("{own} of {} ({backend})", list(&network.pools)),
        None => own,
    }
}

fn masquerade(network: &Network) -> String {
    match network.no_masquerade.as_slice() {
        _ if !network.masquerade => "no".to_owned(),
        [] => "yes".to_owned(),
        except => format!("yes, not to {}", list(except)),
    }
}

pub(super) fn yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

fn prefix(text: &str) -> Result<Destination, String> {
    match text {
        "none" => Ok(Destination::None),
        _ => text.parse().map(Destination::Prefix).map_err(|_| "write ADDRESS/LENGTH, or none".to_owned()),
    }
}
