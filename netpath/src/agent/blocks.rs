//! The blocks of a cluster's networks that this node holds: one more when a network has no address left here, given back when
//! nobody has an address of it for a while.
//!
//! Single addresses of other nodes' blocks are not borrowed: their holder gives them to pods without asking etcd.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::time::timeout;

use super::{Agent, AgentError, cluster::Membership, lock, networks::Usage};
use crate::{
    model::{DEFAULT_NETWORK, Family, Network, Pool},
    store::cluster::ClusterError,
};

/// How long a pod waits for etcd, and for others that claim blocks.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a block is kept that nobody has an address of.
const IDLE: Duration = Duration::from_secs(600);
/// Blocks of one node: etcd takes 128 operations in one transaction, and a registration has one for each.
const MAX_BLOCKS: usize = 96;

/// What giving back is called among the problems.
pub(super) const GIVING: &str = "blocks to give back";

/// Held by who claims blocks or gives them back: since when which are unused.
pub(super) type Claims = tokio::sync::Mutex<BTreeMap<IpNet, Instant>>;

impl Agent {
    /// Claims blocks of networks of the cluster that have no address left on this node. Returns whether there are some now.
    pub(super) async fn claim_room(&self, networks: &[String]) -> Result<bool, AgentError> {
        let Some(member) = &self.membership else { return Ok(false) };
        let first = networks.first().cloned().unwrap_or_default();
        // One at a time: who waited may find what the one before has claimed. Without etcd nobody waits for all before him.
        let mut claims =
            timeout(PATIENCE, member.claims.lock()).await.map_err(|_| AgentError::NoBlock(first))?;
        let before = claims.len();
        let outcome = self.claim_all(member, networks, &mut claims).await;
        let claimed = claims.len() != before;
        drop(claims);
        if claimed {
            self.ensure_node().await;
            // The record has its blocks, and who advertises them is told.
            member.changed.notify_one();
        }
        outcome.map(|()| claimed)
    }

    async fn claim_all(
        &self,
        member: &Membership,
        networks: &[String],
        claims: &mut BTreeMap<IpNet, Instant>,
    ) -> Result<(), AgentError> {
        for name in networks {
            for family in self.lacking(name)? {
                claims.insert(self.claim_block(member, name, family).await?, Instant::now());
            }
        }
        Ok(())
    }

    /// The families of a network that has pools of them, and no address left.
    fn lacking(&self, name: &str) -> Result<Vec<Family>, AgentError> {
        let registry = lock(&self.registry);
        let (network, usage) = (registry.network(name)?, registry.usage(name));
        let left =
            |family: Family| usage.iter().any(|one| Family::of(one.block.addr()) == family && one.free > 0);
        let pooled = network.pools.iter().map(|pool| Family::of(pool.prefix.addr()));
        Ok(pooled.filter(|family| !left(*family)).collect())
    }

    async fn claim_block(
        &self,
        member: &Membership,
        name: &str,
        family: Family,
    ) -> Result<IpNet, AgentError> {
        let held = self.held_blocks();
        if held.len() >= MAX_BLOCKS {
            return Err(AgentError::TooManyBlocks(held.len()));
        }
        let network = lock(&self.registry).network(name)?;
        let pool = network.pools.iter().find(|pool| Family::of(pool.prefix.addr()) == family);
        let pool = pool.ok_or_else(|| AgentError::NoBlock(name.to_owned()))?;
        // Who waits longer keeps others from changing the node. What etcd has done all the same is found by the next claim.
        let claim = timeout(PATIENCE, member.cluster.claim_more(&member.holder, (name, pool), &held)).await;
        let block = claim.map_err(|_| AgentError::NoBlock(name.to_owned()))??;
        let _one = self.network_changes.lock().await;
        self.change_blocks(member, name, |blocks| blocks.push(block)).await?;
        tracing::info!(network = name, %block, "block claimed");
        Ok(block)
    }

    /// Writes down other blocks of a network, then uses them. The caller holds `network_changes`.
    async fn change_blocks(
        &self,
        member: &Membership,
        name: &str,
        change: impl FnOnce(&mut Vec<IpNet>),
    ) -> Result<(), AgentError> {
        let mut network = lock(&self.registry).network(name)?;
        change(&mut network.blocks);
        network.blocks.sort();
        self.save_blocks(member, &network).await?;
        lock(&self.registry).update_network(network);
        Ok(())
    }

    async fn save_blocks(&self, member: &Membership, network: &Network) -> Result<(), AgentError> {
        if network.name != DEFAULT_NETWORK {
            return self.state.save_network(network).await;
        }
        self.change_identity(member, |identity| identity.blocks.clone_from(&network.blocks)).await?;
        let mut config = lock(&self.config);
        let mut changed = (**config).clone();
        changed.network.blocks.clone_from(&network.blocks);
        *config = changed.into();
        Ok(())
    }

    /// Takes over what the blocks are of: earlier versions have not written it down.
    pub(super) async fn learn_pools(&self, member: &Membership, pools: &[Pool]) {
        if lock(&member.identity).pools == pools {
            return;
        }
        let _one = self.network_changes.lock().await;
        let saved = self.change_identity(member, |identity| identity.pools = pools.to_vec()).await;
        self.note("state of the cluster", &saved);
        let own = lock(&self.registry).network(DEFAULT_NETWORK);
        own.into_iter().for_each(|own| {
            lock(&self.registry).update_network(Network { pools: pools.to_vec(), ..own });
        });
        let mut config = lock(&self.config);
        let mut changed = (**config).clone();
        changed.network.pools = pools.to_vec();
        *config = changed.into();
    }

