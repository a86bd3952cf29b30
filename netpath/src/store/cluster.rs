//! The records of a cluster in its etcd: docs/CLUSTER.md has the table of keys.

mod networks;
mod registration;
mod view;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicBool, AtomicU32},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};

pub use self::view::View;
use super::{
    Store, StoreError, encode,
    etcd::{Check, EtcdStore, Found, Watch, Write},
};
use crate::model::{Holder, Node, Pool};

const POOLS: &str = "pools";
const BLOCKS: &str = "blocks/";
const NODES: &str = "nodes/";
const ADDRESSES: &str = "addresses/";
const ALIVE: &str = "alive/";

/// How long a node counts as alive that nothing is heard of.
pub const LEASE: Duration = Duration::from_secs(30);
/// What a node is called, in words.
const THE_NAME: &str = "the name";
/// How often others may come in between before a change is given up.
const RACES: usize = 100;

/// Why a record of a cluster cannot be as wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else has it.
    #[error("another node of the cluster has {what}: '{}', uid {}", .holder.node, .holder.uid)]
    Taken {
        /// Which name, address or block, in words.
        what: String,
        /// Whether all of the node's blocks are its own all the same.
        held: bool,
        /// Who has it.
        holder: Holder,
    },
    /// Another process is this node as well, with its uid.
    #[error(
        "another machine is node '{0}' as well, with the same uid: it runs with a copy of this one's state"
    )]
    Twin(String),
    /// The pools of the cluster are others than this node is to use.
    #[error("the pools of the cluster are {there}, and not {here}")]
    OtherPools {
        /// Those of the cluster, in words.
        there: String,
        /// Those of the configuration.
        here: String,
    },
    /// The first node of a cluster has none.
    #[error("the cluster has no pools yet, and none are configured")]
    NoPools,
    /// All blocks are held.
    #[error("all blocks of the pool {0} are held")]
    Full(IpNet),
    /// No such network, or not any more.
    #[error("the cluster has no network '{0}', or is about to remove it")]
    NoNetwork(String),
    /// No such node.
    #[error("node '{0}' is not in the cluster")]
    NoNode(String),
    /// A node that is there takes itself out.
    #[error("node '{0}' is alive")]
    Alive(String),
    /// Others were faster, every time.
    #[error("{0}: others changed the same records all the time")]
    Races(&'static str),
}

/// A cluster.
pub struct Cluster {
    etcd: EtcdStore,
    root: String,
    /// What this process signs with.
    run: String,
    /// Whether it has signed.
    signed: AtomicBool,
    /// How often another process has signed for the same node since.
    strange: AtomicU32,
}

impl Cluster {
    /// The cluster of a name in an etcd.
    pub fn new(etcd: EtcdStore, name: &str) -> Self {
        // Every hasher has keys of its own, which are random.
        let run = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let (signed, strange) = (AtomicBool::new(false), AtomicU32::new(0));
        Self { etcd, root: format!("/netpath/{name}/"), run, signed, strange }
    }

    /// What this process signs its signs of life with.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Agrees on pools: what the first node has said, which all others say as well or leave out.
    ///
    /// # Errors
    /// [`ClusterError::OtherPools`], [`ClusterError::NoPools`], or the store's.
    pub async fn pools(&self, here: &[Pool]) -> Result<Vec<Pool>, ClusterError> {
        let key = self.key(POOLS);
        if !here.is_empty() && self.store().create(&key, &here).await? {
            return Ok(here.to_vec());
        }
        let there: Vec<Pool> = self.store().read(&key).await?.ok_or(ClusterError::NoPools)?;
        if here.is_empty() || here == there {
            return Ok(there);
        }
        Err(ClusterError::OtherPools { there: in_words(&there), here: in_words(here) })
    }

    /// A block of each pool, which nobody else has: those that the node holds already, and new ones.
    ///
    /// # Errors
    /// [`ClusterError::Full`], or the store's.
    pub async fn claim(&self, holder: &Holder, pools: &[Pool]) -> Result<Vec<IpNet>, ClusterError> {
        let mut blocks = Vec::new();
        for pool in pools {
            blocks.push(self.claim_in(holder, pool).await?);
        }
        Ok(blocks)
    }

    async fn claim_in(&self, holder: &Holder, pool: &Pool) -> Result<IpNet, ClusterError> {
        for _ in 0..RACES {
            let mut taken = BTreeSet::new();
            for (block, theirs) in self.holders(pool).await? {
                if theirs.uid == holder.uid {
                    return Ok(block);
                }
                taken.insert(block);
            }
            let block = pool.free(&taken, &holder.uid).ok_or(ClusterError::Full(pool.prefix))?;
            if self.store().create(&self.block_key(block), holder).await? {
                return Ok(block);
            }
        }
        Err(ClusterError::Races("claiming a block"))
    }

    /// Whether nobody else has a node's name.
    ///
    /// # Errors
    /// [`ClusterError::Taken`], or the store's.
    pub async fn check_name(&self, holder: &Holder) -> Result<(), ClusterError> {
        match self.store().read::<Node>(&self.node_key(&holder.node)).await? {
            Some(Node { holder: theirs, .. }) if theirs.uid != holder.uid => {
                Err(ClusterError::Taken { what: THE_NAME.to_owned(), held: false, holder: theirs })
            }
            _ => Ok(()),
        }
    }

