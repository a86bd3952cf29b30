//! Adding, changing and removing networks.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Agent, AgentError, lock, node::problem_of, pods::finish, registry::Entry};
use crate::{
    api::types::{self, NetworkAdd, NetworkSet},
    model::{
        BLOCK_LENGTHS, Backend, DEFAULT_NETWORK, Family, Inbound, MIN_MTU_V6, Network, NetworkChange,
        NetworkName, Pool, PrefixError, Unattached, check_block, check_prefix, order_blocks, overlap,
    },
};

/// What networks of one node do not have.
const OWN_BACKEND: &str =
    "only networks that all nodes of a cluster have, have blocks of their subnets and a backend";
/// Least MTU of a network: IPv4's (RFC 791).
const MIN_MTU: u32 = 576;
/// Largest MTU: what a record holds.
const MAX_MTU: u32 = 65_535;

impl Agent {
    /// Adds a network. Pods can join it when this returns.
    ///
    /// # Errors
    /// What is wrong with it, or whose addresses its subnets hold; nothing has changed then.
    pub async fn network_add(self: &Arc<Self>, request: &NetworkAdd) -> Result<types::Network, AgentError> {
        let change = self.begin_change().await?;
        let (network, shared) = check(request, self.membership.is_some())?;
        let agent = Arc::clone(self);
        finish(tokio::spawn(async move {
            let _change = change;
            let one = agent.network_changes.lock().await;
            if let Some(member) = agent.membership.as_ref().filter(|_| shared) {
                if member.has_left() {
                    return Err(AgentError::LeftCluster);
                }
                agent.share(member, network.clone()).await?;
                return agent.describe_network(&network.name);
            }
            let network = agent.insert(network)?;
            if let Err(error) = agent.state.save_network(&network).await {
                // Without pods: what they would need for themselves is refused by the same store.
                let _ = lock(&agent.registry).remove_network(&network.name);
                return Err(error);
            }
            drop(one);
            agent.refresh(&network.name).await;
            tracing::info!(network = network.name, "network added");
            agent.describe_network(&network.name)
        }))
        .await
    }

    /// Changes a network at run time; what its pods send next follows it, flows that are translated stay so.
    ///
    /// # Errors
    /// What is wrong with the change, or [`AgentError::NoNetwork`]; nothing has changed then.
    pub async fn network_set(
        self: &Arc<Self>,
        name: &str,
        request: &NetworkSet,
    ) -> Result<types::Network, AgentError> {
        let change = self.begin_change().await?;
        let wanted = checked_change(name, request)?;
        let (agent, name) = (Arc::clone(self), name.to_owned());
        finish(tokio::spawn(async move {
            let _change = change;
            let one = agent.network_changes.lock().await;
            let network = wanted.apply(lock(&agent.registry).network(&name)?);
            check_mtu(&network)?;
            agent.check_routes_of(&network)?;
            if let Some(member) = agent.membership.as_ref().filter(|_| is_shared(&network)) {
                agent.change_shared(member, &name, &wanted).await?;
                return agent.describe_network(&name);
            }
            if wanted.backend.is_some() {
                return Err(invalid(&name, OWN_BACKEND.to_owned()));
            }
            if name == DEFAULT_NETWORK {
                let earlier = agent.state.default_change().await?;
                agent.state.save_default_change(&earlier.then(wanted)).await?;
            } else {
                agent.state.save_network(&network).await?;
            }
            lock(&agent.registry).update_network(network);
            drop(one);
            agent.refresh(&name).await;
            tracing::info!(network = name, "network changed");
            agent.describe_network(&name)
        }))
        .await
    }

    /// Removes a network that has no pods.
    ///
    /// # Errors
    /// [`AgentError::NoNetwork`], [`AgentError::NetworkInUse`], [`AgentError::NetworkStays`], or the store's.
    pub async fn network_rm(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let change = self.begin_change().await?;
        let (agent, name) = (Arc::clone(self), name.to_owned());
        finish(tokio::spawn(async move {
            let _change = change;
            let network = lock(&agent.registry).network(&name)?;
            if let Some(member) = agent.membership.as_ref().filter(|_| is_shared(&network)) {
                lock(&agent.registry).check_removable(&name)?;
                return agent.unshare(member, &network).await;
            }
            let _one = agent.network_changes.lock().await;
            // From now on no pod can join it.
            let network = lock(&agent.registry).remove_network(&name)?;
            if let Err(error) = agent.state.remove_network(&name).await {
                lock(&agent.registry).insert_network(network);
                return Err(error);
            }
            agent.note(&problem_of(&name), &Ok::<(), String>(()));
            agent.ensure_node().await;
            tracing::info!(network = name, "network removed");
            Ok(())
        }))
        .await
    }

    /// Gives a new network its number and makes it known.
    fn insert(&self, network: Network) -> Result<Network, AgentError> {
        self.check_new(&network)?;
        let mut registry = lock(&self.registry);
        let network = Network { number: registry.free_network_number(), ..network };
        registry.insert_network(network.clone());
        Ok(network)
    }

    /// Whether a new network has a name and addresses of its own here. The caller holds `network_changes`.
    pub(super) fn check_new(&self, network: &Network) -> Result<(), AgentError> {
        let subnets = network.subnets();
        let conflict =
            subnets.iter().find_map(|block| Some((block, lock(&self.node).seen.conflict(*block)?)));
        if let Some((block, conflict)) = conflict {
            let reason = format!("{block} holds {conflict}");
            return Err(AgentError::SubnetTaken { network: network.name.clone(), reason });
        }
        let pools = self.peers().pools.clone();
        let held =
            |block: &IpNet| pools.iter().find(|pool| overlap(**pool, *block) && !subnets.contains(pool));
        if let Some((block, pool)) = subnets.iter().find_map(|block| Some((block, held(block)?))) {
            let reason = format!("{block} overlaps {pool}, a pool of the cluster");
            return Err(AgentError::SubnetTaken { network: network.name.clone(), reason });
        }
        self.check_routes_of(network)?;
        lock(&self.registry).check_network(network)
    }

