//! A node with a real agent: the lab's topology (node, router, outside) and the `netpath` binary in it.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use netpath::{
    api::{
        client::Client,
        types::{Pod, PodAdd},
    },
    lab::{
        checks::{self, LabPod, Scene},
        topology::{BLOCK, BLOCK_V6, Spec, Topology},
    },
    model::Mode,
    net::Netns,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::{Builder, Runtime};

use crate::{namespace::isolate, wait};

/// Longest wait for anything that should happen at once; an emulated machine on a busy host takes 20 s to start an agent.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Directory of the agent's configuration, state and log; a tmpfs that only this test sees.
const DIR: &str = "/mnt";
/// What a configuration that names no uplinks gets.
const UPLINKS: &str = "uplinks = [\"up0\"]";

/// Mode of pods that do not say; the agent's own if it is not set.
static MODE: OnceLock<Mode> = OnceLock::new();

/// A node with its agent.
pub struct Node {
    /// Node, router and outside.
    pub topology: Arc<Topology>,
    /// The agent's API.
    pub client: Client,
    /// The runtime everything asynchronous runs on.
    pub runtime: Runtime,
    /// The agent that is started next.
    pub binary: PathBuf,
    agent: Child,
    /// A command, with its arguments, that becomes the agent.
    pub launcher: Vec<String>,
}

impl Node {
    /// A node whose agent runs with these lines of configuration beside the paths and, if they name none, the blocks.
    pub fn start(configuration: &str) -> Self {
        let (topology, runtime) = Self::without_agent();
        let mut node = Self::with_agent(topology, runtime, configuration);
        node.wait_ready();
        node
    }

    /// Has the pods of all nodes of this process in a mode, unless one says otherwise.
    pub fn pods_in(mode: Mode) {
        MODE.set(mode).expect("once");
    }

    /// The topology alone, to look at before an agent has touched it.
    pub fn without_agent() -> (Arc<Topology>, Runtime) {
        isolate();
        mount(Some("netpath-test"), DIR, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let topology = runtime.block_on(Topology::build(Spec::default())).expect("topology");
        (Arc::new(topology), runtime)
    }

    /// Starts an agent on a topology, without waiting for it.
    pub fn with_agent(topology: Arc<Topology>, runtime: Runtime, configuration: &str) -> Self {
        match MODE.get().map(|mode| format!("NETPATH_DATAPATH_MODE={}", mode.name())) {
            Some(mode) => Self::with_launcher(topology, runtime, configuration, &["env", &mode]),
            None => Self::with_launcher(topology, runtime, configuration, &[]),
        }
    }

    /// The same by a command, with its arguments, that becomes what follows it (env, setpriv).
    pub fn with_launcher(
        topology: Arc<Topology>,
        runtime: Runtime,
        configuration: &str,
        launcher: &[&str],
    ) -> Self {
        configure(configuration);
        let launcher: Vec<_> = launcher.iter().map(ToString::to_string).collect();
        let binary = binary();
        let agent = spawn_agent(&topology.node.netns, &binary, &launcher, &[]);
        let client = Client::new("/run/netpath/default/agent.sock");
        Self { topology, client, runtime, binary, agent, launcher }
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        let agent = Pid::from_raw(self.agent.id().try_into().expect("process id"));
        kill(agent, signal).expect("the agent runs");
    }

    /// Gives the running agent another configuration, as an operator would (SIGHUP).
    pub fn reconfigure(&self, configuration: &str) {
        configure(configuration);
        self.signal(Signal::SIGHUP);
    }

    /// Gives the next agent another configuration.
    pub fn configure(&self, configuration: &str) {
        configure(configuration);
    }

    /// Waits until the agent answers.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.runtime.block_on(self.client.status()) {
            let ended = self.agent.try_wait().expect("agent");
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?} {error}\n{}", log());
            wait::rest();
        }
    }

    /// Adds a pod.
    pub fn pod(&self, name: &str) -> LabPod {
        let pod = self.add(&PodAdd { name: name.into(), ..PodAdd::default() });
        assert!(MODE.get().is_none_or(|mode| mode.name() == pod.mode), "{pod:?}");
        LabPod::open(pod).expect("pod")
    }

    /// Adds a pod by a whole request.
    pub fn add(&self, wanted: &PodAdd) -> Pod {
        self.runtime
            .block_on(self.client.pod_add(wanted))
            .unwrap_or_else(|error| panic!("{error}\n{}", log()))
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    /// `kill -9`, and nothing after it.
    pub fn kill(&mut self) {
        self.agent.kill().expect("kill");
        self.agent.wait().expect("wait");
    }

    /// SIGTERM, as systemd would; waits for the end.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.agent.wait().expect("wait");
        assert!(status.success(), "{status}");
    }

    /// Starts an agent again.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts an agent again without waiting for it.
    pub fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    /// The same with flags.
    pub fn spawn_with(&mut self, flags: &[&str]) {
        self.agent = spawn_agent(&self.topology.node.netns, &self.binary, &self.launcher, flags);
    }

    /// Starts an agent that is to refuse: waits for its end and returns what it printed, its log included.
    pub fn refused(&mut self, flags: &[&str]) -> String {
        let before = log().len();
        self.spawn_with(flags);
        let status = self.agent.wait().expect("wait");
        let said = log().split_off(before);
        assert!(!status.success(), "it did not refuse:\n{said}");
        said
    }

    /// The lab's connectivity matrix with these pods.
    ///
    /// # Panics
    /// If anything in it fails.
    pub fn check_connectivity(&self, pods: Vec<LabPod>) {
        let scene = Scene {
            topology: self.topology.clone(),
            pods,
            client: self.client.clone(),
            runtime: self.runtime.handle().clone(),
        };
        let checks = checks::run(&scene, |_| ());
        let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
        assert!(failed.is_empty() && !checks.is_empty(), "{failed:#?}");
    }

    /// Packets dropped for a reason, by its stable name.
    pub fn drops(&self, reason: &str) -> u64 {
        let drops = self.runtime.block_on(self.client.drops()).expect("drops");
        drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.packets)
    }

    /// Runs the command line as an operator in the node's namespace would.
    pub fn netpath(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary());
        command.args(arguments).env("NETPATH_CONFIG", format!("{DIR}/agent.toml"));
        self.topology.node.netns.enter(|| command.output()).expect("namespace").expect("netpath")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let drops = self.runtime.block_on(self.client.drops());
            eprintln!("--- packets dropped\n{drops:#?}");
        }
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", log());
        }
    }
}

