//! The node as a member of a cluster: its block, its records, and what it sees of others. Nothing here is waited for by pods.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Agent, AgentError, blocking, lock, state::State};
use crate::{
    api::types::ClusterNode,
    config::Config,
    model::{Holder, Node, Peers, order_blocks},
    store::{
        EtcdStore,
        cluster::{Cluster, ClusterError, LEASE, View},
    },
};

/// Time between signs of life: two may be lost.
const BEAT: Duration = Duration::from_secs(LEASE.as_secs() / 3);
/// Before a watch that no endpoint answered is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Where Linux makes unique identifiers.
const UUID: &str = "/proc/sys/kernel/random/uuid";

/// Who the node is in its cluster, as its own state keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Name of the cluster.
    cluster: String,
    /// Name of the node there.
    node: String,
    uid: String,
    /// Its blocks, none until they are claimed.
    blocks: Vec<IpNet>,
}

/// A node's place in its cluster.
pub(super) struct Membership {
    pub(super) cluster: Cluster,
    pub(super) holder: Holder,
    blocks: Vec<IpNet>,
    pub(super) view: Mutex<View>,
    /// The view has changed.
    pub(super) changed: Notify,
    /// The others, as last known.
    pub(super) peers: Mutex<Arc<Peers>>,
    /// Those, by uid, that neither etcd nor this node hears of.
    pub(super) lost: Mutex<BTreeSet<String>>,
    /// What was last written down, and by which lease. Held by who writes.
    told: tokio::sync::Mutex<Option<(Node, i64)>>,
    /// Whether addresses of the blocks may be given to pods: not any more when others have them.
    holds: AtomicBool,
    left: AtomicBool,
}

/// Makes the configured node one of its cluster: with blocks of its own in place of a configured one. Asks etcd only for a
/// node that has none yet.
pub(super) async fn join(
    mut config: Config,
    state: &State,
) -> Result<(Config, Option<Membership>), AgentError> {
    let Some(wanted) = config.cluster.clone() else { return Ok((config, None)) };
    let access = wanted.etcd.clone();
    let etcd = blocking(move || EtcdStore::new(&access)).await?;
    let cluster = Cluster::new(etcd, &wanted.name);
    let mut identity = match state.identity().await? {
        Some(known) if known.cluster == wanted.name && known.node == config.node => known,
        Some(other) if !other.blocks.is_empty() => {
            return Err(AgentError::unfit(
                format!(
                    "this node is '{}' in the cluster '{}', and not '{}' in '{}'",
                    other.node, other.cluster, config.node, wanted.name
                ),
                "give it back its name, or take it out with 'netpath node leave' before it gets another",
            ));
        }
        _ => {
            let uid = std::fs::read_to_string(UUID).map_err(AgentError::io(format!("reading {UUID}")))?;
            let (node, uid) = (config.node.clone(), uid.trim().to_owned());
            let new = Identity { cluster: wanted.name, node, uid, blocks: Vec::new() };
            // Before anything is claimed by it.
            state.save_identity(&new).await?;
            new
        }
    };
    let holder = Holder { node: config.node.clone(), uid: identity.uid.clone() };
    if identity.blocks.is_empty() {
        cluster.check_name(&holder).await?;
        let pools = cluster.pools(&wanted.pools).await?;
        let blocks = cluster.claim(&holder, &pools).await?;
        identity.blocks =
            order_blocks(blocks).map_err(|wrong| AgentError::unfit(wrong.reason, wrong.instead))?;
        state.save_identity(&identity).await?;
        tracing::info!(blocks = ?identity.blocks, "blocks claimed");
    }
    config.network.blocks.clone_from(&identity.blocks);
    let view = Mutex::new(cluster.watch().1);
    let (holds, left) = (AtomicBool::new(true), AtomicBool::new(false));
    let told = tokio::sync::Mutex::default();
    let peers = Mutex::new(Arc::new(state.peers().await?));
    let (changed, lost, blocks) = (Notify::new(), Mutex::default(), identity.blocks);
    let member = Membership { cluster, holder, blocks, view, changed, peers, lost, told, holds, left };
    Ok((config, Some(member)))
}

impl Membership {
    /// Whether the node has left the cluster.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

impl Agent {
    fn membership(&self) -> Result<&Membership, AgentError> {
        self.membership.as_ref().ok_or(AgentError::NoCluster)
    }

