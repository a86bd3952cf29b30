//! The node as a member of a cluster: its block, its records, and what it sees of others. Nothing here is waited for by pods.

mod heard;
mod join;

use heard::Heard;
pub(super) use join::{Identity, join};

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Agent, AgentError, bgp,
    blocks::{Claims, GIVING},
    lock,
    pods::finish,
};
use crate::{
    api::types::NodeSet,
    config::ClusterConfig,
    model::{Holder, Node, Peers},
    store::cluster::{Cluster, ClusterError, LEASE, View},
};

/// Time between signs of life: one may go round all endpoints in vain and be tried again before the lease ends.
const BEAT: Duration = Duration::from_secs(LEASE.as_secs() / 6);
/// How long the first one is waited for before pods can be added.
const FIRST: Duration = Duration::from_secs(3);
/// Between two looks whether something is there.
const BRIEF: Duration = Duration::from_millis(10);
/// Before a watch or a sign of life that no endpoint answered is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a node has last told its cluster.
#[derive(Default)]
struct Told {
    /// What it is alive by.
    lease: Option<i64>,
    /// The record, if it is registered by that lease.
    node: Option<Node>,
}

/// A node's place in its cluster.
pub(super) struct Membership {
    pub(super) cluster: Cluster,
    pub(super) holder: Holder,
    pub(super) identity: Mutex<Identity>,
    pub(super) view: Mutex<View>,
    /// The view has changed.
    pub(super) changed: Notify,
    /// The others, as last known.
    pub(super) peers: Mutex<Arc<Peers>>,
    /// Those, by uid, that neither etcd nor this node hears of.
    pub(super) lost: Mutex<BTreeSet<String>>,
    /// Whether they are not written down.
    pub(super) lost_unsaved: AtomicBool,
    /// Held by who writes.
    told: tokio::sync::Mutex<Told>,
    /// Held by who claims blocks or gives them back.
    pub(super) claims: Claims,
    /// Held by who writes the identity down.
    saving: tokio::sync::Mutex<()>,
    /// Whether it has claimed its blocks just now.
    fresh: bool,
    /// When the cluster last heard of the node, and in which run of the kernel that is.
    heard: Mutex<Option<Heard>>,
    boot: String,
    left: AtomicBool,
}

impl Membership {
    fn new(
        cluster: Cluster,
        (holder, boot): (Holder, String),
        identity: Identity,
        (peers, lost): (Peers, BTreeSet<String>),
        fresh: bool,
    ) -> Self {
        Self {
            heard: Mutex::new(identity.heard.clone()),
            boot,
            view: Mutex::new(cluster.watch().1),
            cluster,
            holder,
            identity: Mutex::new(identity),
            changed: Notify::new(),
            peers: Mutex::new(Arc::new(peers)),
            lost: Mutex::new(lost),
            lost_unsaved: AtomicBool::new(false),
            told: tokio::sync::Mutex::default(),
            claims: Claims::default(),
            saving: tokio::sync::Mutex::default(),
            fresh,
            left: AtomicBool::new(false),
        }
    }

    /// The nodes, by uid, that etcd does not hear of, and those lost ones that it has no more: until they are forgotten they get
    /// no routes. Until etcd has told of this node itself: those that were lost.
    pub(super) fn away(&self) -> BTreeSet<String> {
        let view = lock(&self.view);
        let mut away = lock(&self.lost).clone();
        if view.has(&self.holder) {
            let (there, others) = view.uids();
            away.retain(|uid| !there.contains(uid.as_str()));
            away.extend(others.into_iter().map(str::to_owned));
        }
        away
    }

    /// Whether the node has left the cluster.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

impl Agent {
    pub(super) fn membership(&self) -> Result<&Membership, AgentError> {
        self.membership.as_ref().ok_or(AgentError::NoCluster)
    }

    /// Whether new pods can have addresses of the node's blocks.
    pub(super) fn check_member(&self) -> Result<(), AgentError> {
        self.check_blocks()?;
        match &self.membership {
            Some(member) if !member.is_heard() => Err(AgentError::Unheard),
            _ => Ok(()),
        }
    }

