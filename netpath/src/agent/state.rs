//! What outlives the agent: its pods, and what it changed on the host.
//!
//! Everything is written down before the kernel is touched, so that a crash leaves a record of what may be half-made.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{AgentError, bgp::BirdFiles, cluster::Identity, deny::DenyList};
use crate::{
    config::Instance,
    datapath::POD_SLOTS,
    model::{GATEWAY_MAC, Network, NetworkChange, Peers, Pod, is_interface_of},
    net::{Link, Netns},
    store::Store,
};

const PODS: &str = "pods/";
const NETWORKS: &str = "networks/";
/// What was changed at run time of the network that the configuration describes.
const DEFAULT_CHANGE: &str = "default-network";
/// Who the node is in its cluster.
const IDENTITY: &str = "cluster";
/// What was last known of the other nodes of its cluster.
const PEERS: &str = "peers";
/// Those of them that were lost, by uid.
const LOST: &str = "lost-nodes";
/// The deny list.
const DENIED: &str = "denied";
const NEXT_ID: &str = "next-pod-id";
const HOST: &str = "host";

/// Numbers taken from the store at once: one write to disk for as many pods.
const ID_BATCH: u32 = 64;

/// What the agent changed on the host beside its pods, for `uninstall`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostChanges {
    /// Ports it added to `net.ipv4.ip_local_reserved_ports`.
    pub(super) reserved_ports: String,
    /// Prefixes of its routes that do not belong to a pod's link.
    pub(super) routes: Vec<IpNet>,
    /// Indexes of interfaces whose `accept_ra` it raised from 1 to 2.
    #[serde(default)]
    pub(super) accept_ra: Vec<u32>,
    /// Where the sysctls were changed, see [`place`]; absent in what earlier versions wrote.
    #[serde(default)]
    pub(super) place: Option<String>,
    /// What it wrote for BIRD.
    #[serde(default)]
    pub(super) bird: Option<BirdFiles>,
    /// Whether it mounted bpffs.
    pub(super) mounted_bpffs: bool,
}

impl HostChanges {
    /// What of a record holds at a place. Sysctls go with a reboot or a network namespace, mounts with a reboot: what is
    /// there now is somebody else's, also if it is the same as ours was.
    fn here(recorded: Option<Self>, place: &str) -> Self {
        let mut host = recorded.unwrap_or_default();
        let boot = |place: &str| place.split(' ').next().map(str::to_owned);
        if let Some(recorded) = host.place.as_deref().filter(|recorded| *recorded != place) {
            host.mounted_bpffs &= boot(recorded) == boot(place);
            host.reserved_ports.clear();
            host.accept_ra.clear();
        }
        host.place = Some(place.to_owned());
        host
    }
}

/// This boot and this thread's network namespace, a blank between them.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let netns = Netns::current().map_or(0, |netns| netns.inode());
    format!("{} {netns}", boot.trim())
}

/// The store, with what of it is kept in memory.
pub(super) struct State {
    store: Arc<dyn Store>,
    host: Mutex<HostChanges>,
    ids: Mutex<Ids>,
}

#[derive(Clone, Copy)]
struct Ids {
    next: u32,
    /// First number that the store has not given to this agent.
    end: u32,
}

impl State {
    /// Reads everything; also the pods.
    pub(super) async fn load(store: Arc<dyn Store>) -> Result<(Self, Vec<Pod>), AgentError> {
        let pods = store.read_all(PODS).await?;
        let next = store.read(NEXT_ID).await?.unwrap_or(1);
        let host = HostChanges::here(store.read(HOST).await?, &place());
        Ok((Self { store, host: Mutex::new(host), ids: Mutex::new(Ids { next, end: next }) }, pods))
    }

    /// Whether pods are such as an agent writes: somebody may have edited a backup.
    pub(super) fn check_sound(&self, pods: &[Pod]) -> Result<(), AgentError> {
        let mut all = HashSet::new();
        for pod in pods {
            let own =
                [format!("number {}", pod.id), format!("name {}", pod.name), format!("slot {}", pod.slot)];
            let hosts = pod.interfaces.iter().map(|one| format!("interface {}", one.host));
            let addresses = pod.interfaces.iter().flat_map(|one| &one.addresses).map(ToString::to_string);
            let twice = own.into_iter().chain(hosts).chain(addresses).find(|what| !all.insert(what.clone()));
            let wrong = match twice {
                Some(what) => format!("{what} twice"),
                None if pod.interfaces.is_empty() != pod.unattached.is_some() => "no interface".to_owned(),
                None if pod.id == 0 || pod.slot >= POD_SLOTS => {
                    format!("the number {} and the slot {}", pod.id, pod.slot)
                }
                None => continue,
            };
            return Err(AgentError::unfit(
                format!(
                    "the state ({}) is none that an agent wrote: pod {} has {wrong}",
                    self.describe(),
                    pod.name
                ),
                "put the state's last backup back, or remove all pods with 'netpath uninstall'",
            ));
        }
        Ok(())
    }