    /// Whether the programs' table has room for all routes, those of a new or changed network among them.
    pub(super) fn check_routes_of(&self, network: &Network) -> Result<(), AgentError> {
        let mut networks = self.all_networks();
        networks.retain(|other| other.name != network.name);
        networks.push(network.clone());
        self.check_room(&networks).map_err(|reason| invalid(&network.name, reason))
    }

    /// Makes the kernel follow a network that has changed, at once. What fails is noted, and every full pass tries again; a
    /// pod that does not answer is not waited for.
    pub(super) async fn refresh(self: &Arc<Self>, name: &str) {
        self.ensure_node().await;
        let joined = |entry: &&Entry| entry.pod.interfaces.iter().any(|one| one.network == name);
        let entries: Vec<Entry> = lock(&self.registry).pods().filter(joined).cloned().collect();
        self.ensure_changed(entries).await;
    }

    fn describe_network(&self, name: &str) -> Result<types::Network, AgentError> {
        let all = self.networks().into_iter();
        all.into_iter().find(|one| one.name == name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))
    }
}

/// Whether all nodes of a cluster have a network.
fn is_shared(network: &Network) -> bool {
    network.name == DEFAULT_NETWORK || !network.pools.is_empty()
}

/// The network that a request asks for, as far as the request alone tells, and whether it is for all nodes of the cluster; its
/// number comes later.
fn check(request: &NetworkAdd, clustered: bool) -> Result<(Network, bool), AgentError> {
    let name: NetworkName = request.name.parse()?;
    let name = String::from(name);
    if let Ok(Some(_)) = Unattached::parse(&name) {
        return Err(invalid(&name, "the name stands for pods in no network; choose another".to_owned()));
    }
    let subnet = |wrong: PrefixError| invalid(&name, format!("subnet {wrong}"));
    for block in &request.subnets {
        check_prefix(*block).and_then(|()| check_block(*block)).map_err(subnet)?;
    }
    let blocks = order_blocks(request.subnets.clone()).map_err(subnet)?;
    let change = checked_change(
        &name,
        &NetworkSet {
            masquerade: request.masquerade,
            no_masquerade: Some(request.no_masquerade.clone()),
            inbound: request.inbound.clone(),
            mtu: request.mtu,
            backend: request.backend.clone(),
        },
    )?;
    let shared = match request.scope.as_deref() {
        None => clustered,
        Some("node") => false,
        Some("cluster") if clustered => true,
        Some("cluster") => {
            return Err(invalid(&name, "this node is in no cluster; give scope node".to_owned()));
        }
        Some(other) => return Err(invalid(&name, format!("scope is '{other}'; give cluster or node"))),
    };
    let lengths = (request.block_length_v4, request.block_length_v6);
    if !shared && (change.backend.is_some() || lengths != (None, None)) {
        return Err(invalid(&name, OWN_BACKEND.to_owned()));
    }
    let pool = |block: &IpNet| {
        let (given, usual) =
            if block.addr().is_ipv4() { (lengths.0, BLOCK_LENGTHS.0) } else { (lengths.1, BLOCK_LENGTHS.1) };
        Pool::new(*block, given.unwrap_or(usual)).map_err(subnet)
    };
    let pools = if shared { blocks.iter().map(pool).collect::<Result<_, _>>()? } else { Vec::new() };
    let blocks = if shared { Vec::new() } else { blocks };
    let network = change.apply(Network {
        name,
        number: 0,
        blocks,
        pools,
        backend: None,
        ending: false,
        masquerade: true,
        no_masquerade: Vec::new(),
        inbound: Inbound::default(),
        mtu: None,
    });
    check_mtu(&network)?;
    Ok((network, shared))
}

fn checked_change(name: &str, request: &NetworkSet) -> Result<NetworkChange, AgentError> {
    let inbound = request.inbound.as_deref().map(|text| {
        let wrong = || invalid(name, format!("inbound is '{text}'; give cluster or any"));
        Inbound::parse(text).ok_or_else(wrong)
    });
    let backend = request.backend.as_deref().map(|text| {
        let wrong = || invalid(name, format!("backend is '{text}'; give auto, direct or vxlan"));
        Backend::parse(text).ok_or_else(wrong)
    });
    Ok(NetworkChange {
        backend: backend.transpose()?,
        masquerade: request.masquerade,
        no_masquerade: request.no_masquerade.clone().map(|list| prefixes(name, list)).transpose()?,
        inbound: inbound.transpose()?,
        mtu: request.mtu,
    })
}

fn prefixes(name: &str, mut list: Vec<IpNet>) -> Result<Vec<IpNet>, AgentError> {
    for prefix in &list {
        check_prefix(*prefix).map_err(|wrong| invalid(name, format!("no-masquerade {wrong}")))?;
    }
    list.sort();
    list.dedup();
    Ok(list)
}

fn check_mtu(network: &Network) -> Result<(), AgentError> {
    let least = if network.has(Family::V6) { MIN_MTU_V6 } else { MIN_MTU };
    match network.mtu.filter(|mtu| !(least..=MAX_MTU).contains(mtu)) {
        Some(mtu) => Err(invalid(&network.name, format!("MTU {mtu} is not {least} to {MAX_MTU}"))),
        None => Ok(()),
    }
}

fn invalid(network: &str, reason: String) -> AgentError {
    AgentError::InvalidNetwork { network: network.to_owned(), reason }
}
