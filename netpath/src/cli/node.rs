//! `netpath node`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, Format, print, table},
    units::list,
    wait,
};
use crate::api::types::{ClusterNode, NodeSet};

/// The nodes of the cluster that this one is in.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes, with their blocks and whether they are there
    #[command(after_help = "Examples:
  netpath node ls
  netpath node ls -o json | jq -r '.[] | select(.state == \"away\") | .name'")]
    Ls,
    /// Have this node take no new pods; those that it has stay until they are removed
    #[command(after_help = "Examples:
  netpath node drain
  netpath node drain --undo")]
    Drain {
        /// Take new pods again
        #[arg(long)]
        undo: bool,
    },
    /// Take a node out of the cluster and give its blocks back
    ///
    /// This node must have no pods. Another one must be away, and must not come back with pods: somebody else may have its
    /// addresses by then.
    #[command(after_help = "Examples:
  netpath node leave
  netpath node leave worker-7")]
    Leave {
        /// Name of the node [default: this one]
        name: Option<String>,
    },
}

pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let client = global.client();
    match command {
        Command::Ls => global.output.show(&wait(client.nodes())?[..], render),
        Command::Drain { undo } => {
            let name = wait(client.status())?.node;
            wait(client.node_set(&name, &NodeSet { drained: !undo }))?;
            let what = if undo { "takes new pods" } else { "takes no new pods" };
            let told = || print(&format!("node {name} {what}\n"));
            if global.output == Format::Table { told() } else { Ok(()) }
        }
        Command::Leave { name } => {
            let name = match name {
                Some(name) => name,
                None => wait(client.status())?.node,
            };
            wait(client.node_leave(&name))?;
            let told = || print(&format!("node {name} has left the cluster\n"));
            if global.output == Format::Table { told() } else { Ok(()) }
        }
    }
}

pub(super) fn render(nodes: &[ClusterNode]) -> String {
    let columns = ["NAME", "ADDRESSES", "BLOCKS", "BACKEND", "STATE"].map(Column::Left);
    let row = |one: &ClusterNode| {
        let backend = one.backend.clone().unwrap_or_else(|| "-".to_owned());
        [one.name.clone(), list(&one.addresses), list(&one.blocks), backend, one.state.clone()]
    };
    table(&columns, nodes.iter().map(row))
}
