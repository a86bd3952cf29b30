//! What a node sees of its cluster: the records, as a watch tells them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};

use super::{ALIVE, NODES, POOLS, block_of, networks::NETWORKS};
use crate::{
    model::{Alive, Holder, Node, Peer, Peers, Pool, SharedNetworks},
    store::etcd::Change,
};

/// The nodes of a cluster, with their blocks, and who is alive.
#[derive(Clone, Debug, Default)]
pub struct View {
    root: String,
    nodes: BTreeMap<String, Node>,
    blocks: BTreeMap<IpNet, Holder>,
    /// Whose sign of life is there, by name, and of which process.
    alive: BTreeMap<String, String>,
    pools: Vec<Pool>,
    networks: Option<SharedNetworks>,
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
                // Nobody removes these two: who reads them not, or not any more, goes by what they were.
                let (pools, networks) = (std::mem::take(&mut self.pools), self.networks.take());
                *self = Self { pools, networks, ..Self::new(&self.root) };
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
        let Some(name) = key.strip_prefix(&self.root) else { return };
        match name {
            POOLS => keep(&mut self.pools, key, value),
            NETWORKS => keep(&mut self.networks, key, value),
            _ => {}
        }
        let Some((kind, name)) = name.split_once('/') else { return };
        match (format!("{kind}/").as_str(), value) {
            (NODES, value) => set(&mut self.nodes, name.to_owned(), key, value),
            (ALIVE, Some(value)) => {
                // Whatever it says, it is one.
                let sign = serde_json::from_slice::<Record<Alive>>(value);
                let run = sign.map_or_else(|_| String::new(), |sign| sign.value.run);
                self.alive.insert(name.to_owned(), run);
            }
            (ALIVE, None) => drop(self.alive.remove(name)),
            _ => {}
        }
    }

    /// What a node sends to the others by. `None` if the node itself is not there: then this is not, or not yet, the cluster
    /// that it has joined, and what it knew of that holds on.
    pub fn peers(&self, own: &Holder) -> Option<Peers> {
        if !self.has(own) {
            return None;
        }
        let others = self.nodes().filter(|(node, ..)| node.holder != *own);
        let peer = |(node, blocks, _): (&Node, Vec<IpNet>, bool)| Peer {
            holder: node.holder.clone(),
            addresses: node.addresses.clone(),
            blocks,
            overlay: node.overlay,
        };
        let pools = self.pools().map(|pool| pool.prefix).collect();
        Some(Peers {
            pools,
            backends: self.networks.as_ref().map_or_else(Vec::new, |networks| networks.backends(&self.pools)),
            nodes: others.map(peer).collect(),
        })
    }

    /// The cluster's pools, those of its networks included.
    fn pools(&self) -> impl Iterator<Item = &Pool> {
        let added = self.networks.iter().flat_map(|networks| &networks.added);
        self.pools.iter().chain(added.flat_map(|network| &network.pools))
    }

    /// Its networks. `None` if nothing has been read of them: none were ever written, or nothing that this build reads.
    pub fn networks(&self) -> Option<&SharedNetworks> {
        self.networks.as_ref()
    }

    /// The blocks that a node holds.
    pub fn held(&self, holder: &Holder) -> impl Iterator<Item = IpNet> {
        let own = self.blocks.iter().filter(|(_, theirs)| theirs.uid == holder.uid);
        own.map(|(block, _)| *block)
    }

    /// The nodes, by uid, that are heard of, and the others.
    pub fn uids(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let (there, others): (Vec<&Node>, Vec<&Node>) =
            self.nodes.values().partition(|node| self.alive.contains_key(&node.holder.node));
        [there, others].map(|nodes| nodes.into_iter().map(|node| node.holder.uid.as_str()).collect()).into()
    }

    /// Whether a node has its record.
    pub fn has(&self, holder: &Holder) -> bool {
        self.nodes.get(&holder.node).is_some_and(|node| node.holder == *holder)
    }

    /// How long a node may be lost, by what it has told.
    pub fn release_after(&self, name: &str) -> Duration {
        Duration::from_secs(self.nodes.get(name).map_or(0, |node| node.release_after))
    }

    /// Whether a node is there with all its blocks, and alive by this process.
    pub fn shows(&self, holder: &Holder, blocks: &[IpNet], run: &str) -> bool {
        self.has(holder)
            && blocks.iter().all(|block| self.blocks.get(block) == Some(holder))
            && self.alive.get(&holder.node).is_some_and(|theirs| theirs == run)
    }

    /// All nodes by name, each with its blocks and whether it is alive. What is no block of a pool is left out: a route to it
    /// might take what is somebody else's.
    pub fn nodes(&self) -> impl Iterator<Item = (&Node, Vec<IpNet>, bool)> {
        let is_block = |block: &IpNet| self.pools().any(|pool| pool.has_block(*block));
        let mut held: HashMap<&str, Vec<IpNet>> = HashMap::new();
        for (block, holder) in self.blocks.iter().filter(|(block, _)| is_block(block)) {
            held.entry(&holder.uid).or_default().push(*block);
        }
        self.nodes.values().map(move |node| {
            let own = held.remove(node.holder.uid.as_str()).unwrap_or_default();
            (node, own, self.alive.contains_key(&node.holder.node))
        })
    }
}

