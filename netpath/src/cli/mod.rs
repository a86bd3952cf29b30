//! The command line: one file a subcommand. Everything but `agent run`, `lab` and `bench` talks to a running agent.

mod agent;
mod bench;
mod bgp;
mod capture;
mod cni;
mod completions;
mod deny;
mod doctor;
mod drop;
mod failure;
mod flow;
mod lab;
mod man;
mod metrics;
mod monitor;
mod network;
mod node;
mod output;
mod pod;
mod publish;
mod status;
#[cfg(test)]
mod tests;
mod trace;
mod uninstall;
mod units;

use std::{future::Future, process::ExitCode};

use anyhow::Context;
use clap::{ArgAction, Parser, Subcommand};
use tokio::runtime;

pub use self::{failure::Report, output::Format};
use crate::{api::client::Client, config::Instance};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "netpath",
    version,
    about = "A container network whose packets are forwarded, translated and filtered by eBPF",
    after_help = "Examples:
  netpath lab run                  a network of namespaces, checked and measured
  netpath agent run --uplink eth0  make this machine a node
  netpath pod add web              a namespace `web` with an address
  netpath pod exec web -- sh       a shell in its network
  netpath flow ls --pod web        what it talks to, and as whom
  netpath drop ls                  what was dropped, why, and what to change
  netpath bench --quick            how fast it is beside other networks
  netpath doctor                   what is wrong with this node, and the fix

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 the agent is not reachable.",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options that are valid anywhere on the line.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that are valid anywhere on the line.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Which agent of this machine: each instance has its own socket, state and pins
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "NETPATH_INSTANCE",
        default_value = "default",
        value_parser = instance
    )]
    pub instance: Instance,
    /// How to print what was asked for
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    /// Log more to stderr: -v info, -vv debug, -vvv trace; NETPATH_LOG takes filters such as `netpath::net=debug`
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent that makes this machine a node
    #[command(subcommand)]
    Agent(agent::Command),
    /// Add, remove, list and enter pods
    #[command(subcommand)]
    Pod(pod::Command),
    /// List networks
    #[command(subcommand)]
    Network(network::Command),
    /// List the nodes of the cluster, drain this one, take some out
    #[command(subcommand)]
    Node(node::Command),
    /// Show what BIRD is told for this node, and its sessions
    #[command(subcommand)]
    Bgp(bgp::Command),
    /// List tracked connections and their translations
    #[command(subcommand)]
    Flow(flow::Command),
    /// List dropped packets by reason
    #[command(subcommand)]
    Drop(drop::Command),
    /// Drop what comes from chosen prefixes, at the uplinks
    #[command(subcommand)]
    Deny(deny::Command),
    /// List ports of the node that lead to pods
    #[command(subcommand)]
    Publish(publish::Command),
    /// Print drops and new flows as they happen
    Monitor(monitor::Args),
    /// Tell what would become of a packet, stage by stage, without sending it
    Trace(trace::Args),
    /// Capture a pod's packets, before and after translation
    Capture(capture::Args),
    /// Have container engines use netpath as their network
    #[command(subcommand)]
    Cni(cni::Command),
    /// Show the agent, its programs, tables and problems
    Status,
    /// Find what on this node keeps netpath from working, and say how to put it right; changes nothing
    Doctor(doctor::Args),
    /// Print everything there is to measure, in Prometheus' text format
    Metrics,
    /// Remove everything netpath put on this machine and restore what it changed
    Uninstall(uninstall::Flags),
    /// A network of namespaces on this machine, to look at, check and measure
    #[command(subcommand)]
    Lab(lab::Command),
    /// Measure netpath beside other networks on this machine: a veth pair, bridges, routes, macvlan, the host's own
    ///
    /// Builds each in namespaces of its own, measures them in turns, and removes them, also when it is interrupted or killed.
    /// Nothing of the machine's own network is touched. Exit status 1 if something could not be measured. Needs root, and
    /// `nft` for the modes with rules. docs/BENCH.md says what is measured, how, and how to read it.
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the man page, or write all of them
    Man(man::Args),
}

impl Cli {
    /// Log filter for this line: `-v` if given, else `environment` (NETPATH_LOG), else what suits the command.
    pub fn log_filter(&self, environment: Option<String>) -> String {
        let level = match (self.global.verbose, &self.command) {
            (0, command) => {
                let quiet = if matches!(command, Command::Agent(_)) { "info" } else { "warn" };
                return environment.filter(|filter| !filter.is_empty()).unwrap_or_else(|| quiet.to_owned());
            }
            (1, _) => "info",
            (2, _) => "debug",
            _ => "trace",
        };
        level.to_owned()
    }
}

impl Global {
    fn client(&self) -> Client {
        Client::new(self.instance.socket())
    }
}

/// Does what the line says and returns the exit status. An error is not yet printed; see [`Report`].
///
/// Call it while the process has one thread: `lab` and `bench` give the process a mount namespace of its own first.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Agent(command) => agent::run(global, &command)?,
        Command::Pod(command) => return pod::run(global, command),
        Command::Network(command) => return network::run(global, command),
        Command::Node(command) => node::run(global, command)?,
        Command::Bgp(command) => bgp::run(global, &command)?,
        Command::Flow(command) => flow::run(global, &command)?,
        Command::Drop(command) => drop::run(global, &command)?,
        Command::Deny(command) => return deny::run(global, command),
        Command::Publish(command) => publish::run(global, &command)?,
        Command::Monitor(args) => monitor::run(global, &args)?,
        Command::Trace(args) => trace::run(global, args)?,
        Command::Capture(args) => capture::run(global, &args)?,
        Command::Cni(command) => cni::run(global, &command)?,
        Command::Status => status::run(global)?,
        Command::Doctor(args) => return doctor::run(global, args),
        Command::Metrics => metrics::run(global)?,
        Command::Uninstall(flags) => uninstall::run(global, &flags)?,
        Command::Lab(command) => return lab::run(global, &command),
        Command::Bench(args) => return bench::run(global, &args),
        Command::Completions(args) => completions::run(&args)?,
        Command::Man(args) => man::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for `work` on a runtime that adds no thread to the process.
fn wait<T, E>(work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    Ok(runtime.block_on(work)?)
}

/// Does something for each name; what can be done is done. The status is the first failure's.
fn each(names: &[String], mut work: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let mut status = 0;
    for name in names {
        match work(name) {
            Ok(()) => {}
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                let report = Report::of(&error);
                eprint!("{report}");
                status = if status == 0 { report.status } else { status };
            }
        }
    }
    Ok(ExitCode::from(status))
}

fn instance(name: &str) -> Result<Instance, String> {
    Instance::new(name).map_err(|error| error.to_string())
}
