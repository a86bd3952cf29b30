//! Networks that all nodes of a cluster have: written in the cluster's records, followed by every node.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Agent, AgentError, cluster::Membership, lock, node::problem_of};
use crate::{
    model::{DEFAULT_NETWORK, Network, NetworkChange, SharedNetworks, overlap},
    store::cluster::ClusterError,
};

/// How long other nodes have to give back their blocks of a network that is to be removed.
const GOING: Duration = Duration::from_secs(10);
/// Time between looks at those.
const LOOK: Duration = Duration::from_millis(200);
/// How long a change is waited for to come back by the watch: until then what the node follows is older.
const SEEN: Duration = Duration::from_secs(10);
/// Networks of a cluster: all are in one record, and etcd takes 1.5 MiB.
const MAX_NETWORKS: usize = 256;

impl Agent {
    /// Adds a network for all nodes; on this one pods can join it when this returns. The caller holds `network_changes`.
    pub(super) async fn share(
        self: &Arc<Self>,
        member: &Membership,
        network: Network,
    ) -> Result<(), AgentError> {
        self.check_new(&network)?;
        self.check_strangers(&network)?;
        let shared = network.clone().shared();
        let change = |networks: &mut SharedNetworks| {
            check_apart(networks, &shared)?;
            networks.added.push(shared.clone());
            networks.added.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(())
        };
        write(member, change).await?;
        self.adopt(&network).await
    }

    /// Whether no pool holds a node, or etcd: all nodes would lose their way there, and to the record that says so.
    fn check_strangers(&self, network: &Network) -> Result<(), AgentError> {
        let config = self.config();
        let endpoints = config.cluster.iter().flat_map(|cluster| cluster.etcd.hosts());
        let peers = self.peers();
        let nodes = peers.nodes.iter().flat_map(|peer| peer.addresses.iter().copied());
        for address in endpoints.chain(nodes) {
            if let Some(pool) = network.pools.iter().find(|pool| pool.prefix.contains(&address)) {
                let reason = format!("{} holds {address}, an address of a node or of etcd", pool.prefix);
                return Err(AgentError::SubnetTaken { network: network.name.clone(), reason });
            }
        }
        Ok(())
    }

    /// Changes a network for all nodes. The caller holds `network_changes`.
    pub(super) async fn change_shared(
        self: &Arc<Self>,
        member: &Membership,
        name: &str,
        wanted: &NetworkChange,
    ) -> Result<(), AgentError> {
        let earlier = self.state.default_change().await?;
        let change = |networks: &mut SharedNetworks| {
            if name == DEFAULT_NETWORK {
                // What was changed on this node before the cluster had a say.
                if networks.default == NetworkChange::default() {
                    networks.default = earlier.clone();
                }
                networks.default = networks.default.clone().then(wanted.clone());
                return Ok(());
            }
            let one = networks.added.iter_mut().find(|one| one.name == name);
            let one = one.ok_or_else(|| AgentError::NoNetwork(name.to_owned()))?;
            *one = wanted.apply(one.clone());
            Ok(())
        };
        let now = write(member, change).await?;
        match now.added.iter().find(|one| one.name == name) {
            Some(network) => self.adopt(network).await,
            None => self.adopt_default(&now.default).await,
        }
    }

    /// Removes a network from all nodes, unless one has pods of it: each gives its blocks back first.
    pub(super) async fn unshare(
        self: &Arc<Self>,
        member: &Membership,
        network: &Network,
    ) -> Result<(), AgentError> {
        let name = network.name.as_str();
        self.set_ending(member, name, true).await?;
        let deadline = Instant::now() + GOING;
        loop {
            // This node's own; others hear of it.
            self.give_back(member).await?;
            let before = member.cluster.shared_networks().await?;
            let holders = holders(member, network).await?;
            if holders.is_empty() {
                let _one = self.network_changes.lock().await;
                let now = write(member, |networks| remove(networks, &before, name)).await?;
                if !now.added.iter().any(|one| one.name == name) {
                    return self.drop_shared(name).await;
                }
            } else if Instant::now() >= deadline {
                self.set_ending(member, name, false).await?;
                return Err(AgentError::NetworkHeld { network: name.to_owned(), nodes: holders });
            }
            sleep(LOOK).await;
        }
    }

