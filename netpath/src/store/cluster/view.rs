//! What a node sees of its cluster: the records, as a watch tells them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};

use super::{ALIVE, NODES, block_of};
use crate::{
    model::{Holder, Node},
    store::etcd::Change,
};

/// The nodes of a cluster, with their blocks, and who is alive.
#[derive(Clone, Debug, Default)]
pub struct View {
    root: String,
    nodes: BTreeMap<String, Node>,
    blocks: BTreeMap<IpNet, Holder>,
    alive: BTreeSet<String>,
}

/// Any record, of whatever version: what cannot be read is not seen.
#[derive(Deserialize)]
struct Record<T> {
    value: T,
}

impl View {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    /// Takes over what has changed.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::All(all) => {
                *self = Self::new(&self.root);
                all.into_iter().for_each(|(key, value)| self.set(&key, Some(&value)));
            }
            Change::Put(key, value) => self.set(&key, Some(&value)),
            Change::Deleted(key) => self.set(&key, None),
        }
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(block) = block_of(key, &self.root) {
            set(&mut self.blocks, block, key, value);
            return;
        }
        let Some((kind, name)) = key.strip_prefix(&self.root).and_then(|key| key.split_once('/')) else {
            return;
        };
        match (format!("{kind}/").as_str(), value) {
            (NODES, value) => set(&mut self.nodes, name.to_owned(), key, value),
            (ALIVE, Some(_)) => drop(self.alive.insert(name.to_owned())),
            (ALIVE, None) => drop(self.alive.remove(name)),
            _ => {}
        }
    }

    /// Whether a node is there with all its blocks, and alive.
    pub fn shows(&self, holder: &Holder, blocks: &[IpNet]) -> bool {
        self.nodes.get(&holder.node).is_some_and(|node| node.holder == *holder)
            && blocks.iter().all(|block| self.blocks.get(block) == Some(holder))
            && self.alive.contains(&holder.node)
    }

    /// All nodes by name, each with its blocks and whether it is alive.
    pub fn nodes(&self) -> impl Iterator<Item = (&Node, Vec<IpNet>, bool)> {
        self.nodes.values().map(|node| {
            let own = self.blocks.iter().filter(|(_, holder)| holder.uid == node.holder.uid);
            (node, own.map(|(block, _)| *block).collect(), self.alive.contains(&node.holder.node))
        })
    }
}

fn set<K: Ord, T: DeserializeOwned>(all: &mut BTreeMap<K, T>, at: K, key: &str, value: Option<&[u8]>) {
    match value.map(serde_json::from_slice::<Record<T>>) {
        Some(Ok(record)) => drop(all.insert(at, record.value)),
        Some(Err(error)) => {
            tracing::warn!(key, %error, "a record of the cluster that cannot be read is left out");
            all.remove(&at);
        }
        None => drop(all.remove(&at)),
    }
}
