//! Nodes with real agents on one link, an etcd they share, and outside behind a router.
//!
//! ```text
//!  node N up0 198.18.0.(10+N)/24 ──┐
//!     2001:db8:18::(10+N)/64       switch ── 198.18.0.1 router 198.18.1.1 ── 198.18.1.2 outside, with etcd
//!  node M up0 ─────────────────────┘                  │
//!  node F up0 198.18.(100+F).2 ── 198.18.(100+F).1 ───┘   2001:db8:(100+F)::2/64: behind the router
//! ```

mod inventory;
mod power;
mod settings;

use std::{
    net::IpAddr,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use netpath::{
    api::{
        client::Client,
        types::{ClusterNode, PodAdd},
    },
    lab::{
        checks::LabPod,
        topology::{End, OUTSIDE, OUTSIDE_V6, Space, Spec, net, wire},
    },
    net::{Netns, sysctl},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    etcd::Etcd,
    namespace::isolate,
    node::{binary, run_in},
    wait,
};

const DIR: &str = "/mnt";
const ETCD: &str = "/mnt/etcd";
/// The pools.
pub const POOLS: [&str; 2] = ["10.64.0.0/16", "fd00:64::/48"];

/// The router on the link.
pub const ROUTERS: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

/// The link, what is on it and behind it.
pub struct Cluster {
    /// Nodes, in the order they came.
    pub nodes: Vec<ClusterMember>,
    /// Forwards between the link and outside; knows no pod.
    pub router: Space,
    /// The outside server.
    pub outside: Space,
    /// The members run outside.
    pub etcd: Etcd,
    /// For everything asynchronous.
    pub runtime: Arc<Runtime>,
    switch: Space,
    spec: Spec,
    line: String,
}

/// A node with its agent.
pub struct ClusterMember {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub space: Space,
    /// The agent's API.
    pub client: Client,
    /// IPv4 and IPv6 address on the link.
    pub addresses: [IpAddr; 2],
    runtime: Arc<Runtime>,
    agent: Option<Child>,
}

impl Cluster {
    /// So many nodes, which all know each other.
    pub fn start(nodes: u8) -> Self {
        Self::start_with(nodes, "")
    }

    /// The same, with lines more behind `[cluster]`; `{dir}` is the node's directory.
    pub fn start_with(nodes: u8, line: &str) -> Self {
        Self::start_at(nodes, line, |outside| Etcd::start(outside, OUTSIDE.into(), ETCD))
    }

    /// So many nodes with an etcd of a later release than the machine's.
    pub fn start_later(nodes: u8) -> Self {
        Self::start_at(nodes, "", |outside| Etcd::start_later(outside, OUTSIDE.into(), ETCD))
    }

    fn start_at(nodes: u8, line: &str, etcd: impl FnOnce(&Netns) -> Etcd) -> Self {
        isolate();
        mount(Some("netpath-test"), DIR, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let spec = Spec::default();
        let (switch, router, outside) = runtime.block_on(surroundings(&spec)).expect("topology");
        let etcd = etcd(&outside.netns);
        let runtime = Arc::new(runtime);
        let (nodes_before, line) = (Vec::new(), line.to_owned());
        let mut cluster = Self { nodes: nodes_before, router, outside, etcd, runtime, switch, spec, line };
        (0..nodes).for_each(|_| cluster.join());
        cluster.wait_known();
        cluster
    }

    /// What later nodes have behind `[cluster]`, as of [`start_with`](Self::start_with).
    pub fn set_line(&mut self, line: &str) {
        line.clone_into(&mut self.line);
    }

    /// One more node.
    pub fn join(&mut self) {
        let number = self.nodes.len() as u16 + 1;
        let name = format!("node{number}");
        let addresses = [
            IpAddr::from([198, 18, 0, 10 + number as u8]),
            IpAddr::from([0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 10 + number]),
        ];
        let space = self.near_space(&name, addresses);
        self.run_node(name, addresses, space);
    }

    /// A namespace for a node on the link.
    fn near_space(&self, name: &str, addresses: [IpAddr; 2]) -> Space {
        let space = self.node_space(name, addresses, ROUTERS.map(router), None);
        plug(&self.switch.netns, &format!("to-{name}"));
        space
    }

    /// One more node, on a link of its own behind the router.
    pub fn join_far(&mut self) {
        let number = self.nodes.len() as u16 + 1;
        let name = format!("node{number}");
        let of = |last: u16| {
            [
                IpAddr::from([198, 18, 100 + number as u8, last as u8]),
                IpAddr::from([0x2001, 0xdb8, 0x100 + number, 0, 0, 0, 0, last]),
            ]
        };
        let space = self.node_space(&name, of(2), of(1), Some(&of(1)));
        self.run_node(name, of(2), space);
    }

    /// A namespace for a node, whose link leads to the switch, or to the router, which has `far` there.
    fn node_space(
        &self,
        name: &str,
        addresses: [IpAddr; 2],
        routers: [IpAddr; 2],
        far: Option<&[IpAddr; 2]>,
    ) -> Space {
        let nets = |[v4, v6]: [IpAddr; 2]| [net(v4, 24), net(v6, 64)];
        self.runtime.block_on(async {
            let space = self.spec.space(name).await.expect("namespace");
            let (port, own) = (format!("to-{name}"), nets(addresses));
            let near = End { space: &space, link: "up0", addresses: &own };
            let theirs = far.copied().map(nets);
            let other = if far.is_some() { &self.router } else { &self.switch };
            let end = End { space: other, link: &port, addresses: theirs.as_ref().map_or(&[], |nets| nets) };
            wire(near, end, None).await.expect("link");
            for router in routers {
                space.default_route(router).await.expect("route");
            }
            space
        })
    }

    /// Starts the agent of a new node.
    fn run_node(&mut self, name: String, addresses: [IpAddr; 2], space: Space) {
        // So that its stack answers what other nodes send: see docs/CLUSTER.md.
        let forward = || {
            sysctl::write("net/ipv6/conf/all/forwarding", "1").expect("forwarding");
            sysctl::write("net/ipv4/conf/up0/forwarding", "1").expect("forwarding");
            // So that the kernel notices in seconds that a neighbour has gone.
            for family in ["ipv4", "ipv6"] {
                for (key, value) in [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1")] {
                    sysctl::write(&format!("net/{family}/neigh/up0/{key}"), value).expect("sysctl");
                }
            }
        };
        space.netns.enter(forward).expect("namespace");
        let dir = format!("{DIR}/{name}");
        std::fs::create_dir_all(&dir).expect("directory");
        let pools = if self.line.contains("pools =") { String::new() } else { format!("pools = {POOLS:?}") };
        let configuration = format!(
            "node = \"{name}\"\nstate_dir = \"{dir}/state\"\n\
             uplinks = [\"up0\"]\n[flows]\ncapacity = 16384\n[cluster]\nendpoints = {:?}\n{pools}\n{}\n",
            self.etcd.endpoints(),
            self.line.replace("{dir}", &dir),
        );
        std::fs::write(format!("{dir}/agent.toml"), configuration).expect("configuration");
        let client = Client::new(format!("/run/netpath/{name}/agent.sock"));
        let runtime = Arc::clone(&self.runtime);
        let mut member = ClusterMember { name, space, client, addresses, runtime, agent: None };
        member.restart();
        self.nodes.push(member);
    }

    /// Plugs a node out of the switch, or in again.
    pub fn plug(&self, at: usize, plugged: bool) {
        let (port, state) = (format!("to-{}", self.nodes[at].name), if plugged { "up" } else { "down" });
        assert_eq!(run_in(&self.switch.netns, "ip", &["link", "set", &port, state]), "");
    }

    /// Waits until every node has a way to every other.
    pub fn wait_known(&self) {
        for node in &self.nodes {
            wait::until(&format!("{} has ways to all others", node.name), || {
                let ways = node.known().iter().filter(|one| one.backend.is_some()).count();
                ways + 1 == self.nodes.len()
            });
        }
    }
}

impl ClusterMember {
    /// Starts the agent, again if it has ended, and waits until it answers.
    pub fn restart(&mut self) {
        let dir = format!("{DIR}/{}", self.name);
        let log = std::fs::File::options().create(true).append(true).open(format!("{dir}/agent.log"));
        let log = log.expect("log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary());
        let file = format!("{dir}/agent.toml");
        command.args(["--instance", &self.name, "agent", "run", "--config", &file]);
        command.env("NETPATH_LOG", "info,netpath::agent::lost=debug");
        command.env("NETPATH_DATAPATH_CGROUP", "none");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        // From this thread: the parent-death signal comes when the thread ends.
        let own = Netns::current().expect("own namespace");
        setns(&self.space.netns, CloneFlags::CLONE_NEWNET).expect("namespace");
        let child = command.spawn();
        setns(&own, CloneFlags::CLONE_NEWNET).expect("own namespace");
        self.agent = Some(child.expect("agent"));
        wait::until(&format!("the agent of {} answers", self.name), || {
            self.runtime.block_on(self.client.status()).is_ok()
        });
    }

    /// `kill -9` of the agent.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("kill");
            agent.wait().expect("wait");
        }
    }

    /// Process id of its agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("an agent").id()
    }

    /// For everything asynchronous.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Adds a pod.
    pub fn pod(&self, wanted: &PodAdd) -> LabPod {
        let pod = self.runtime.block_on(self.client.pod_add(wanted));
        LabPod::open(pod.unwrap_or_else(|error| panic!("{}: {error}", self.name))).expect("pod")
    }

    /// Adds a pod that needs nothing but a name.
    pub fn named(&self, name: &str) -> LabPod {
        self.pod(&PodAdd { name: name.into(), ..PodAdd::default() })
    }

    /// The nodes that it knows, itself included.
    pub fn known(&self) -> Vec<ClusterNode> {
        self.runtime.block_on(self.client.nodes()).expect("nodes")
    }

    /// Its own blocks.
    pub fn blocks(&self) -> Vec<IpNet> {
        self.known().into_iter().find(|one| one.own).map(|one| one.blocks).unwrap_or_default()
    }

    /// Takes IPv4 off its uplink, which is on the common link. Etcd is reached by IPv4 all the same, from an address that no uplink has.
    pub fn without_ipv4(&self) {
        let own = self.addresses[0].to_string();
        self.run("ip", &["address", "del", &format!("{own}/24"), "dev", "up0"]);
        self.run("ip", &["address", "add", &format!("{own}/32"), "dev", "lo"]);
        let line = ["route", "add", "default", "via", ROUTERS[0], "dev", "up0", "onlink", "src", &own];
        assert_eq!(self.run("ip", &line), "");
    }

    /// Packets dropped for a reason, by its stable name.
    pub fn drops(&self, reason: &str) -> u64 {
        let drops = self.runtime.block_on(self.client.drops()).expect("drops");
        drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.packets)
    }

    /// Waits until nothing is wrong on it: what a call to etcd that failed has left among its problems goes with the next one.
    pub fn wait_well(&self) {
        let next = Duration::from_secs(8);
        wait::within(next, &format!("nothing is wrong on {}", self.name), || self.problems().is_empty());
    }

    /// What is wrong on it.
    pub fn problems(&self) -> String {
        self.runtime.block_on(self.client.status()).expect("status").problems.join("\n")
    }

    /// Runs a command in its namespace and returns what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run_in(&self.space.netns, program, arguments)
    }

    /// Runs the command line as its operator would.
    pub fn netpath(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(["--instance", &self.name]).args(arguments);
        self.space.netns.enter(|| command.output()).expect("namespace").expect("netpath")
    }
}