    async fn set_ending(
        self: &Arc<Self>,
        member: &Membership,
        name: &str,
        ending: bool,
    ) -> Result<(), AgentError> {
        let mark = |networks: &mut SharedNetworks| {
            let one = networks.added.iter_mut().find(|one| one.name == name);
            one.map(|one| one.ending = ending).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))
        };
        let _one = self.network_changes.lock().await;
        let now = write(member, mark).await?;
        match now.added.iter().find(|one| one.name == name) {
            Some(network) => self.adopt(network).await,
            None => Ok(()),
        }
    }

    /// Makes this node's networks those of the cluster. What does not fit here is told by the status, and tried again when
    /// something changes.
    pub(super) async fn follow_networks(self: &Arc<Self>, member: &Membership) {
        let _one = self.network_changes.lock().await;
        let networks = {
            let view = lock(&member.view);
            // Another etcd, or one that was emptied, says nothing of this cluster's networks.
            if view.peers(&member.holder).is_none() {
                return;
            }
            let Some(networks) = view.networks() else { return };
            networks.clone()
        };
        if member.has_left() {
            return;
        }
        if networks.default != NetworkChange::default() {
            let outcome = self.adopt_default(&networks.default).await;
            self.note(&problem_of(DEFAULT_NETWORK), &outcome);
        }
        let gone = |one: &Network| {
            one.name != DEFAULT_NETWORK
                && !one.pools.is_empty()
                && !networks.added.iter().any(|there| there.name == one.name && there.pools == one.pools)
        };
        for old in self.all_networks().into_iter().filter(gone) {
            let dropped = self.drop_shared(&old.name).await;
            if dropped.is_err() {
                // Pods that it has stay, and it gets no more.
                let ending = Network { ending: true, ..old.clone() };
                lock(&self.registry).update_network(ending);
            }
            self.note(&shared_problem(&old.name), &dropped);
        }
        for network in &networks.added {
            self.note(&shared_problem(&network.name), &self.adopt(network).await);
        }
        let is_there = |name: &str| networks.added.iter().any(|one| one.name == name);
        let here = |name: &str| lock(&self.registry).network(name).is_ok();
        lock(&self.problems).forget(|object| {
            let name = object.strip_prefix(PROBLEM);
            name.is_some_and(|name| !is_there(name) && !here(name))
        });
    }

    /// Takes a network of the cluster over: a new one, or what has changed of it.
    async fn adopt(self: &Arc<Self>, shared: &Network) -> Result<(), AgentError> {
        let there = lock(&self.registry).network(&shared.name).ok();
        let network = match &there {
            None => {
                self.check_new(shared)?;
                let number = lock(&self.registry).free_network_number();
                Network { number, blocks: Vec::new(), ..shared.clone() }
            }
            Some(own) if own.pools != shared.pools => {
                return Err(AgentError::NetworkExists(shared.name.clone()));
            }
            Some(own) => Network { number: own.number, blocks: own.blocks.clone(), ..shared.clone() },
        };
        if there.as_ref() == Some(&network) {
            return Ok(());
        }
        self.check_routes_of(&network)?;
        self.state.save_network(&network).await?;
        match there {
            Some(_) => lock(&self.registry).update_network(network),
            None => lock(&self.registry).insert_network(network),
        }
        self.refresh(&shared.name).await;
        tracing::info!(network = shared.name, "network of the cluster taken over");
        Ok(())
    }

    async fn adopt_default(self: &Arc<Self>, change: &NetworkChange) -> Result<(), AgentError> {
        let own = lock(&self.registry).network(DEFAULT_NETWORK)?;
        let configured = self.config().network.clone();
        let network = change.apply(Network { blocks: own.blocks.clone(), ..configured });
        if network == own {
            return Ok(());
        }
        self.check_routes_of(&network)?;
        self.state.save_default_change(change).await?;
        lock(&self.registry).update_network(network);
        self.refresh(DEFAULT_NETWORK).await;
        Ok(())
    }

    /// Forgets a network that the cluster has no more, once it has no pods here.
    async fn drop_shared(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let Ok(network) = lock(&self.registry).remove_network(name) else {
            return match lock(&self.registry).pods_in(name) {
                0 => Ok(()),
                pods => Err(AgentError::NetworkInUse { network: name.to_owned(), pods }),
            };
        };
        if let Err(error) = self.state.remove_network(name).await {
            lock(&self.registry).insert_network(network);
            return Err(error);
        }
        self.note(&problem_of(name), &Ok::<(), String>(()));
        self.ensure_node().await;
        Ok(())
    }

    /// Forgets all networks of a cluster that the node has left.
    pub(super) async fn forget_shared(self: &Arc<Self>) -> Result<(), AgentError> {
        let shared = |one: &Network| one.name != DEFAULT_NETWORK && !one.pools.is_empty();
        for network in self.all_networks().into_iter().filter(shared) {
            self.drop_shared(&network.name).await?;
        }
        Ok(())
    }
}