    /// Whether others are to send to the node's blocks: also while etcd does not answer.
    pub(super) fn check_blocks(&self) -> Result<(), AgentError> {
        match &self.membership {
            Some(member) if member.has_left() => Err(AgentError::LeftCluster),
            Some(member) if lock(&member.identity).lost => Err(AgentError::BlockLost),
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
                let next = Instant::now() + BEAT;
                match self.beat(member).await {
                    Ok(()) => {
                        self.note(GIVING, &self.give_back(member).await);
                        // What did not fit may fit now.
                        self.follow_networks(member).await;
                        tokio::time::sleep_until(next).await;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            };
            tokio::select! {
                () = beat => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    }

    /// Tells the cluster of the node for the first time, before pods can be added; not for long, as etcd may be down. Ends a
    /// first start whose name or addresses another node has: it has left again then. Answers whether it has told.
    pub(super) async fn first_beat(&self) -> Result<bool, AgentError> {
        let Some(member) = &self.membership else { return Ok(false) };
        match tokio::time::timeout(FIRST, self.beat(member)).await {
            Ok(Err(taken @ ClusterError::Taken { .. })) if member.fresh => {
                member.cluster.leave(&member.holder).await?;
                self.state.forget_identity().await?;
                Err(taken.into())
            }
            told => Ok(matches!(told, Ok(Ok(())))),
        }
    }

    /// Waits until the node, which has told of itself, has read what the cluster says of it; not for long.
    pub(super) async fn first_view(&self) {
        let Some(member) = &self.membership else { return };
        let seen = async {
            while !lock(&member.view).has(&member.holder) {
                tokio::time::sleep(BRIEF).await;
            }
        };
        let _ = tokio::time::timeout(FIRST, seen).await;
    }

    async fn beat(&self, member: &Membership) -> Result<(), ClusterError> {
        let mut told = member.told.lock().await;
        if member.has_left() {
            return Ok(());
        }
        let begun = heard::now();
        let outcome = self.tell_cluster(member, &mut told).await;
        let earlier = lock(&member.heard).as_ref().map(Heard::release_after);
        let told_of = match &outcome {
            Ok(()) => told.node.as_ref().map(|node| node.release_after),
            // Its record stays as it was, and it is alive.
            Err(ClusterError::Taken { held: true, .. }) if lock(&member.view).has(&member.holder) => {
                Some(earlier.unwrap_or_default())
            }
            Err(_) => None,
        };
        if let Some(release_after) = told_of {
            let heard = Heard::new(&member.boot, begun, release_after);
            self.note("state of the cluster", &self.set_heard(member, heard).await);
        }
        // Etcd that does not answer says nothing of it.
        let lost = match &outcome {
            Ok(()) => false,
            Err(ClusterError::Taken { held, .. }) => !held,
            Err(ClusterError::Twin(_)) => true,
            Err(_) => lock(&member.identity).lost,
        };
        if lost != lock(&member.identity).lost {
            // Whoever adds a pod now is waited for.
            let _change = self.changes.write().await;
            self.note("state of the cluster", &self.set_lost(member, lost).await);
        }
        self.note("cluster", &outcome);
        outcome
    }

    /// The caller has the pods' changes to itself.
    async fn set_lost(&self, member: &Membership, lost: bool) -> Result<(), AgentError> {
        lock(&member.identity).lost = lost;
        self.change_identity(member, |identity| identity.lost = lost).await
    }

    /// Writes down what changes of the node's membership, one change after the other; nothing of a node that has left.
    pub(super) async fn change_identity(
        &self,
        member: &Membership,
        change: impl FnOnce(&mut Identity),
    ) -> Result<(), AgentError> {
        let _one = member.saving.lock().await;
        if member.has_left() {
            return Ok(());
        }
        let mut identity = lock(&member.identity).clone();
        change(&mut identity);
        self.state.save_identity(&identity).await?;
        *lock(&member.identity) = identity;
        Ok(())
    }

    async fn tell_cluster(&self, member: &Membership, told: &mut Told) -> Result<(), ClusterError> {
        let lease = member.cluster.lease(told.lease).await?;
        let uplinks = lock(&self.node).seen.uplinks.clone();
        let addresses = uplinks.into_iter().flat_map(|uplink| uplink.addresses).collect();
        let drained = lock(&member.identity).drained;
        let blocks = Vec::from_iter(self.held_blocks());
        let (config, holder) = (self.config(), member.holder.clone());
        let release_after = config.cluster.as_ref().map_or(0, |cluster| cluster.release_after.as_secs());
        let overlay = config.cluster.as_ref().map(ClusterConfig::overlay);
        let now = Node { holder, addresses, drained, release_after, overlay };
        let renewed = told.lease.replace(lease) == Some(lease);
        // Somebody may have removed what was written.
        if renewed
            && told.node.as_ref() == Some(&now)
            && lock(&member.view).shows(&member.holder, &blocks, member.cluster.run())
        {
            return Ok(());
        }
        told.node = None;
        self.shorten(member, release_after).await;
        let pools = config.cluster.as_ref().map_or_else(Vec::new, |cluster| cluster.pools.clone());
        match member.cluster.pools(&pools).await {
            Err(error @ ClusterError::Store(_)) => return Err(error),
            agreed => {
                if let Ok(pools) = &agreed {
                    self.learn_pools(member, pools).await;
                }
                self.note("pools of the cluster", &agreed.map(drop));
            }
        }
        member.cluster.register(&now, &blocks, lease).await?;
        told.node = Some(now);
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

    /// Has this node take no new pods, or take some again; those that it has stay. The cluster is told at once if it can be.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`], [`AgentError::OtherNode`], or the state's; nothing has changed then.
    pub async fn node_set(&self, name: &str, request: &NodeSet) -> Result<(), AgentError> {
        let member = self.membership()?;
        if name != member.holder.node {
            return Err(AgentError::OtherNode(name.to_owned()));
        }
        if member.has_left() {
            return Err(AgentError::LeftCluster);
        }
        // Whoever adds a pod now is waited for.
        let change = self.changes.write().await;
        self.change_identity(member, |identity| identity.drained = request.drained).await?;
        drop(change);
        // What goes wrong is told by the status.
        let _ = self.beat(member).await;
        let _ = self.tell_bird().await;
        Ok(())
    }

    /// Takes a node out of the cluster: this one, which must have no pods, or one that is away.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`], [`AgentError::HasPods`], why the records stay: nothing has changed then; or the store's, and then no pods are added until etcd
    /// answers again.
    pub async fn node_leave(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let member = self.membership()?;
        if name != member.holder.node {
            return Ok(member.cluster.take_out(name, None).await?);
        }
        let agent = Arc::clone(self);
        // On a task of its own: a client that hangs up in the middle must not leave half a member.
        finish(tokio::spawn(async move { agent.leave_cluster().await })).await
    }

    async fn leave_cluster(self: &Arc<Self>) -> Result<(), AgentError> {
        let member = self.membership()?;
        let mut told = member.told.lock().await;
        let change = self.changes.write().await;
        match lock(&self.registry).pods().count() {
            0 => {}
            pods => return Err(AgentError::HasPods(pods)),
        }
        // Nobody adds a pod from now on, until a registration tells that it has not left: the answer may be lost.
        told.node = None;
        self.set_lost(member, true).await?;
        drop(change);
        // Nobody is to be told of a block that is somebody else's in a moment.
        bgp::unless_absent(self.tell_bird().await)?;
        member.cluster.leave(&member.holder).await?;
        member.left.store(true, Ordering::Relaxed);
        self.set_peers(member, Peers::default()).await?;
        {
            // Whoever was writing it down has done so.
            let _one = member.saving.lock().await;
            self.state.forget_identity().await?;
        }
        self.forget_shared().await
    }
}