    /// Whether pods can have addresses of the node's block.
    pub(super) fn check_member(&self) -> Result<(), AgentError> {
        match &self.membership {
            Some(member) if member.has_left() => Err(AgentError::LeftCluster),
            Some(member) if !member.holds.load(Ordering::Relaxed) => Err(AgentError::BlockLost),
            _ => Ok(()),
        }
    }

    /// Tells the cluster that the node is alive, until the agent ends.
    pub(super) async fn beat_loop(self: Arc<Self>) {
        let Some(member) = &self.membership else { return };
        let mut ending = self.ending.subscribe();
        loop {
            let beat = async {
                self.beat(member).await;
                tokio::time::sleep(BEAT).await;
            };
            tokio::select! {
                () = beat => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    }

    async fn beat(&self, member: &Membership) {
        let mut told = member.told.lock().await;
        if member.has_left() {
            return;
        }
        let outcome = self.tell_cluster(member, &mut told).await;
        let lost = matches!(&outcome, Err(ClusterError::Taken { block: Some(_), .. }));
        // Etcd that does not answer says nothing of it.
        if outcome.is_ok() || lost {
            member.holds.store(!lost, Ordering::Relaxed);
        }
        self.note("cluster", &outcome);
    }

    async fn tell_cluster(
        &self,
        member: &Membership,
        told: &mut Option<(Node, i64)>,
    ) -> Result<(), ClusterError> {
        let lease = member.cluster.lease(told.as_ref().map(|(_, lease)| *lease)).await?;
        let uplinks = lock(&self.node).seen.uplinks.clone();
        let addresses = uplinks.into_iter().flat_map(|uplink| uplink.addresses).collect();
        let now = (Node { holder: member.holder.clone(), addresses }, lease);
        if told.as_ref() != Some(&now) {
            *told = None;
            member.cluster.register(&now.0, &member.blocks, lease).await?;
            *told = Some(now);
        }
        Ok(())
    }

    /// Keeps up with what others write, until the agent ends.
    pub(super) async fn watch_loop(self: Arc<Self>) {
        let Some(member) = &self.membership else { return };
        let mut ending = self.ending.subscribe();
        let mut watch = member.cluster.watch().0;
        loop {
            let changes = tokio::select! {
                changes = watch.next() => changes,
                _ = ending.wait_for(|ending| *ending) => return,
            };
            self.note("watch of the cluster", &changes.as_ref().map(drop));
            match changes {
                Ok(changes) => {
                    let mut view = lock(&member.view);
                    changes.into_iter().for_each(|change| view.apply(change));
                    member.changed.notify_one();
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The nodes of the cluster, by name, as last heard of.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`].
    pub fn nodes(&self) -> Result<Vec<ClusterNode>, AgentError> {
        let member = self.membership()?;
        let seen = lock(&self.node).seen.clone();
        let direct: BTreeSet<IpNet> = self.ways(&seen).direct.into_iter().map(|way| way.block).collect();
        let view = lock(&member.view);
        let row = |(node, blocks, alive): (&Node, Vec<IpNet>, bool)| ClusterNode {
            name: node.holder.node.clone(),
            addresses: node.addresses.clone(),
            backend: blocks.iter().any(|block| direct.contains(block)).then(|| "direct".to_owned()),
            blocks,
            state: if alive { "ready" } else { "away" }.to_owned(),
            own: node.holder.uid == member.holder.uid,
        };
        Ok(view.nodes().map(row).collect())
    }

    /// Takes a node out of the cluster: this one, which must have no pods, or one that is away.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`], [`AgentError::HasPods`], or why the records stay; nothing has changed then.
    pub async fn node_leave(&self, name: &str) -> Result<(), AgentError> {
        let member = self.membership()?;
        if name != member.holder.node {
            return Ok(member.cluster.leave(name, None).await?);
        }
        // Nobody adds a pod meanwhile.
        let _change = self.changes.write().await;
        match lock(&self.registry).pods().count() {
            0 => {}
            pods => return Err(AgentError::HasPods(pods)),
        }
        let mut told = member.told.lock().await;
        member.cluster.leave(name, Some(&member.holder)).await?;
        *told = None;
        member.left.store(true, Ordering::Relaxed);
        self.set_peers(member, Peers::default()).await?;
        self.state.forget_identity().await
    }
}
