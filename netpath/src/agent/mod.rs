//! The agent: one process a node, which holds the desired state and makes the kernel match it.
//!
//! `start` brings it up and down, `takeover` puts its programs in the place of an earlier agent's, `state` is what outlives it
//! and `registry` the same in memory (with `networks`, who has which address), `pods` and `network` do what requests ask for,
//! `attachments` what container engines ask for (`spool` while no agent answers), `cluster` where the node stands among others, `peers` how it reaches them (`overlay` by tunnels) and `lost` which of them are gone, `bgp` what BIRD is told and `learned` what it has learned, `deny` who may not send here, `publish` which ports lead to pods (`host_sock` for the node's own sockets, `holder` who has one), `links` is the kernel's side of a pod (`mode` whether by XDP), `node` looks after the node itself (`reserved` its ports, `ranges` which of them,
//! `forwarding` its own stack), `reconcile` repairs, `problems` says what it could not, `sweep` ends flows, `reload` takes a new
//! configuration, `settle` moves pods' programs to where they cost packets less, `events` reads what the programs tell, `view`, `flows`, `snat` and `trace` answer the API, `metrics` counts,
//! `notify` tells the service manager, `uninstall` takes everything away (`installed` what engines were given), with what `found` finds where there is no state.

mod advertisements;
mod attachments;
mod bgp;
mod blocks;
mod cluster;
mod deny;
mod error;
mod events;
mod failure;
mod flows;
mod forwarding;
mod found;
mod holder;
mod host_sock;
mod installed;
mod learned;
mod left_behind;
mod links;
mod lost;
mod metrics;
mod mode;
mod namespace;
mod network;
mod networks;
mod node;
mod notify;
mod overlay;
mod peers;
mod pods;
mod ports;
mod problems;
mod protect;
mod publish;
mod ranges;
mod reconcile;
mod registry;
mod reload;
mod reserved;
mod settle;
mod shared;
mod snat;
mod spool;
mod start;
mod state;
mod sweep;
mod takeover;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trace;
mod uninstall;
mod uplinks;
mod view;
mod wanted;

use std::{
    panic,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, RwLock, broadcast, mpsc, oneshot, watch};

pub(crate) use self::view::unix_ms;
use self::{
    attachments::Turns, bgp::BgpState, cluster::Membership, deny::DenyList, metrics::Metrics,
    node::NodeState, notify::Progress, problems::Problems, registry::Registry, settle::Settling,
    state::State,
};
pub use self::{
    error::AgentError,
    installed::{Installed, remove_installed},
    start::run,
    uninstall::uninstall,
};
use crate::{
    api::types::Event,
    config::Config,
    datapath::{Attach, Datapath, DryRun, FlowTable, Readings, Swept},
    net::{Netlink, Netns},
};

/// Who waits for everything to be removed.
type Uninstall = oneshot::Sender<Result<(), AgentError>>;

/// A running agent.
pub struct Agent {
    config: Mutex<Arc<Config>>,
    netns: Netns,
    netlink: Netlink,
    /// Whoever came first has it first: while a hundred pods are added, each waits for the kernel with it.
    datapath: Arc<tokio::sync::Mutex<Datapath>>,
    /// Of the programs that run: a takeover may load them twice.
    readings: Mutex<Arc<Readings>>,
    attach: Attach,
    /// Entries that fit into FLOWS.
    flow_entries: u32,
    state: State,
    registry: Mutex<Registry>,
    /// The node's place in its cluster, if it is in one.
    membership: Option<Membership>,
    /// What BIRD was told, and tells.
    bgp: BgpState,
    denied: Mutex<DenyList>,
    node: Mutex<NodeState>,
    /// What is wrong now, by object.
    problems: Mutex<Problems>,
    swept: Mutex<Swept>,
    /// The programs of traces, which run one at a time.
    dry_run: Arc<Mutex<DryRun>>,
    progress: Progress,
    pub(crate) metrics: Metrics,
    events: broadcast::Sender<Arc<Event>>,
    /// Held by whoever makes the node right, so that nobody writes what he read before a change.
    node_changes: tokio::sync::Mutex<()>,
    /// A full pass is due: the configuration has changed, or what it waited for has come.
    reloaded: Notify,
    /// When a pod came or went.
    stirred: watch::Sender<Instant>,
    settling: Settling,
    /// Whose turn it is with an engine's attachment.
    turns: Mutex<Turns>,
    /// Held by whoever adds, changes or removes a network.
    network_changes: tokio::sync::Mutex<()>,
    /// Read-held by every change that a request makes; taken for writing when the agent ends.
    changes: Arc<RwLock<()>>,
    uninstall: mpsc::Sender<Uninstall>,
    /// Whether the agent is ending: nothing new is begun, event streams close.
    ending: watch::Sender<bool>,
    started: Instant,
}