const PROBLEM: &str = "network of the cluster ";

fn shared_problem(name: &str) -> String {
    format!("{PROBLEM}{name}")
}

/// Takes a network out that ends, if nothing has changed since nobody was seen to hold blocks of it: somebody else who wanted to
/// remove it may have given up meanwhile, and a node may have claimed one.
fn remove(networks: &mut SharedNetworks, before: &SharedNetworks, name: &str) -> Result<(), AgentError> {
    let ends = networks.added.iter().any(|one| one.name == name && one.ending);
    if !ends {
        return Err(AgentError::NoNetwork(name.to_owned()));
    }
    if networks == before {
        networks.added.retain(|one| one.name != name);
    }
    Ok(())
}

/// Changes the cluster's networks, and waits until this node sees it: it would follow what was before.
async fn write(
    member: &Membership,
    change: impl Fn(&mut SharedNetworks) -> Result<(), AgentError>,
) -> Result<SharedNetworks, AgentError> {
    let counted = |networks: &mut SharedNetworks| {
        change(networks)?;
        networks.revision += 1;
        Ok::<_, AgentError>(())
    };
    let now = member.cluster.change_networks(counted).await?;
    let deadline = Instant::now() + SEEN;
    while lock(&member.view).networks() != Some(&now) && Instant::now() < deadline {
        sleep(LOOK / 10).await;
    }
    Ok(now)
}

/// Names of the nodes that hold blocks of a network.
async fn holders(member: &Membership, network: &Network) -> Result<Vec<String>, AgentError> {
    let mut nodes = Vec::new();
    for pool in &network.pools {
        let held = member.cluster.holders(pool).await.map_err(ClusterError::from)?;
        nodes.extend(held.into_iter().map(|(_, holder)| holder.node));
    }
    nodes.sort();
    nodes.dedup();
    Ok(nodes)
}

/// Whether a new network has a name and addresses of its own.
fn check_apart(networks: &SharedNetworks, new: &Network) -> Result<(), AgentError> {
    if networks.added.iter().any(|one| one.name == new.name) {
        return Err(AgentError::NetworkExists(new.name.clone()));
    }
    let invalid = |reason| AgentError::InvalidNetwork { network: new.name.clone(), reason };
    if networks.added.len() >= MAX_NETWORKS {
        return Err(invalid(format!("the cluster has {MAX_NETWORKS} networks, as many as it can")));
    }
    for (own, other) in new.pools.iter().flat_map(|own| networks.added.iter().map(move |one| (own, one))) {
        if let Some(theirs) = other.pools.iter().find(|theirs| overlap(theirs.prefix, own.prefix)) {
            let reason = format!("{} overlaps {} of the network '{}'", own.prefix, theirs.prefix, other.name);
            return Err(AgentError::SubnetTaken { network: new.name.clone(), reason });
        }
    }
    Ok(())
}
