//! Simulated nodes in etcd: each registers as an agent does, with a lease of its own, and renews it as an agent does. And what
//! others than netpath may have in the same etcd.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netpath::{
    model::{EtcdAccess, Holder, Node},
    store::{
        EtcdStore, Store, Write,
        cluster::{ClusterError, LEASE},
    },
};
use netpath_tests::cluster::Cluster;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::POOLS;

/// Time between an agent's signs of life.
const BEAT: Duration = Duration::from_secs(LEASE.as_secs() / 6);
/// Parts of it that nodes begin in.
const SPREAD: u32 = 1000;
/// A lease that lasts longer than any run.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// Registrations under way at once.
const AT_ONCE: usize = 16;
/// Connections that the nodes share, as many to each of etcd's members.
const CONNECTIONS: usize = 6;
/// Simulated nodes on the agent's own link, reached by direct routes; all others by tunnels.
const NEAR: usize = 200;
/// Etcd takes no more operations in one transaction (`--max-txn-ops`).
const BATCH: usize = 128;
/// Records of endpoints lie here, not below `/netpath/`: netpath writes and reads none, and an agent reads all that is below its
/// cluster's root.
const ENDPOINTS: &str = "/endpoints/";
/// Of one node, one after the other.
const PODS: usize = 50;

/// What to try when etcd does not answer in time.
const TOO_MANY: &str = "where a machine cannot do so many renewals, --no-renewals leaves them out";

/// The nodes, with what talks to etcd for them.
pub(super) struct Crowd {
    /// Its threads are where etcd is.
    runtime: Runtime,
    connections: Vec<Connection>,
    own: Vec<IpNet>,
    beats: Option<Arc<Beats>>,
}

type Records = netpath::store::cluster::Cluster;

#[derive(Clone)]
struct Connection {
    store: EtcdStore,
    records: Arc<Records>,
}

/// What became of the nodes' signs of life.
#[derive(Default)]
struct Beats {
    renewed: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
}

impl Crowd {
    /// No nodes yet. Leases are renewed if `renewing`; else they are too long for any run to end them.
    pub(super) fn new(cluster: &Cluster, renewing: bool) -> Self {
        let access = cluster.etcd.access();
        let connect = |at: usize| {
            let mut endpoints = access.endpoints.clone();
            let members = endpoints.len();
            endpoints.rotate_left(at % members);
            let store = EtcdStore::new(&EtcdAccess { endpoints, ..access.clone() }).expect("store");
            Connection { records: Arc::new(Records::new(store.clone(), "default")), store }
        };
        // Threads are of the namespace of who starts them.
        let start = || Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        Self {
            runtime: cluster.outside.netns.enter(start).expect("namespace"),
            connections: (0..CONNECTIONS).map(connect).collect(),
            own: cluster.nodes[0].blocks(),
            beats: renewing.then(Arc::default),
        }
    }

    /// What etcd is told of a node: an address, and a block of each family, the next ones behind the real node's own.
    pub(super) fn node(&self, at: usize) -> (Node, Vec<IpNet>) {
        let address = match at {
            near if near < NEAR => [198, 18, 0, 20 + near as u8],
            far => [172, 16 + (far >> 16) as u8, (far >> 8) as u8, far as u8],
        };
        let name = format!("sim-{at}");
        let holder = Holder { uid: format!("uid-of-{name}"), node: name };
        let blocks = (0..self.own.len()).map(|family| self.block(family, at + 1)).collect();
        let addresses = vec![address.into()];
        let node = Node { holder, addresses, drained: false, release_after: 86_400, overlay: None };
        (node, blocks)
    }

    /// The block so many places behind the real node's; IPv4's start over at the end of the pool.
    pub(super) fn block(&self, family: usize, places: usize) -> IpNet {
        match self.own[family] {
            IpNet::V4(own) => {
                let pool: Ipv4Net = POOLS[0].parse().expect("pool");
                let inside =
                    own.network().to_bits().wrapping_add((places as u32) << 6) & pool.hostmask().to_bits();
                Ipv4Net::new_assert((pool.network().to_bits() | inside).into(), 26).into()
            }
            IpNet::V6(own) => {
                let bits = own.network().to_bits() + ((places as u128) << 6);
                Ipv6Net::new_assert(bits.into(), 122).into()
            }
        }
    }