/// Takes over a record that there is one of, unless it is gone or cannot be read.
fn keep<T: DeserializeOwned>(known: &mut T, key: &str, value: Option<&[u8]>) {
    let mut found = BTreeMap::new();
    set(&mut found, (), key, value);
    found.remove(&()).into_iter().for_each(|now| *known = now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_cannot_be_read_stay_what_they_were() {
        let mut view = View::new("/netpath/default/");
        let key = "/netpath/default/networks".to_owned();
        let record = |value: &str| format!("{{\"version\": 1, \"value\": {value}}}").into_bytes();
        assert!(view.networks().is_none());
        view.apply(Change::Put(key.clone(), record(r#"{"revision": 1, "default": {"mtu": 1400}}"#)));
        let known = view.networks().cloned().unwrap();
        assert_eq!((known.revision, known.default.mtu), (1, Some(1400)));
        let unread = record(r#"{"revision": 2, "added": [{"name": "back", "backend": "later"}]}"#);
        let gone = [
            Change::Put(key.clone(), unread.clone()),
            Change::Deleted(key.clone()),
            Change::All(Vec::new()),
            Change::All(vec![(key.clone(), unread)]),
        ];
        for change in gone {
            view.apply(change.clone());
            assert_eq!(view.networks(), Some(&known), "{change:?}");
        }
        view.apply(Change::All(vec![(key, record(r#"{"revision": 3}"#))]));
        assert_eq!(view.networks().unwrap().default.mtu, None);
    }

    #[test]
    fn what_is_no_block_of_a_pool_is_not_seen() {
        let mut view = View::new("/netpath/default/");
        let mut put = |key: &str, value: &str| {
            let record = format!("{{\"version\": 1, \"value\": {value}}}");
            view.apply(Change::Put(format!("/netpath/default/{key}"), record.into_bytes()));
        };
        for block in
            ["0.0.0.0-0", "10.64.0.0-16", "10.64.3.65-26", "10.64.3.64-26", "10.65.0.0-26", "10.64.4.0-25"]
        {
            put(&format!("blocks/{block}"), r#"{"node": "one", "uid": "1"}"#);
        }
        put("nodes/one", r#"{"node": "one", "uid": "1", "addresses": []}"#);
        put("pools", r#"[{"prefix": "10.64.0.0/16", "block_length": 26}]"#);
        let blocks: Vec<_> = view.nodes().flat_map(|(_, blocks, _)| blocks).collect();
        assert_eq!(blocks, ["10.64.3.64/26".parse::<IpNet>().unwrap()]);
    }
}