    /// Whether every link of a pod that is here has its pod in the state. Without one the state is not what was written last:
    /// an agent that believed it would take live pods apart, and give their addresses to others.
    pub(super) fn check_complete(
        &self,
        instance: &Instance,
        pods: &[Pod],
        links: &[Link],
    ) -> Result<(), AgentError> {
        let known: HashSet<&str> =
            pods.iter().flat_map(|pod| pod.interfaces.iter().map(|one| one.host.as_str())).collect();
        let ours = |link: &&Link| {
            link.kind.as_deref() == Some("veth")
                && link.mac == GATEWAY_MAC.0
                && is_interface_of(instance.name(), &link.name)
        };
        let strangers: Vec<&str> = links
            .iter()
            .filter(ours)
            .map(|link| link.name.as_str())
            .filter(|name| !known.contains(name))
            .collect();
        if strangers.is_empty() {
            return Ok(());
        }
        Err(AgentError::unfit(
            format!(
                "the state ({}) knows nothing of the pods whose links are here: {}",
                self.describe(),
                strangers.join(", ")
            ),
            "they go on working as they are: put the state's last backup back; or remove each with 'ip link delete', or all \
             pods with 'netpath uninstall'",
        ))
    }

    /// Kind and place of the store.
    pub(super) fn describe(&self) -> String {
        self.store.describe()
    }

    /// A number that no pod has had: flows of a removed one may outlive it.
    pub(super) async fn next_id(&self) -> Result<u32, AgentError> {
        let mut ids = self.ids.lock().await;
        if ids.next == ids.end {
            // Four thousand million pods later it starts over, and 0 is nobody.
            let next = ids.next.max(1);
            let end = next.checked_add(ID_BATCH).unwrap_or(0);
            self.store.write(NEXT_ID, &end).await?;
            *ids = Ids { next, end };
        }
        let id = ids.next;
        ids.next = ids.next.wrapping_add(1);
        Ok(id)
    }

    /// Writes down a pod that is about to be made.
    pub(super) async fn create(&self, pod: &Pod) -> Result<(), AgentError> {
        let created = self.store.create(&key(pod), pod).await?;
        if created { Ok(()) } else { Err(AgentError::PodExists(pod.name.to_string())) }
    }

    /// Writes down how far a pod is.
    pub(super) async fn save(&self, pod: &Pod) -> Result<(), AgentError> {
        Ok(self.store.write(&key(pod), pod).await?)
    }

    /// Forgets a pod.
    pub(super) async fn remove(&self, pod: &Pod) -> Result<(), AgentError> {
        Ok(self.store.delete(&key(pod)).await?)
    }

    /// Networks that were added, by name.
    pub(super) async fn networks(&self) -> Result<Vec<Network>, AgentError> {
        Ok(self.store.read_all(NETWORKS).await?)
    }

    /// Writes a network down.
    pub(super) async fn save_network(&self, network: &Network) -> Result<(), AgentError> {
        Ok(self.store.write(&format!("{NETWORKS}{}", network.name), network).await?)
    }

