//! `netpath lab`.

use std::process::ExitCode;

use clap::{Subcommand, value_parser};

use super::{Global, failure::Usage, output::Format, output::print};
use crate::lab::{self, Backend, MOST_NODES, RunOptions, Shape};

/// A network of namespaces on this machine. Nothing of the machine's own network is touched.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab, check it, measure it beside a bridge, show it until Ctrl-C, and remove it
    ///
    /// A node with three pods and a real agent, a router, and an outside server that has no route back to the pods, all
    /// in namespaces. Prints the connectivity matrix with round-trip times, then latencies: a direct veth pair, a bridge
    /// with masquerading, and netpath. With `--nodes` a cluster: routers, an etcd, agents, and the matrix of nodes. Exit
    /// status 1 if a check failed. Needs root.
    #[command(after_help = "Examples:
  netpath lab run
  netpath lab run --nodes 3 --subnets 2
  netpath lab run --once -o json | jq '.checks[] | select(.ok | not)'")]
    Run {
        /// End after the tables
        #[arg(long)]
        once: bool,
        /// Leave agent and namespaces up at the end; `netpath lab down` removes them
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Build, check and measure a lab and leave it up: `lab run --once --keep`
    Up {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Remove a lab, whether it runs, was left up or has crashed
    Down,
    /// Keep a lab's namespaces; started by `lab run`
    #[command(hide = true)]
    Hold,
}

/// A lab with several nodes.
#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// Build a cluster of so many nodes (1 to 16), with an etcd of three members, in place of the one node
    ///
    /// Checks how every node's pods reach every other's, by which backend, and how fast. Needs etcd (Debian package
    /// etcd-server) on PATH.
    #[arg(long, value_parser = value_parser!(u8).range(1..=i64::from(MOST_NODES)))]
    nodes: Option<u8>,
    /// Deal the nodes out to so many links, joined by a router [default: 1]
    #[arg(long, requires = "nodes")]
    subnets: Option<u8>,
    /// How pods of other nodes are reached [default: auto]
    #[arg(long, requires = "nodes", value_parser = backend, value_name = "auto|direct|vxlan")]
    backend: Option<Backend>,
    /// Have the nodes tell the router the way to their pods, and let outside reach them
    ///
    /// Needs bird (Debian package bird2) on PATH.
    #[arg(long, requires = "nodes")]
    bgp: bool,
}

impl Cluster {
    fn shape(&self) -> Result<Option<Shape>, Usage> {
        let Some(nodes) = self.nodes else { return Ok(None) };
        let (subnets, backend) = (self.subnets.unwrap_or(1), self.backend.unwrap_or_default());
        let shape = Shape { nodes, subnets, backend, bgp: self.bgp };
        shape.check().map_err(|wrong| Usage::new(anyhow::Error::msg(wrong)))?;
        Ok(Some(shape))
    }
}

fn backend(name: &str) -> Result<Backend, String> {
    let found = Backend::ALL.into_iter().find(|one| one.name() == name);
    found.ok_or_else(|| format!("there are {}", Backend::ALL.map(Backend::name).join(", ")))
}

/// Must be called while the process has one thread; see [`lab::run`].
pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<ExitCode> {
    let json = global.output == Format::Json;
    let options = match command {
        Command::Run { once, keep, cluster } => {
            RunOptions { once: *once, keep: *keep, json, shape: cluster.shape()? }
        }
        Command::Up { cluster } => RunOptions { once: true, keep: true, json, shape: cluster.shape()? },
        Command::Down => {
            let removed = lab::down()?;
            if !json {
                print(if removed { "The lab is removed.\n" } else { "There is no lab.\n" })?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Hold => {
            lab::hold()?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    // The tables or the document already say what failed.
    Ok(if lab::run(options)?.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