impl Drop for ClusterMember {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking && self.agent.is_some() {
            let drops = self.runtime.block_on(self.client.drops());
            let drops: Vec<_> = drops.into_iter().flatten().filter(|drop| drop.packets != 0).collect();
            eprintln!("--- packets dropped by {}\n{drops:#?}", self.name);
            eprintln!("{}{}", self.run("ip", &["route"]), self.run("ip", &["-6", "route"]));
        }
        self.kill();
        if panicking {
            eprintln!("--- the log of {}\n{}", self.name, self.log());
        }
    }
}

fn router(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Switch, router and outside.
async fn surroundings(spec: &Spec) -> Result<(Space, Space, Space), netpath::net::NetError> {
    let (switch, router) = (spec.space("switch").await?, spec.space("router").await?);
    let outside = spec.space("outside").await?;
    for arguments in ["link add br0 type bridge mcast_snooping 0", "link set br0 up"]
        .map(|line| line.split(' ').collect::<Vec<_>>())
    {
        assert_eq!(run_in(&switch.netns, "ip", &arguments), "");
    }
    router.forward()?;
    let parsed = |text: &str| text.parse::<IpNet>().expect("prefix");
    let (near, far) = (
        ["198.18.0.1/24", "2001:db8:18::1/64"].map(parsed),
        ["198.18.1.1/30", "2001:db8:18:1::1/64"].map(parsed),
    );
    wire(
        End { space: &router, link: "to-nodes", addresses: &near },
        End { space: &switch, link: "to-router", addresses: &[] },
        None,
    )
    .await?;
    plug(&switch.netns, "to-router");
    let own = [net(OUTSIDE, 30), net(OUTSIDE_V6, 64)];
    wire(
        End { space: &outside, link: "eth0", addresses: &own },
        End { space: &router, link: "to-outside", addresses: &far },
        None,
    )
    .await?;
    for router in far {
        outside.default_route(router.addr()).await?;
    }
    Ok((switch, router, outside))
}

/// Puts a port into the switch.
fn plug(switch: &Netns, port: &str) {
    assert_eq!(run_in(switch, "ip", &["link", "set", port, "master", "br0"]), "");
}
