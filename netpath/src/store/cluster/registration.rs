//! What a node writes down of itself.

use std::sync::atomic::Ordering;

use ipnet::IpNet;

use super::{ADDRESSES, ALIVE, Check, Cluster, ClusterError, RACES, THE_NAME, Transaction};
use crate::{
    model::{Alive, Holder, Node},
    store::{encode, etcd::Write},
};

impl Cluster {
    /// Writes down a node with its addresses and blocks, in one transaction, and that it is alive as long as the lease is.
    ///
    /// # Errors
    /// [`ClusterError::Taken`] by block, name or address: nothing has changed then but that it is alive, if the name is its
    /// own; [`ClusterError::Twin`]; or the store's.
    pub async fn register(&self, node: &Node, blocks: &[IpNet], lease: i64) -> Result<(), ClusterError> {
        let holder = &node.holder;
        let (key, alive) = (self.node_key(&holder.node), self.key(&format!("{ALIVE}{}", holder.node)));
        let sign = Alive { holder: holder.clone(), run: self.run.clone() };
        for round in 0..RACES {
            let found = self.etcd.find(&key).await?;
            let other: Option<Alive> = self.store().read(&alive).await?;
            // The same sign counts once, however often somebody else is first.
            if round == 0 && self.is_twin(&other.filter(|other| other.holder == *holder)) {
                return Err(ClusterError::Twin(holder.node.clone()));
            }
            let earlier: Option<Node> = self.decoded(&key, found.as_deref())?;
            let mut change = Transaction::default();
            change.put(key.clone(), found.clone(), node)?;
            let refused = self.put_own(&mut change, node, blocks, earlier.as_ref()).await?;
            if refused.is_some() {
                if earlier.is_none_or(|earlier| earlier.holder.uid != holder.uid) {
                    return refused.map_or(Ok(()), Err);
                }
                change = Transaction::default();
                change.checks.extend(found.map(|found| Check::Is(key.clone(), found)));
            } else {
                let lost = earlier.into_iter().flat_map(|earlier| earlier.addresses);
                for address in lost.filter(|address| !node.addresses.contains(address)) {
                    let key = self.key(&format!("{ADDRESSES}{address}"));
                    let found = self.etcd.find(&key).await?;
                    let theirs: Option<Holder> = self.decoded(&key, found.as_deref())?;
                    change.delete_if(key, found, theirs.is_some_and(|theirs| theirs.uid == holder.uid));
                }
            }
            change.writes.push(Write::Put(alive.clone(), encode(&alive, &sign)?, Some(lease)));
            let is_new = |block: &&IpNet| change.is_new(&self.block_key(**block));
            let new: Vec<_> = blocks.iter().filter(is_new).copied().collect();
            if self.etcd.commit(change.checks, change.writes).await? {
                self.signed.store(true, Ordering::Relaxed);
                self.check_new(holder, &new).await?;
                return refused.map_or(Ok(()), Err);
            }
        }
        Err(ClusterError::Races("registering the node"))
    }

    /// Whether another process signs for a node beside this one. An agent's earlier process has signed before this one; etcd that was restored from a backup
    /// shows that once more. Who signs again after this one has is there.
    fn is_twin(&self, found: &Option<Alive>) -> bool {
        let is_strange = found.as_ref().is_some_and(|found| found.run != self.run);
        match (self.signed.load(Ordering::Relaxed), is_strange) {
            (true, true) => self.strange.fetch_add(1, Ordering::Relaxed) > 0,
            (true, false) if found.is_none() => {
                self.strange.store(0, Ordering::Relaxed);
                false
            }
            _ => false,
        }
    }

    /// Adds a node's blocks and addresses to a change. Returns what another has, blocks first.
    async fn put_own(
        &self,
        change: &mut Transaction,
        node: &Node,
        blocks: &[IpNet],
        earlier: Option<&Node>,
    ) -> Result<Option<ClusterError>, ClusterError> {
        let (mut refused, mut held) = (Vec::new(), true);
        for block in blocks {
            let mut theirs = self.put_if(change, self.block_key(*block), &node.holder).await?;
            if theirs.is_none() {
                theirs = self.within(*block, &node.holder).await?;
            }
            held &= theirs.as_ref().is_some_and(|theirs| theirs.uid == node.holder.uid);
            refused.push((format!("the block {block}"), theirs));
        }
        refused.push((THE_NAME.to_owned(), earlier.map(|earlier| earlier.holder.clone())));
        for address in &node.addresses {
            let key = self.key(&format!("{ADDRESSES}{address}"));
            refused.push((format!("the address {address}"), self.put_if(change, key, &node.holder).await?));
        }
        let other = |(what, theirs): (String, Option<Holder>)| {
            let holder = theirs.filter(|theirs| theirs.uid != node.holder.uid)?;
            Some(ClusterError::Taken { what, held, holder })
        };
        Ok(refused.into_iter().find_map(other))
    }

    /// Adds that a node has something to a change. Returns who has it now.
    async fn put_if(
        &self,
        change: &mut Transaction,
        key: String,
        holder: &Holder,
    ) -> Result<Option<Holder>, ClusterError> {
        let found = self.etcd.find(&key).await?;
        let theirs = self.decoded(&key, found.as_deref())?;
        change.put(key, found, holder)?;
        Ok(theirs)
    }
}