impl Agent {
    /// Works on programs and tables: system calls, so on a blocking thread.
    async fn on_datapath<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Datapath) -> T + Send + 'static,
    ) -> T {
        let mut datapath = Arc::clone(&self.datapath).lock_owned().await;
        blocking(move || work(&mut datapath)).await
    }

    /// Reads what the programs count, without waiting for who works on them.
    async fn on_readings<T: Send + 'static>(&self, work: impl FnOnce(&Readings) -> T + Send + 'static) -> T {
        let readings = Arc::clone(&lock(&self.readings));
        blocking(move || work(&readings)).await
    }

    /// Works on the flow table with a handle of its own: a walk may take a second, and nobody waits for it.
    async fn on_flows<T, F>(&self, work: F) -> Result<T, AgentError>
    where
        T: Send + 'static,
        F: FnOnce(&mut FlowTable) -> Result<T, crate::datapath::DatapathError> + Send + 'static,
    {
        Ok(self.on_readings(|readings| work(&mut readings.flow_table()?)).await?)
    }

    /// Notes what is wrong with an object that every pass looks at, or that nothing is. Tells the log when that changes.
    pub(crate) fn note<E: std::fmt::Display>(&self, object: &str, outcome: &Result<(), E>) {
        self.note_as(object, outcome, false);
    }

    /// The same for an object that is left alone for a while when it fails.
    fn tried<E: std::fmt::Display>(&self, object: &str, outcome: &Result<(), E>) {
        self.note_as(object, outcome, true);
    }

    fn note_as<E: std::fmt::Display>(&self, object: &str, outcome: &Result<(), E>, backs_off: bool) {
        let outcome = outcome.as_ref().copied().map_err(E::to_string);
        let news = lock(&self.problems).note(object, outcome.clone(), backs_off);
        match outcome {
            Ok(()) if news => tracing::info!("{object}: well again"),
            Err(problem) => {
                self.metrics.failed(object);
                if news {
                    tracing::warn!("{object}: {problem}");
                }
            }
            Ok(()) => {}
        }
    }

    /// Removes everything this instance put on the host, and ends the agent.
    ///
    /// # Errors
    /// All that failed, after trying all.
    pub async fn request_uninstall(&self) -> Result<(), AgentError> {
        let (tell, told) = oneshot::channel();
        self.uninstall.send(tell).await.map_err(|_| AgentError::Ending)?;
        told.await.map_err(|_| AgentError::Ending)?
    }

    /// A subscription to what the programs tell from now on.
    ///
    /// # Errors
    /// If the programs cannot be told that somebody listens.
    pub async fn subscribe(&self) -> Result<broadcast::Receiver<Arc<Event>>, AgentError> {
        let subscription = self.events.subscribe();
        self.tell_listeners().await?;
        Ok(subscription)
    }

    /// Turns true when the agent ends.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panicked) => panic::resume_unwind(panicked),
            // The runtime is going away, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Locks a mutex whose holders cannot leave it half-changed: a panic of one of them poisons nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