/// Writes the agent's configuration.
fn configure(configuration: &str) {
    let capacity = if configuration.contains("[flows]") { "" } else { "[flows]\ncapacity = 16384\n" };
    let block = match configuration.contains("block = ") {
        true => String::new(),
        false => format!("block = [\"{BLOCK}\", \"{BLOCK_V6}\"]"),
    };
    let uplinks = if configuration.contains("uplinks =") { "" } else { UPLINKS };
    let text = format!("{block}\nstate_dir = \"{DIR}/state\"\n{uplinks}\n{configuration}\n{capacity}");
    std::fs::write(format!("{DIR}/agent.toml"), text).expect("configuration");
}

/// The agent's log so far.
pub fn log() -> String {
    std::fs::read_to_string(format!("{DIR}/agent.log")).unwrap_or_default()
}

/// The binary under test: `cargo xtask test` names it; by hand it lies beside the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("NETPATH_BIN").map_or_else(
        || std::env::current_exe().expect("own path").ancestors().nth(2).expect("target").join("netpath"),
        PathBuf::from,
    )
}

/// A program of a Debian package that serves where it is installed: where `cargo xtask setup` unpacks it, or on the path.
pub fn unpacked(package: &str, program: &str) -> PathBuf {
    let target = binary().ancestors().nth(2).expect("target").to_owned();
    let places =
        ["usr/bin", "usr/sbin"].map(|dir| target.join("xtask").join(package).join(dir).join(program));
    places.into_iter().find(|unpacked| unpacked.is_file()).unwrap_or_else(|| PathBuf::from(program))
}

/// Spawns from this thread, not from a short-lived one: the parent-death signal comes when the *thread* ends.
fn spawn_agent(node: &Netns, binary: &Path, launcher: &[String], flags: &[&str]) -> Child {
    let own = Netns::current().expect("own namespace");
    let log =
        std::fs::File::options().create(true).append(true).open(format!("{DIR}/agent.log")).expect("log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(launcher).arg(binary);
    command.args(["-v", "agent", "run"]).args(flags);
    command.args(["--config", &format!("{DIR}/agent.toml")]);
    // Its sockets' hooks are for a test's own cgroup, never for the machine's.
    if !std::fs::read_to_string(format!("{DIR}/agent.toml")).expect("configuration").contains("cgroup = ") {
        command.env("NETPATH_DATAPATH_CGROUP", "none");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
    setns(node, CloneFlags::CLONE_NEWNET).expect("node's namespace");
    let child = command.spawn();
    setns(&own, CloneFlags::CLONE_NEWNET).expect("own namespace");
    child.expect("agent: is util-linux's setpriv there, and the netpath binary built?")
}

/// Runs a command inside a namespace and returns what it printed, standard error included.
pub fn run_in(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns.enter(|| command.output()).expect("namespace");
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Gives an interface one more address, and waits until it is there: the kernel makes the route by which packets for an IPv6
/// address are delivered a moment later, and loses them till then.
pub fn add_address(netns: &Netns, address: IpAddr, interface: &str) {
    let (host, text) = (ipnet::IpNet::from(address).to_string(), address.to_string());
    let nodad: &[&str] = if address.is_ipv6() { &["nodad"] } else { &[] };
    let said = run_in(netns, "ip", &[&["address", "add", &host, "dev", interface], nodad].concat());
    assert_eq!(said, "", "{address} at {interface}");
    wait::until("the address is the namespace's own", || {
        run_in(netns, "ip", &["route", "get", &text]).starts_with("local")
    });
}

/// An address of the block that no pod has.
pub const UNUSED: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 200);
