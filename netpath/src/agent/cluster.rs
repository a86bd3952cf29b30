//! The node as a member of a cluster: its block, its records, and what it sees of others. Nothing here is waited for by pods.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Agent, AgentError, blocking, lock, state::State};
use crate::{
    api::types::{ClusterNode, NodeSet},
    config::Config,
    model::{Holder, Node, order_blocks},
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
    /// Whether it takes no new pods.
    #[serde(default)]
    drained: bool,
}

/// A node's place in its cluster.
pub(super) struct Membership {
    cluster: Cluster,
    holder: Holder,
    identity: Mutex<Identity>,
    view: Mutex<View>,
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
            let new = Identity { cluster: wanted.name, node, uid, blocks: Vec::new(), drained: false };
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
    Ok((
        config,
        Some(Membership { cluster, holder, identity: Mutex::new(identity), view, told, holds, left }),
    ))
}

impl Agent {
    fn membership(&self) -> Result<&Membership, AgentError> {
        self.membership.as_ref().ok_or(AgentError::NoCluster)
    }

    /// Whether pods can have addresses of the node's block.
    pub(super) fn check_member(&self) -> Result<(), AgentError> {
        match &self.membership {
            Some(member) if member.left.load(Ordering::Relaxed) => Err(AgentError::LeftCluster),
            Some(member) if !member.holds.load(Ordering::Relaxed) => Err(AgentError::BlockLost),
            Some(member) if lock(&member.identity).drained => Err(AgentError::Drained),
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
        if member.left.load(Ordering::Relaxed) {
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
        let Identity { blocks, drained, .. } = lock(&member.identity).clone();
        let now = (Node { holder: member.holder.clone(), addresses, drained }, lease);
        if told.as_ref() != Some(&now) {
            *told = None;
            member.cluster.register(&now.0, &blocks, lease).await?;
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
                Ok(changes) => changes.into_iter().for_each(|change| lock(&member.view).apply(change)),
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
        let view = lock(&member.view);
        let row = |(node, blocks, alive): (&Node, Vec<IpNet>, bool)| ClusterNode {
            name: node.holder.node.clone(),
            addresses: node.addresses.clone(),
            blocks,
            state: match (alive, node.drained) {
                (false, _) => "away",
                (true, true) => "drained",
                (true, false) => "ready",
            }
            .to_owned(),
            own: node.holder.uid == member.holder.uid,
        };
        Ok(view.nodes().map(row).collect())
    }

    /// Has this node take no new pods, or take some again; those that it has stay. The cluster is told at once if it can be.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`], [`AgentError::OtherNode`], or the state's; nothing has changed then.
    pub async fn node_set(&self, name: &str, request: &NodeSet) -> Result<(), AgentError> {
        let member = self.membership()?;
        if name != member.holder.node {
            return Err(AgentError::OtherNode(name.to_owned()));
        }
        // Whoever adds a pod now is waited for.
        let change = self.changes.write().await;
        let identity = Identity { drained: request.drained, ..lock(&member.identity).clone() };
        self.state.save_identity(&identity).await?;
        *lock(&member.identity) = identity;
        drop(change);
        self.beat(member).await;
        Ok(())
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
        self.state.forget_identity().await
    }
}