    /// All blocks of the cluster that the node holds.
    pub(super) fn held_blocks(&self) -> BTreeSet<IpNet> {
        let shared = |network: &Network| network.name == DEFAULT_NETWORK || !network.pools.is_empty();
        let networks = self.all_networks().into_iter().filter(shared);
        networks.flat_map(|network| network.blocks).collect()
    }

    /// Gives back what nobody has had an address of for a while, at once where the network ends; and what the cluster has
    /// written down of this node that it does not know of, from a claim or a removal in whose middle it died.
    pub(super) async fn give_back(&self, member: &Membership) -> Result<(), AgentError> {
        // Somebody claims: another time.
        let Ok(mut claims) = member.claims.try_lock() else { return Ok(()) };
        if member.has_left() {
            return Ok(());
        }
        let mut given = false;
        for network in self.all_networks().into_iter().filter(|network| !network.pools.is_empty()) {
            let usage = lock(&self.registry).usage(&network.name);
            for block in spare(&network, &usage, &mut claims, Instant::now()) {
                let _one = self.network_changes.lock().await;
                // Nobody may have taken an address meanwhile: out of the registry first.
                if !lock(&self.registry).remove_block(&network.name, block) {
                    continue;
                }
                let saved = self.change_blocks(member, &network.name, |_| ()).await;
                if saved.is_err() {
                    let mut back = lock(&self.registry).network(&network.name)?;
                    back.blocks.push(block);
                    back.blocks.sort();
                    lock(&self.registry).update_network(back);
                    return saved;
                }
                tracing::info!(network = network.name, %block, "block given back: nobody has an address of it");
                given = true;
            }
        }
        let held = self.held_blocks();
        if given {
            self.ensure_node().await;
        }
        let unknown: Vec<_> =
            lock(&member.view).held(&member.holder).filter(|block| !held.contains(block)).collect();
        for block in unknown {
            member.cluster.give_back(&member.holder, block).await.map_err(ClusterError::from)?;
        }
        Ok(())
    }
}

/// Which blocks of a network are to be given back. Of the network that every node has one of each family stays, and as much
/// room in others as half a block.
fn spare(
    network: &Network,
    usage: &[Usage],
    unused_since: &mut BTreeMap<IpNet, Instant>,
    now: Instant,
) -> Vec<IpNet> {
    let mut spare: Vec<IpNet> = Vec::new();
    for one in usage {
        if !one.unused {
            unused_since.remove(&one.block);
            continue;
        }
        let since = *unused_since.entry(one.block).or_insert(now);
        let family = Family::of(one.block.addr());
        let others = usage.iter().filter(|other| {
            other.block != one.block
                && Family::of(other.block.addr()) == family
                && !spare.contains(&other.block)
        });
        let room: u128 = others.map(|other| other.free).sum();
        let idle = now.duration_since(since) >= IDLE;
        let needed = network.name == DEFAULT_NETWORK && room < one.free / 2;
        if network.ending || idle && !needed {
            spare.push(one.block);
        }
    }
    spare
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Inbound, Pool};

    fn network(name: &str) -> Network {
        Network {
            name: name.into(),
            number: 1,
            blocks: Vec::new(),
            pools: vec![Pool::new("10.64.0.0/16".parse().unwrap(), 28).unwrap()],
            backend: None,
            ending: false,
            masquerade: true,
            no_masquerade: Vec::new(),
            inbound: Inbound::Cluster,
            mtu: None,
        }
    }

    fn usage(block: &str, taken: u128) -> Usage {
        Usage { block: block.parse().unwrap(), unused: taken == 0, free: 14 - taken }
    }

    #[test]
    fn blocks_that_nobody_uses_are_given_back_after_a_while() {
        let (one, two, six) = ("10.64.0.16/28", "10.64.0.32/28", "fd00:64::10/124");
        let (start, mut since) = (Instant::now(), BTreeMap::new());
        let mut after = |name: &str, all: &[Usage], seconds| {
            let found = spare(&network(name), all, &mut since, start + Duration::from_secs(seconds));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let half = [usage(one, 5), usage(two, 0), usage(six, 0)];
        assert!(after(DEFAULT_NETWORK, &half, 0).is_empty(), "just claimed");
        assert!(after(DEFAULT_NETWORK, &half, 599).is_empty());
        assert_eq!(after(DEFAULT_NETWORK, &half, 600), [two], "the only one of IPv6 stays");
        let full = [usage(one, 13), usage(two, 0), usage(six, 0)];
        assert!(after(DEFAULT_NETWORK, &full, 700).is_empty(), "the next pods need it");
        assert_eq!(after("back", &full, 700), [two, six]);
        let used = [usage(one, 5), usage(two, 1), usage(six, 3)];
        assert!(after(DEFAULT_NETWORK, &used, 800).is_empty());
        assert!(after(DEFAULT_NETWORK, &half, 900).is_empty(), "used in between");
        let none = [usage(one, 0), usage(two, 0)];
        assert!(after(DEFAULT_NETWORK, &none, 1000).is_empty());
        assert_eq!(after(DEFAULT_NETWORK, &none, 1600), [one], "one is enough");
    }

    #[test]
    fn a_network_that_ends_keeps_none_that_is_unused() {
        let ending = Network { ending: true, ..network("back") };
        let all = [usage("10.64.0.16/28", 0), usage("10.64.0.32/28", 1)];
        let found = spare(&ending, &all, &mut BTreeMap::new(), Instant::now());
        assert_eq!(found, ["10.64.0.16/28".parse::<IpNet>().unwrap()]);
    }
}
