//! Networks of a cluster, and the blocks of them that nodes hold.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{BLOCKS, Check, Cluster, ClusterError, RACES, Transaction, block_of};
use crate::{
    model::{DEFAULT_NETWORK, Holder, Network, Pool, SharedNetworks, overlap},
    store::{
        StoreError, encode,
        etcd::{Found, Write},
    },
};

/// One record: networks must not overlap, and only a transaction over all of them tells.
pub(super) const NETWORKS: &str = "networks";

impl Cluster {
    /// Changes the cluster's networks, unless `change` refuses, which may be asked several times. Returns what they are now.
    ///
    /// # Errors
    /// What `change` said; or the store's.
    pub async fn change_networks<E: From<ClusterError>>(
        &self,
        change: impl Fn(&mut SharedNetworks) -> Result<(), E>,
    ) -> Result<SharedNetworks, E> {
        let key = self.key(NETWORKS);
        for _ in 0..RACES {
            let (found, mut networks) = self.networks().await.map_err(ClusterError::from)?;
            change(&mut networks)?;
            let mut transaction = Transaction::default();
            transaction.put(key.clone(), found, &networks).map_err(ClusterError::from)?;
            let done = self.etcd.commit(transaction.checks, transaction.writes).await;
            if done.map_err(ClusterError::from)? {
                return Ok(networks);
            }
        }
        Err(ClusterError::Races("changing networks").into())
    }

    /// The cluster's networks, as they are now.
    ///
    /// # Errors
    /// The store's.
    pub async fn shared_networks(&self) -> Result<SharedNetworks, ClusterError> {
        Ok(self.networks().await?.1)
    }

    async fn networks(&self) -> Result<(Option<Found>, SharedNetworks), StoreError> {
        let key = self.key(NETWORKS);
        let found = self.etcd.find(&key).await?;
        let networks = self.decoded(&key, found.as_deref())?.unwrap_or_default();
        Ok((found, networks))
    }

    /// One more block of a network's pool, beside those that the node has: one that it holds and does not know of, or a new
    /// one.
    ///
    /// # Errors
    /// [`ClusterError::Full`], [`ClusterError::NoNetwork`] if the network is not, or is about to be removed, or the store's.
    pub async fn claim_more(
        &self,
        holder: &Holder,
        (network, pool): (&str, &Pool),
        own: &BTreeSet<IpNet>,
    ) -> Result<IpNet, ClusterError> {
        for _ in 0..RACES {
            let (found, networks) = self.networks().await?;
            // A network of the name may be another one by now, with other blocks.
            let is_there = |one: &Network| one.name == network && !one.ending && one.pools.contains(pool);
            let is_ours = match network {
                DEFAULT_NETWORK => self.pools(&[]).await?.contains(pool),
                _ => networks.added.iter().any(is_there),
            };
            if !is_ours {
                return Err(ClusterError::NoNetwork(network.to_owned()));
            }
            let mut taken = own.clone();
            let mut others = Vec::new();
            for (block, theirs) in self.blocks_within(pool).await? {
                match theirs.uid == holder.uid && !own.contains(&block) {
                    _ if !pool.has_block(block) => others.push(block),
                    true => return Ok(block),
                    false => drop(taken.insert(block)),
                }
            }
            let block = loop {
                let block = pool.free(&taken, &holder.uid).ok_or(ClusterError::Full(pool.prefix))?;
                // Of a network that was here before, with other lengths: a node that was away may still have pods of it.
                if !others.iter().any(|other| overlap(*other, block)) {
                    break block;
                }
                taken.insert(block);
            };
            let key = self.block_key(block);
            let checks = vec![
                Check::Absent(key.clone()),
                match found {
                    Some(found) => Check::Is(self.key(NETWORKS), found),
                    None => Check::Absent(self.key(NETWORKS)),
                },
            ];
            let value = encode(&key, holder)?;
            if self.etcd.commit(checks, vec![Write::Put(key, value, None)]).await? {
                match self.check_new(holder, &[block]).await {
                    Err(ClusterError::Taken { .. }) => continue,
                    checked => return checked.map(|()| block),
                }
            }
        }
        Err(ClusterError::Races("claiming a block"))
    }

    /// Who holds blocks of a pool.
    ///
    /// # Errors
    /// The store's.
    pub async fn holders(&self, pool: &Pool) -> Result<Vec<(IpNet, Holder)>, StoreError> {
        let mut held = self.blocks_within(pool).await?;
        held.retain(|(block, _)| pool.has_block(*block));
        Ok(held)
    }

    /// Who holds blocks of whatever length within a pool's prefix.
    async fn blocks_within(&self, pool: &Pool) -> Result<Vec<(IpNet, Holder)>, StoreError> {
        let mut held = Vec::new();
        for (key, bytes) in self.etcd.find_all(&self.key(BLOCKS)).await? {
            if let Some(block) = block_of(&key, &self.root).filter(|block| pool.prefix.contains(block)) {
                held.push((block, self.store().decode(&key, &bytes)?));
            }
        }
        Ok(held)
    }

    /// Looks again for others that hold some of blocks that have just been written down: of two who do so at once at least one meets
    /// the other, and gives back what is new.
    ///
    /// # Errors
    /// [`ClusterError::Taken`], or the store's.
    pub(super) async fn check_new(&self, holder: &Holder, new: &[IpNet]) -> Result<(), ClusterError> {
        for block in new {
            if let Some(theirs) = self.within(*block, holder).await? {
                self.give_back(holder, *block).await?;
                let what = format!("the block {block}");
                return Err(ClusterError::Taken { what, held: false, holder: theirs });
            }
        }
        Ok(())
    }

    /// Another that holds some of a block that nobody holds: of a network with other lengths, which came while the block's node was
    /// away.
    pub(super) async fn within(&self, block: IpNet, holder: &Holder) -> Result<Option<Holder>, StoreError> {
        for (key, bytes) in self.store().list(&self.key(BLOCKS)).await? {
            let theirs: Holder = self.store().decode(&key, &bytes)?;
            if theirs.uid != holder.uid
                && block_of(&key, &self.root).is_some_and(|other| overlap(other, block))
            {
                return Ok(Some(theirs));
            }
        }
        Ok(None)
    }

    /// Gives a block back, if the node holds it.
    ///
    /// # Errors
    /// The store's.
    pub async fn give_back(&self, holder: &Holder, block: IpNet) -> Result<(), StoreError> {
        let key = self.block_key(block);
        let found = self.etcd.find(&key).await?;
        let theirs: Option<Holder> = self.decoded(&key, found.as_deref())?;
        let (Some(found), true) = (found, theirs.is_some_and(|theirs| theirs.uid == holder.uid)) else {
            return Ok(());
        };
        // Only the holder deletes it: if it has changed, it is somebody else's by now.
        self.etcd.commit(vec![Check::Is(key.clone(), found)], vec![Write::Delete(key)]).await.map(drop)
    }
}