    /// Takes this node with all its records out, in one transaction.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn leave(&self, own: &Holder) -> Result<(), ClusterError> {
        self.remove(&own.node, true, |theirs| theirs.uid == own.uid).await
    }

    /// The same for whoever has a name, and this uid if one is named, and is not alive, registered or not.
    ///
    /// # Errors
    /// [`ClusterError::NoNode`], [`ClusterError::Alive`], or the store's; nothing has changed then.
    pub async fn take_out(&self, name: &str, uid: Option<&str>) -> Result<(), ClusterError> {
        let leaves = |theirs: &Holder| theirs.node == name && uid.is_none_or(|uid| theirs.uid == uid);
        self.remove(name, false, leaves).await
    }

    async fn remove(
        &self,
        name: &str,
        own: bool,
        leaves: impl Fn(&Holder) -> bool,
    ) -> Result<(), ClusterError> {
        let (key, alive) = (self.node_key(name), self.key(&format!("{ALIVE}{name}")));
        for _ in 0..RACES {
            let mut change = Transaction::default();
            let found = self.etcd.find(&key).await?;
            let node: Option<Node> = self.decoded(&key, found.as_deref())?;
            change.delete_if(key.clone(), found, node.is_some_and(|node| leaves(&node.holder)));
            for prefix in [BLOCKS, ADDRESSES] {
                for (key, bytes) in self.etcd.find_all(&self.key(prefix)).await? {
                    let theirs: Holder = self.store().decode(&key, &bytes)?;
                    change.delete_if(key, Some(bytes), leaves(&theirs));
                }
            }
            let sign = self.etcd.find(&alive).await?;
            match sign {
                sign if own => {
                    let theirs: Option<Holder> = self.decoded(&alive, sign.as_deref())?;
                    change.delete_if(alive.clone(), sign, theirs.is_some_and(|theirs| leaves(&theirs)));
                }
                Some(_) => return Err(ClusterError::Alive(name.to_owned())),
                None if change.writes.is_empty() => return Err(ClusterError::NoNode(name.to_owned())),
                None => change.checks.push(Check::Absent(alive.clone())),
            }
            if self.etcd.commit(change.checks, change.writes).await? {
                return Ok(());
            }
        }
        Err(ClusterError::Races("taking a node out"))
    }

    /// A lease to be alive by: the one given if it can be kept, else a new one.
    ///
    /// # Errors
    /// The store's.
    pub async fn lease(&self, lease: Option<i64>) -> Result<i64, StoreError> {
        match lease {
            Some(lease) if self.etcd.keep_alive(lease).await? => Ok(lease),
            _ => self.etcd.grant(LEASE).await,
        }
    }

    /// Watches all records, for a [`View`].
    pub fn watch(&self) -> (Watch, View) {
        (self.etcd.watch(&self.root), View::new(&self.root))
    }

    fn store(&self) -> &(dyn Store + 'static) {
        &self.etcd
    }

    fn decoded<T: DeserializeOwned>(&self, key: &str, bytes: Option<&[u8]>) -> Result<Option<T>, StoreError> {
        bytes.map(|bytes| self.store().decode(key, bytes)).transpose()
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    fn node_key(&self, name: &str) -> String {
        self.key(&format!("{NODES}{name}"))
    }

    fn block_key(&self, block: IpNet) -> String {
        self.key(&block_name(block))
    }
}

/// Checks and writes of one commit.
#[derive(Default)]
struct Transaction {
    checks: Vec<Check>,
    writes: Vec<Write>,
}

impl Transaction {
    /// Puts a record if it is what was found.
    fn put(&mut self, key: String, found: Option<Found>, record: &impl Serialize) -> Result<(), StoreError> {
        let value = encode(&key, record)?;
        self.checks.push(match found {
            Some(found) => Check::Is(key.clone(), found),
            None => Check::Absent(key.clone()),
        });
        self.writes.push(Write::Put(key, value, None));
        Ok(())
    }

    /// Whether a record was not there.
    fn is_new(&self, key: &str) -> bool {
        self.checks.iter().any(|check| matches!(check, Check::Absent(absent) if absent == key))
    }

    /// Deletes a record that is there, if it is to go.
    fn delete_if(&mut self, key: String, found: Option<Found>, goes: bool) {
        if let (Some(found), true) = (found, goes) {
            self.checks.push(Check::Is(key.clone(), found));
            self.writes.push(Write::Delete(key));
        }
    }
}

fn in_words(pools: &[Pool]) -> String {
    let one = |pool: &Pool| format!("{} with blocks of /{}", pool.prefix, pool.block_length);
    pools.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Keys have no slash but between their parts.
fn block_name(block: IpNet) -> String {
    format!("{BLOCKS}{}-{}", block.network(), block.prefix_len())
}

fn block_of(key: &str, root: &str) -> Option<IpNet> {
    let (address, length) = key.strip_prefix(root)?.strip_prefix(BLOCKS)?.split_once('-')?;
    IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()
}