    /// Forgets a network.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), AgentError> {
        Ok(self.store.delete(&format!("{NETWORKS}{name}")).await?)
    }

    /// What was changed of the default network.
    pub(super) async fn default_change(&self) -> Result<NetworkChange, AgentError> {
        Ok(self.store.read(DEFAULT_CHANGE).await?.unwrap_or_default())
    }

    /// Writes down what is changed of the default network.
    pub(super) async fn save_default_change(&self, change: &NetworkChange) -> Result<(), AgentError> {
        Ok(self.store.write(DEFAULT_CHANGE, change).await?)
    }

    /// Who the node is in its cluster, if it is in one.
    pub(super) async fn identity(&self) -> Result<Option<Identity>, AgentError> {
        Ok(self.store.read(IDENTITY).await?)
    }

    /// Writes down who the node is in its cluster.
    pub(super) async fn save_identity(&self, identity: &Identity) -> Result<(), AgentError> {
        Ok(self.store.write(IDENTITY, identity).await?)
    }

    /// Forgets who the node was in its cluster.
    pub(super) async fn forget_identity(&self) -> Result<(), AgentError> {
        Ok(self.store.delete(IDENTITY).await?)
    }

    /// What was last known of the other nodes of its cluster.
    pub(super) async fn peers(&self) -> Result<Peers, AgentError> {
        Ok(self.store.read(PEERS).await?.unwrap_or_default())
    }

    /// Writes down what is known of the other nodes of its cluster.
    pub(super) async fn save_peers(&self, peers: &Peers) -> Result<(), AgentError> {
        Ok(self.store.write(PEERS, peers).await?)
    }

    /// The nodes, by uid, that were lost when the agent ended.
    pub(super) async fn lost_nodes(&self) -> Result<BTreeSet<String>, AgentError> {
        Ok(self.store.read(LOST).await?.unwrap_or_default())
    }

    /// Writes down which nodes are lost.
    pub(super) async fn save_lost_nodes(&self, lost: &BTreeSet<String>) -> Result<(), AgentError> {
        Ok(self.store.write(LOST, lost).await?)
    }

    /// The deny list.
    pub(super) async fn denied(&self) -> Result<DenyList, AgentError> {
        Ok(self.store.read(DENIED).await?.unwrap_or_default())
    }

    /// Writes the deny list down.
    pub(super) async fn save_denied(&self, denied: &DenyList) -> Result<(), AgentError> {
        Ok(self.store.write(DENIED, denied).await?)
    }

    /// What was changed on the host.
    pub(super) async fn host(&self) -> HostChanges {
        self.host.lock().await.clone()
    }

    /// Writes down a change on the host, before it is made.
    pub(super) async fn record(&self, change: impl FnOnce(&mut HostChanges)) -> Result<(), AgentError> {
        let mut host = self.host.lock().await;
        let mut changed = host.clone();
        change(&mut changed);
        if changed != *host {
            self.store.write(HOST, &changed).await?;
            *host = changed;
        }
        Ok(())
    }
}

fn key(pod: &Pod) -> String {
    format!("{PODS}{}", pod.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn numbers_are_never_given_twice() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut last = 0;
        for _ in 0..3 {
            let (state, _) = State::load(Arc::clone(&store)).await.unwrap();
            for _ in 0..100 {
                let id = state.next_id().await.unwrap();
                assert!(id > last);
                last = id;
            }
        }
    }

    #[tokio::test]
    async fn numbers_start_over_without_zero() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        store.write(NEXT_ID, &(u32::MAX - 10)).await.unwrap();
        let (state, _) = State::load(store).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(state.next_id().await.unwrap());
        }
        assert_eq!((ids[10], ids[11]), (u32::MAX, 1));
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_written_down_is_not_remembered() {
        let store = Arc::new(MemoryStore::default());
        let (state, _) = State::load(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        state.record(|host| host.mounted_bpffs = true).await.unwrap();
        store.refuse("");
        assert!(state.record(|host| host.reserved_ports = "1".into()).await.is_err());
        assert!(state.next_id().await.is_err());
        let expected = HostChanges { mounted_bpffs: true, ..HostChanges::here(None, &place()) };
        assert_eq!(state.host().await, expected);
        let (later, _) = State::load(store).await.unwrap();
        assert_eq!(later.host().await, expected);
    }

    #[test]
    fn sysctls_of_another_boot_are_not_ours_any_more() {
        let ours = HostChanges {
            reserved_ports: "1-2".into(),
            accept_ra: vec![7],
            mounted_bpffs: true,
            place: Some("boot1 1".into()),
            ..HostChanges::default()
        };
        assert_eq!(HostChanges::here(Some(ours.clone()), "boot1 1"), ours);
        for (place, mounted_bpffs) in [("boot1 2", true), ("boot2 1", false)] {
            let later = HostChanges::here(Some(ours.clone()), place);
            let expected = HostChanges { mounted_bpffs, place: Some(place.into()), ..HostChanges::default() };
            assert_eq!(later, expected);
        }
        let earlier = HostChanges { place: None, ..ours.clone() };
        assert_eq!(HostChanges::here(Some(earlier), "boot1 1"), ours, "written before places were");
    }
}
