//! A node for tests: a network and mount namespace of its own, with an uplink, in which an agent runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Agent, AgentError, Uninstall};
use crate::{
    api::types::PodAdd,
    config::{AgentFlags, Config, Instance},
    net::{Netlink, Netns, VethEnd},
    store::Store,
};

/// The node's own address, on its uplink.
pub(crate) const NODE_ADDRESS: &str = "192.0.2.2/24";

/// The same for IPv6.
pub(crate) const NODE_ADDRESS_V6: &str = "2001:db8::2/64";

/// A node without an agent.
pub(crate) struct Node {
    pub(crate) netlink: Netlink,
    pub(crate) config: Config,
}

/// An agent at work, without signals and socket.
pub(crate) struct Running {
    pub(crate) agent: Arc<Agent>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) uninstall: mpsc::Receiver<Uninstall>,
}

/// Runs a test in a node of its own, which is gone with it.
pub(crate) fn with_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces need root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts made private");
    mount(Some("netpath-test"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs on /mnt");
    std::fs::create_dir("/mnt/bpf").expect("a directory in /mnt");
    mount(Some("bpf"), "/mnt/bpf", Some("bpf"), MsFlags::empty(), none).expect("bpffs on /mnt/bpf");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let netlink = Netlink::connect(&Netns::current().unwrap()).await.unwrap();
        let end = |name| VethEnd { name, mac: None, netns: None };
        netlink.add_veth(&end("up0"), &end("up1"), None).await.unwrap();
        for name in ["lo", "up0", "up1"] {
            let link = netlink.link(name).await.unwrap().unwrap();
            netlink.set_up(link.index).await.unwrap();
            if name == "up0" {
                for address in [NODE_ADDRESS, NODE_ADDRESS_V6] {
                    netlink.add_address(link.index, address.parse().unwrap()).await.unwrap();
                }
            }
        }
        test(Node { netlink, config: config() }).await;
    });
}

fn config() -> Config {
    let dir = |name: &str| Some(Path::new("/mnt").join(name));
    let flags = AgentFlags {
        node: Some("n".into()),
        uplinks: vec!["up0".into()],
        flows_capacity: Some(1024),
        // Its own sockets are the machine's.
        cgroup: Some("none".into()),
        run_dir: dir("run/netpath/i"),
        state_dir: dir("lib/netpath/i"),
        pin_dir: dir("bpf/netpath/i"),
        netns_dir: dir("netns"),
        ..AgentFlags::default()
    };
    Config::load(&flags, &Instance::new("agent-tests").unwrap()).unwrap()
}

impl Node {
    /// Starts an agent with a store.
    pub(crate) async fn start(&self, store: Arc<dyn Store>) -> Result<Running, AgentError> {
        let (agent, uninstall) = Agent::open(self.config.clone(), store).await?;
        let tasks = agent.begin().await?;
        Ok(Running { agent, tasks, uninstall })
    }

    /// Everything of the node that an agent may touch, in words.
    pub(crate) async fn picture(&self) -> Vec<String> {
        let mut picture = Vec::new();
        for link in self.netlink.links().await.unwrap() {
            picture.push(format!("link {} {} mtu {}", link.name, link.index, link.mtu));
        }
        for route in self.netlink.own_routes().await.unwrap() {
            picture.push(format!("route {} {:?} {:?}", route.prefix, route.kind, route.ifindex));
        }
        let ports = crate::net::sysctl::read("net.ipv4.ip_local_reserved_ports").unwrap();
        picture.push(format!("reserved ports [{ports}]"));
        picture.extend(files(Path::new("/mnt")).iter().map(|path| path.display().to_string()));
        picture
    }
}

/// All files and directories below one, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found.sort();
    found
}

/// A request for a pod with a name and nothing else.
pub(crate) fn named(name: &str) -> PodAdd {
    PodAdd { name: name.into(), ..PodAdd::default() }
}

impl Running {
    /// Ends the agent as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.agent.end(self.tasks).await;
    }
}
