//! `netpath agent`.

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use tokio::runtime;

use super::{
    Global,
    failure::Usage,
    output::{json, print},
};
use crate::{
    agent,
    api::server::document,
    config::{AgentFlags, Config},
};

/// The agent's own commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground until SIGTERM or Ctrl-C
    ///
    /// It loads the programs, attaches them, serves the API and repairs what others break. Pods and their connections
    /// stay when it ends, also by `kill -9`: the programs are pinned, and the next agent takes them over. What it put
    /// on the machine is removed by `netpath uninstall`.
    ///
    /// SIGHUP makes it read its configuration again: snat.ports, snat.addresses, flows.timeouts, flows.per_pod, masquerade,
    /// no_masquerade, inbound, protect, mtu, api.group, metrics.listen and metrics.pods change at once; for the rest it has to be restarted, and a file that changes any of
    /// it, or is not valid, changes nothing.
    #[command(after_help = "Examples:
  netpath agent run                            the default route's interface is the uplink
  netpath agent run --uplink eth0 -v
  netpath agent run --config /etc/netpath/netpath.toml
  netpath --instance two agent run             a second agent, with its own socket, state and pins")]
    Run(Box<AgentFlags>),
    /// Print the API's document: OpenAPI, as GET /v1/openapi.json has it
    Openapi,
}

/// How long threads may go on when the agent has ended.
const LAST_MOMENT: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    let flags = match command {
        Command::Run(flags) => flags,
        Command::Openapi => return print(&json(document(), true)?),
    };
    let config = Config::load(flags, &global.instance).map_err(Usage::new)?;
    // Two threads serve the API and the event ring while a pass of the reconcile loop is at work.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let (flags, instance) = (flags.clone(), global.instance.clone());
    let reread = move || Config::load(&flags, &instance);
    let outcome = runtime.block_on(agent::run(config, reread));
    // A thread that waits for a namespace that does not answer must not keep the process from ending.
    runtime.shutdown_timeout(LAST_MOMENT);
    Ok(outcome?)
}