    /// Registers nodes, each with a lease of its own, which is kept from then on.
    pub(super) fn register(&self, nodes: Range<usize>) {
        let one = |at| join(at, self.node(at), self.connection(at).clone(), self.beats.clone());
        let all: Vec<_> = nodes.map(one).collect();
        let done = stream::iter(all).buffer_unordered(AT_ONCE).try_collect::<()>();
        self.run(done).unwrap_or_else(|error| panic!("registering: {error}; {TOO_MANY}"));
    }

    /// Writes records of endpoints, a pod of a node each.
    pub(super) fn write_endpoints(&self, endpoints: Range<usize>) {
        let write = |at: usize| {
            let (node, blocks) = self.node(at / PODS);
            let addresses: Vec<_> = blocks.iter().filter_map(|block| block.hosts().nth(at % PODS)).collect();
            let record =
                json!({"pod": format!("pod-{at}"), "node": node.holder.node, "addresses": addresses});
            Write::Put(format!("{ENDPOINTS}pod-{at}"), record.to_string().into_bytes(), None)
        };
        let all: Vec<_> = endpoints.map(write).collect();
        let batch = |(at, batch): (usize, &[Write])| {
            let (store, batch) = (self.connection(at).store.clone(), batch.to_vec());
            async move { store.commit(Vec::new(), batch).await.map(drop) }
        };
        let batches: Vec<_> = all.chunks(BATCH).enumerate().map(batch).collect();
        let done = stream::iter(batches).buffer_unordered(CONNECTIONS).try_collect::<()>();
        self.run(done).expect("written");
    }

    /// Gives a node one block more, or takes it back.
    pub(super) fn change(&self, node: usize, block: IpNet, more: bool) {
        let key = block_key(block);
        let (store, holder) = (self.connection(0).store.clone(), self.node(node).0.holder);
        self.run(async move {
            let store: &dyn Store = &store;
            let done = if more { store.write(&key, &holder).await } else { store.delete(&key).await };
            done.expect("changed");
        });
    }

    /// Signs of life so far.
    pub(super) fn renewed(&self) -> u64 {
        self.beats.as_ref().map_or(0, |beats| beats.renewed.load(Ordering::Relaxed))
    }

    /// How long the slowest sign of life took since this was asked the last time.
    ///
    /// # Panics
    /// If one was in vain: others take the node for one that is away then, and what is measured is another cluster.
    pub(super) fn slowest(&self) -> Duration {
        let Some(beats) = &self.beats else { return Duration::ZERO };
        let failed = beats.failed.load(Ordering::Relaxed);
        assert_eq!(failed, 0, "signs of life failed; {TOO_MANY}");
        Duration::from_micros(beats.slowest_us.swap(0, Ordering::Relaxed))
    }

    fn connection(&self, at: usize) -> &Connection {
        &self.connections[at % CONNECTIONS]
    }

    /// Waits for some work where etcd is.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(work)).expect("work with etcd")
    }
}

fn block_key(block: IpNet) -> String {
    format!("/netpath/default/blocks/{}-{}", block.network(), block.prefix_len())
}

/// Registers a node by a lease of its own, with blocks that it has claimed before, as agents do.
async fn join(
    at: usize,
    (node, blocks): (Node, Vec<IpNet>),
    Connection { store, records }: Connection,
    beats: Option<Arc<Beats>>,
) -> Result<(), ClusterError> {
    let lease = store.grant(if beats.is_some() { LEASE } else { LONG }).await?;
    let claims: &dyn Store = &store;
    for block in &blocks {
        claims.write(&block_key(*block), &node.holder).await?;
    }
    records.register(&node, &blocks, lease).await?;
    if let Some(beats) = beats {
        tokio::spawn(keep(records, lease, at, beats));
    }
    Ok(())
}

/// Renews the lease of a node, as its agent does, as long as the process lives.
async fn keep(records: Arc<Records>, lease: i64, at: usize, beats: Arc<Beats>) {
    // Nodes that start together on a machine do not on many.
    let mut next = Instant::now() + BEAT * (at as u32 % SPREAD) / SPREAD;
    loop {
        tokio::time::sleep_until(next.into()).await;
        let begun = Instant::now();
        next = begun + BEAT;
        // Another one is a new one: this one has run out.
        let kept = records.lease(Some(lease)).await.is_ok_and(|now| now == lease);
        let count = if kept { &beats.renewed } else { &beats.failed };
        count.fetch_add(1, Ordering::Relaxed);
        beats.slowest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
    }
}
