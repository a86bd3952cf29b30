//! What any instance has left on this node.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use serde::Deserialize;

use super::{
    Agent,
    node::read_store,
    process::{all, holder, seen_by},
};
use crate::{
    api::types,
    config::{self, AgentFlags, Config, Paths},
    model::PodState,
    net::{NetError, Netlink, Netns, Route},
    store::{EmbeddedStore, Store, StoreError},
};

/// Traces of instances, and routes with our mark.
#[derive(Clone, Debug, Default)]
pub(in crate::doctor) struct Leftovers {
    pub(in crate::doctor) instances: Vec<Instance>,
    /// Pods of the agent that container engines added.
    pub(in crate::doctor) tenants: Vec<Tenant>,
    /// Whether processes of every PID namespace are seen here.
    pub(in crate::doctor) sees_all: bool,
    /// Routes marked as netpath's.
    pub(in crate::doctor) routes: Vec<Route>,
}

/// A pod that a container engine added.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Tenant {
    pub(in crate::doctor) pod: String,
    /// The engine's name of the container.
    pub(in crate::doctor) container: String,
    /// File of its namespace, as the agent sees it.
    pub(in crate::doctor) netns: String,
    /// Processes seen in it; `None` if there is no such file any more.
    pub(in crate::doctor) processes: Option<usize>,
}

/// An instance that has pins or a store.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Instance {
    pub(in crate::doctor) name: String,
    /// Its agent runs.
    pub(in crate::doctor) alive: bool,
    /// It has programs or tables pinned.
    pub(in crate::doctor) pins: bool,
    /// It has a store.
    pub(in crate::doctor) state: bool,
    /// Pods in the store.
    pub(in crate::doctor) pods: usize,
    /// Namespaces in the store that are there and were made for pods.
    pub(in crate::doctor) namespaces: Vec<String>,
    /// Ports that the store says it has reserved.
    pub(in crate::doctor) reserved_ports: String,
}

/// What of the store's record of the host is of interest.
#[derive(Default, Deserialize)]
struct Host {
    #[serde(default)]
    reserved_ports: String,
}

impl Leftovers {
    pub(super) async fn read(
        own: &config::Instance,
        paths: &Paths,
        agent: &Agent,
        alive: bool,
        netlink: &Netlink,
    ) -> Result<Self, NetError> {
        let mut names: BTreeSet<String> = [own.name().to_owned()].into();
        for dir in ["/sys/fs/bpf/netpath", "/var/lib/netpath"] {
            names.extend(subdirectories(dir.as_ref()));
        }
        let mut instances = Vec::new();
        for instance in names.iter().filter_map(|name| config::Instance::new(name).ok()) {
            let (paths, alive) = match instance == *own {
                true => (paths.clone(), alive),
                false => of_other(&instance),
            };
            let found = Instance::read(instance.name(), alive, &paths).await;
            instances.extend(Some(found).filter(|found| found.pins || found.state));
        }
        let routes = netlink.own_routes().await?;
        Ok(Self { instances, tenants: tenants(agent), sees_all: sees_all(), routes })
    }
}

impl Instance {
    async fn read(name: &str, alive: bool, paths: &Paths) -> Self {
        let mut found = Self {
            name: name.to_owned(),
            alive,
            pins: !subdirectories(&paths.pin_dir).is_empty(),
            state: paths.store().exists(),
            pods: 0,
            namespaces: Vec::new(),
            reserved_ports: String::new(),
        };
        // Of a store that cannot be read another check tells.
        if !alive
            && found.state
            && let Ok((pods, _)) = read_store(paths).await
        {
            found.pods = pods.len();
            let own = pods.into_iter().filter(|pod| pod.owns_netns && pod.state == PodState::Ready);
            let there = own.filter(|pod| pod.netns.exists());
            found.namespaces = there.map(|pod| pod.netns.display().to_string()).collect();
            found.reserved_ports = host(paths).await.unwrap_or_default().reserved_ports;
        }
        found
    }
}

/// Pods of engines, each with the processes in its namespace.
fn tenants(agent: &Agent) -> Vec<Tenant> {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let inhabited: Vec<_> = all().filter_map(|process| file(&process.join("ns/net"))).collect();
    let holder = agent.process.as_ref().map(|process| process.pid);
    let tenant = |pod: &types::Pod| {
        let path = seen_by(holder, Path::new(&pod.netns));
        let own = file(&path).filter(|_| Netns::is_at(&path));
        Some(Tenant {
            pod: pod.name.clone(),
            container: pod.attachment.as_ref()?.container.clone(),
            netns: pod.netns.clone(),
            processes: own.map(|own| inhabited.iter().filter(|other| **other == own).count()),
        })
    };
    // What is just being removed is not there for long.
    agent.pods.iter().filter(|pod| pod.state != "removing").filter_map(tenant).collect()
}

/// The first PID namespace's inode is always this (PROC_PID_INIT_INO), and from there every process is seen.
fn sees_all() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|file| file.ino() == 0xEFFF_FFFC)
}

/// Where another instance keeps things by its file in `/etc/netpath`, and whether its agent runs.
fn of_other(instance: &config::Instance) -> (Paths, bool) {
    let config = Config::load(&AgentFlags::default(), instance);
    let paths = config.map_or_else(|_| instance.paths(), |config| config.paths);
    let alive = holder(&paths.lock()).is_some();
    (paths, alive)
}

async fn host(paths: &Paths) -> Result<Host, StoreError> {
    let store: Box<dyn Store> = Box::new(EmbeddedStore::open_copy(&paths.store())?);
    Ok(store.read("host").await?.unwrap_or_default())
}

fn subdirectories(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
