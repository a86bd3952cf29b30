//! Bringing the agent up, and down.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, RwLock, broadcast, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    Agent, AgentError, Uninstall, blocking, cluster, lock, metrics::Metrics, node::NodeState, notify,
    ranges::Ranges, reconcile::Extent, registry::Registry, settle::Settling, state::State,
    uninstall::remove_all,
};
use crate::{
    api::server,
    compile,
    config::{Config, ConfigError, Paths},
    datapath::{Attach, Datapath, Options, Swept, is_bpffs, mount_bpffs},
    model::{GATEWAY_MAC, Network, overlap},
    net::{Netlink, Netns},
    store::{EmbeddedStore, Store, private_dir},
};

/// Where bpffs belongs.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// The oldest kernel that is tested: that of Debian 12.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// Events a slow subscriber may be behind before it loses some.
const EVENT_BACKLOG: usize = 1024;
/// How long what has been begun may take when the agent ends.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM, SIGINT or `uninstall`. Programs, tables, links and flows stay when it ends: the next
/// agent takes them over.
///
/// At SIGHUP it takes over what `reread` returns.
///
/// # Errors
/// Why it could not start; what was attached before stays as it was.
pub async fn run(
    config: Config,
    reread: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> Result<(), AgentError> {
    check_root()?;
    check_kernel()?;
    let _lock = take_lock(&config.paths)?;
    let mut signals = Signals::listen()?;
    let store = open_store(&config.paths).await?;
    let (agent, mut uninstall) = Agent::open(config, store).await?;
    let mut tasks = agent.begin().await?;
    let socket = agent.config().paths.socket();
    let group = agent.api_group();
    let listener = server::bind(&socket, group).await?;
    // Served until the answers are out, that of `uninstall` included.
    let (end_server, server_ends) = watch::channel(false);
    let metrics = tokio::spawn(server::metrics::serve(Arc::clone(&agent), server_ends.clone()));
    let serving = tokio::spawn(server::serve(listener, Arc::clone(&agent), server_ends));
    tracing::info!(socket = %socket.display(), node = agent.config().node, "ready");
    tasks.spawn(Arc::clone(&agent).tell_loop(serving.abort_handle()));
    let asked = agent.until_asked(&mut signals, &mut uninstall, reread, group).await;
    notify::stopping().await;
    agent.end(tasks).await;
    let outcome = match asked {
        Some(tell) => {
            tracing::info!("removing everything");
            let outcome = agent.remove_all().await;
            let failed = outcome.as_ref().err().map(ToString::to_string);
            // The client may have gone.
            let _ = tell.send(outcome);
            failed.map_or(Ok(()), |failure| Err(AgentError::Several(vec![failure])))
        }
        None => {
            tracing::info!("ending; programs, links and flows stay");
            Ok(())
        }
    };
    end_server.send_replace(true);
    if timeout(GRACE, async { tokio::join!(serving, metrics) }).await.is_err() {
        tracing::warn!("a client did not take its answer in time");
    }
    // A socket that nobody answers would look like a hanging agent.
    let _ = std::fs::remove_file(&socket);
    outcome
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn listen() -> Result<Self, AgentError> {
        let listen = |kind, name: &str| signal(kind).map_err(AgentError::io(format!("listening for {name}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            reload: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// Waits for the next one; returns whether the agent is to end.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            _ = self.reload.recv() => false,
        }
    }

    /// Waits until the agent is to end; what asks for a reload meanwhile is heard by [`next`](Self::next).
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Fails unless this is root.
pub(super) fn check_root() -> Result<(), AgentError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(AgentError::unfit("it needs root", "start it with sudo, or by systemd"))
}

fn check_kernel() -> Result<(), AgentError> {
    let path = "/proc/sys/kernel/osrelease";
    let release = std::fs::read_to_string(path).map_err(AgentError::io(format!("reading {path}")))?;
    let release = release.trim();
    let (major, minor) = OLDEST_KERNEL;
    if kernel_version(release) >= OLDEST_KERNEL {
        return Ok(());
    }
    Err(AgentError::unfit(
        format!("the kernel is {release}, and netpath needs {major}.{minor}"),
        "boot a newer kernel",
    ))
}

/// Major and minor version of a release like `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Makes sure that no other agent of this instance runs, as long as the file is open.
pub(super) fn take_lock(paths: &Paths) -> Result<File, AgentError> {
    private_dir(&paths.run_dir)?;
    let path = paths.lock();
    let doing = format!("locking {}", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(AgentError::io(doing.clone()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::unfit(
            format!("another agent of this instance holds {}", path.display()),
            "stop that one, or use --instance for a second one",
        )),
        Err(TryLockError::Error(error)) => Err(AgentError::io(doing)(error)),
    }
}

/// Opens the store of an instance.
pub(super) async fn open_store(paths: &Paths) -> Result<Arc<dyn Store>, AgentError> {
    let path = paths.store();
    Ok(Arc::new(blocking(move || EmbeddedStore::open(&path)).await?))
}

impl Agent {
    /// Waits until the agent is to end, and takes over new configurations meanwhile. Returns who asks for an uninstallation, if
    /// anybody does. `group` has the socket.
    async fn until_asked(
        &self,
        signals: &mut Signals,
        uninstall: &mut mpsc::Receiver<Uninstall>,
        reread: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
        mut group: Option<u32>,
    ) -> Option<Uninstall> {
        loop {
            tokio::select! {
                to_end = signals.next() => if to_end { return None },
                asked = uninstall.recv() => return asked,
            }
            notify::reloading().await;
            let reload = async { self.reload(blocking(reread.clone()).await).await };
            let reloaded = tokio::select! {
                reloaded = reload => reloaded,
                () = signals.end() => return None,
                asked = uninstall.recv() => return asked,
            };
            if group != self.api_group() {
                group = self.api_group();
                self.note("api.group", &server::open_to(&self.config().paths.socket(), group));
            }
            notify::reloaded(reloaded).await;
        }
    }

    /// Reads the state and loads the programs; nothing on the node is changed but bpffs mounted and tables pinned.
    pub(super) async fn open(
        config: Config,
        store: Arc<dyn Store>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Uninstall>), AgentError> {
        let (state, pods) = State::load(store).await?;
        state.check_sound(&pods)?;
        let (config, membership) = cluster::join(config, &state).await?;
        let denied = state.denied().await?;
        let netns = Netns::current()?;
        let netlink = Netlink::connect(&netns).await?;
        state.check_complete(&config.instance, &pods, &netlink.links().await?)?;
        let registry = Registry::new(networks(&config, &state).await?, pods);
        ensure_bpffs(&config.paths, &state).await?;
        let attach = config.attach.map_or_else(Attach::best, Attach::from);
        let (datapath, flow_entries) = load(&config, attach, config.flow_entries).await?;
        // What an earlier agent's bindings hold, and its routes name.
        let earlier = datapath.node()?;
        let (ranges, places) = (Ranges::of(&earlier), compile::places(&earlier));
        if flow_entries != config.flow_entries {
            tracing::warn!(
                flow_entries,
                "the flow table has another size than configured, for its flows to fit"
            );
        }
        let (uninstall, asked) = mpsc::channel(1);
        let dry_run = Arc::new(Mutex::new(datapath.dry_run()));
        let agent = Self {
            config: Mutex::new(Arc::new(config)),
            netns,
            netlink,
            readings: Mutex::new(datapath.readings()),
            datapath: Arc::new(tokio::sync::Mutex::new(datapath)),
            attach,
            flow_entries,
            state,
            registry: Mutex::new(registry),
            membership,
            bgp: Default::default(),
            denied: Mutex::new(denied),
            node: Mutex::new(NodeState { ranges, places, ..NodeState::default() }),
            problems: Mutex::default(),
            swept: Mutex::new(Swept::default()),
            dry_run,
            progress: notify::Progress::new(),
            metrics: Metrics::new(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            node_changes: tokio::sync::Mutex::new(()),
            reloaded: Notify::new(),
            stirred: watch::Sender::new(Instant::now()),
            settling: Settling::default(),
            turns: Mutex::default(),
            network_changes: tokio::sync::Mutex::new(()),
            changes: Arc::new(RwLock::new(())),
            uninstall,
            ending: watch::channel(false).0,
            started: Instant::now(),
        };
        Ok((Arc::new(agent), asked))
    }

    /// Makes the kernel match the state, and starts what keeps it so. Programs of an earlier agent run until they are
    /// replaced, with tables that are never emptier than the state.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<JoinSet<()>, AgentError> {
        self.look().await?;
        self.check_node()?;
        let has_told = self.first_beat().await?;
        self.take_over().await?;
        self.drop_earlier_boots().await;
        self.pass(Extent::Full).await;
        self.take_up_all().await;
        let mut tasks = JoinSet::new();
        let ring = self.datapath.lock().await.take_events()?;
        if let Some(ring) = ring {
            tasks.spawn(Arc::clone(self).event_loop(ring));
        }
        #[cfg(feature = "debug-log")]
        tasks.spawn(self.datapath.lock().await.take_log()?);
        tasks.spawn(Arc::clone(self).reconcile_loop());
        tasks.spawn(Arc::clone(self).sweep_loop());
        tasks.spawn(Arc::clone(self).spool_loop());
        tasks.spawn(Arc::clone(self).settle_loop());
        tasks.spawn(Arc::clone(self).beat_loop());
        tasks.spawn(Arc::clone(self).watch_loop());
        tasks.spawn(Arc::clone(self).follow_loop());
        tasks.spawn(Arc::clone(self).lost_loop());
        tasks.spawn(Arc::clone(self).bgp_loop());
        if has_told {
            self.first_view().await;
        }
        Ok(tasks)
    }

    /// Ends what [`begin`](Self::begin) started, and lets what requests have begun come to its end.
    pub(crate) async fn end(&self, mut tasks: JoinSet<()>) {
        self.ending.send_replace(true);
        let quiet = async {
            while tasks.join_next().await.is_some() {}
            let _ = self.changes.write().await;
        };
        if timeout(GRACE, quiet).await.is_err() {
            tracing::warn!("what was being changed is not finished; the next agent will see to it");
        }
    }

    /// Removes everything this instance put on the host.
    pub(crate) async fn remove_all(&self) -> Result<(), AgentError> {
        // Whatever still attaches a program on a thread of its own comes to its end first.
        self.end_settling().await;
        self.on_datapath(|_| ()).await;
        let pods = lock(&self.registry).pods().map(|entry| entry.pod.clone()).collect();
        let config = self.config();
        remove_all(&config.instance, &config.paths, pods, self.state.host().await, &self.netlink).await
    }
}

/// Loads the programs, for so many entries of their flow table. Returns them with the entries it has.
pub(super) async fn load(
    config: &Config,
    attach: Attach,
    flow_entries: u32,
) -> Result<(Datapath, u32), AgentError> {
    let options = Options {
        pin_dir: config.paths.pin_dir.clone(),
        gateway_mac: GATEWAY_MAC.0,
        flow_entries,
        attach,
        forget_flows: config.forget_flows,
    };
    blocking(move || {
        let datapath = Datapath::load(&options)?;
        let capacity = datapath.readings().flow_table()?.capacity();
        Ok((datapath, capacity))
    })
    .await
}

/// The configured network as it was changed at run time, and those that were added.
async fn networks(config: &Config, state: &State) -> Result<Vec<Network>, AgentError> {
    let mut all = vec![state.default_change().await?.apply(config.network.clone())];
    for network in state.networks().await? {
        for own in &config.network.blocks {
            if let Some(theirs) = network.blocks.iter().find(|theirs| overlap(**theirs, *own)) {
                return Err(AgentError::unfit(
                    format!("the block {own} overlaps {theirs} of the network '{}'", network.name),
                    "give pods another block with --block or block = \"CIDR\", or remove that network before",
                ));
            }
        }
        all.push(network);
    }
    Ok(all)
}

/// Mounts bpffs if it is missing, written down before that it was us.
async fn ensure_bpffs(paths: &Paths, state: &State) -> Result<(), AgentError> {
    if !paths.pin_dir.starts_with(BPFFS) {
        return Ok(());
    }
    if !blocking(|| is_bpffs(Path::new(BPFFS))).await? {
        state.record(|host| host.mounted_bpffs = true).await?;
        blocking(|| mount_bpffs(Path::new(BPFFS))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(kernel_version("6.18.5"), (6, 18));
        assert_eq!(kernel_version("5.15-generic"), (5, 15));
        assert!(
            kernel_version("5.19.0") < super::OLDEST_KERNEL && kernel_version("7.0") > super::OLDEST_KERNEL
        );
        assert_eq!(kernel_version(""), (0, 0));
    }
}
