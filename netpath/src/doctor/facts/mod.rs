//! Everything that is read, once, before anything is judged.

mod agent;
mod firewall;
mod host;
mod leftovers;
mod net;
mod node;
mod process;
#[cfg(test)]
mod sample;

use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

pub(super) use self::{
    agent::Agent,
    firewall::Firewall,
    host::{Host, Kernel},
    leftovers::{Leftovers, Tenant},
    net::{Attached, Hook, Net},
    node::{Node, PodInterface, Stored},
    process::capability,
};
#[cfg(test)]
pub(super) use self::{
    agent::Mode,
    firewall::Legacy,
    host::{Checkout, Clock},
    leftovers::Instance as Known,
    node::Pod,
    process::Process,
};
use crate::{
    api::client::Client,
    config::{AgentFlags, Config, ConfigError, DEFAULT_FLOW_ENTRIES, Instance, Paths},
    model::tunnel_name,
    net::{NetError, Netlink, Netns},
};

/// Which agent to look at, and from where.
#[derive(Debug)]
pub struct Scope {
    instance: Instance,
    file: PathBuf,
    config: Result<Config, ConfigError>,
    paths: Paths,
    holder: Option<u32>,
    entered: bool,
}

impl Scope {
    /// Finds the agent of an instance by the lock that it holds, and moves the calling thread into its network namespace
    /// if that is another. `file` is the agent's configuration if it is not the usual one.
    ///
    /// # Errors
    /// If the agent's namespace cannot be entered.
    pub fn new(instance: &Instance, file: Option<PathBuf>) -> Result<Self, NetError> {
        let config = Config::of_environment(file.clone(), instance);
        let paths = config.as_ref().map_or_else(|_| instance.paths(), |config| config.paths.clone());
        let holder = process::holder(&paths.lock());
        let mut entered = false;
        if let Some(pid) = holder {
            let theirs = Netns::open(format!("/proc/{pid}/ns/net").as_ref())?;
            if theirs.inode() != Netns::current()?.inode() {
                setns(&theirs, CloneFlags::CLONE_NEWNET).map_err(|errno| NetError {
                    doing: format!("entering the agent's network namespace ({theirs})"),
                    reason: format!("{}; run it as root", errno.desc()),
                    errno: Some(errno as i32),
                })?;
                entered = true;
            }
        }
        let file = file.unwrap_or_else(|| instance.file());
        Ok(Self { instance: instance.clone(), file, config, paths, holder, entered })
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) instance: Instance,
    /// The configuration file.
    pub(super) file: PathBuf,
    pub(super) file_there: bool,
    pub(super) config: Result<Config, ConfigError>,
    pub(super) paths: Paths,
    /// NETPATH_ variables of this process.
    pub(super) environment: Vec<(String, String)>,
    /// Those that stand for flags of the agent.
    pub(super) variables: Vec<String>,
    /// The agent's network namespace is another than this shell's.
    pub(super) entered: bool,
    pub(super) kernel: Kernel,
    pub(super) host: Host,
    pub(super) agent: Agent,
    pub(super) node: Node,
    pub(super) net: Net,
    pub(super) firewall: Firewall,
    pub(super) leftovers: Leftovers,
}

impl Facts {
    /// Reads it all.
    pub(super) async fn read(scope: Scope) -> Result<Self, NetError> {
        let Scope { instance, file, config, paths, holder, entered } = scope;
        let netlink = Netlink::connect(&Netns::current()?).await?;
        let agent = Agent::read(&Client::new(paths.socket()), &paths, holder).await;
        let node = Node::read(&agent, config.as_ref().ok(), &paths, &netlink).await?;
        let net = Net::read(&netlink, &node, &tunnel_name(instance.name())).await?;
        let own_namespace = agent.process.as_ref().map_or(entered, |process| process.own_netns);
        Ok(Self {
            kernel: Kernel::read(),
            host: Host::read(&paths, holder, own_namespace),
            firewall: Firewall::read(),
            leftovers: Leftovers::read(&instance, &paths, &agent, holder.is_some(), &netlink).await?,
            environment: std::env::vars().filter(|(name, _)| name.starts_with("NETPATH_")).collect(),
            variables: AgentFlags::variables(),
            instance,
            file_there: file.exists(),
            file,
            config,
            paths,
            entered,
            agent,
            node,
            net,
        })
    }

    /// Entries that the flow table has, or will have.
    pub(super) fn flow_entries(&self) -> u64 {
        let told = self.agent.status.as_ref().map(|status| status.flow_capacity * 2);
        let configured = || self.config.as_ref().map_or(DEFAULT_FLOW_ENTRIES, |config| config.flow_entries);
        told.unwrap_or_else(|_| configured().into())
    }

    /// Options that name this instance to `netpath`, with a blank behind them.
    pub(super) fn options(&self) -> String {
        if self.instance == Instance::default() {
            String::new()
        } else {
            format!("--instance {} ", self.instance)
        }
    }

    /// How the agent is started again.
    pub(super) fn restart(&self) -> &'static str {
        "`systemctl restart netpath`, or stop `netpath agent run` and start it again"
    }
}
