//! Nodes that claim blocks at the same time, whatever becomes of members.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use ipnet::IpNet;
use netpath::{
    model::{DEFAULT_NETWORK, EtcdAccess, Holder, Pool},
    store::{
        EtcdStore,
        cluster::{Cluster, ClusterError},
    },
};
use netpath_tests::wait;
use tokio::{sync::Semaphore, time::timeout};

use super::{etcd, holder};

fn pools() -> [Pool; 2] {
    [("10.64.0.0/20", 26), ("fd00:64::/116", 122)]
        .map(|(prefix, length)| Pool::new(prefix.parse().unwrap(), length).unwrap())
}

/// 50 nodes claim at once a block of each of two pools with 64 blocks; then a member dies, and 16 more want one of the 14 that are left.
#[test]
fn etcd_blocks_have_one_holder_ipv4_and_ipv6() {
    let (mut etcd, _, runtime) = etcd();
    let access = etcd.access();
    let claim = async |name: String| {
        // Each with connections of its own, as nodes have.
        let cluster = Cluster::new(EtcdStore::new(&access).expect("store"), "race");
        cluster.claim(&holder(&name), &pools()).await
    };
    let race = async |names: std::ops::Range<u32>| join_all(names.map(|at| claim(format!("node{at}")))).await;
    // The member that all ask dies in the middle of it.
    let first = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun =
                || !etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/race/blocks/"]).trim().is_empty();
            wait::until("the first block is claimed", begun);
            etcd.kill(0);
        });
        runtime.block_on(race(0..50))
    });
    let claimed: Vec<Vec<IpNet>> = first.into_iter().map(|one| one.expect("claimed")).collect();
    let all: BTreeSet<&IpNet> = claimed.iter().flatten().collect();
    assert_eq!((claimed.len(), all.len()), (50, 100), "no two have one: {all:?}");
    assert_eq!(
        runtime.block_on(race(0..50)).into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        claimed,
        "kept"
    );
    let late = runtime.block_on(race(50..66));
    let full = late.iter().filter(|one| matches!(one, Err(ClusterError::Full(_)))).count();
    assert_eq!(full, 2, "{late:?}");
    let cluster = Cluster::new(EtcdStore::new(&access).unwrap(), "race");
    let gives_back = holder("node7");
    runtime.block_on(cluster.leave(&gives_back)).expect("left");
    let last = runtime.block_on(claim("late".into())).expect("there is room again");
    assert_eq!(last, claimed[7], "the only ones");
    // None of them was ever registered.
    runtime.block_on(cluster.take_out("node8", None)).expect("taken out");
    let keys = etcd.ctl(&["get", "--prefix", "/netpath/race/blocks/"]);
    assert!(keys.contains("node9") && !keys.contains("\"node8\""), "{keys}");
    let error = runtime.block_on(cluster.take_out("node8", None)).expect_err("has nothing").to_string();
    assert!(error.contains("node 'node8' is not in the cluster"), "{error}");
}

/// A node that claims blocks of the first pool.
struct Claimant {
    cluster: Cluster,
    holder: Holder,
    own: BTreeSet<IpNet>,
}

impl Claimant {
    /// One with connections of its own.
    fn new(access: &EtcdAccess, name: &str) -> Self {
        let cluster = Cluster::new(EtcdStore::new(access).expect("store"), "race");
        Self { cluster, holder: holder(name), own: BTreeSet::new() }
    }

    /// Claims so many more, or as many as there are.
    async fn claim(&mut self, more: usize) {
        let pool = pools()[0];
        for _ in 0..more {
            match self.cluster.claim_more(&self.holder, (DEFAULT_NETWORK, &pool), &self.own).await {
                Ok(block) => assert!(self.own.insert(block), "{block} is one of {:?}", self.own),
                Err(ClusterError::Full(_)) => return,
                Err(error) => panic!("{}: {error}", self.holder.node),
            }
        }
    }
}

/// 14 nodes claim 56 of 64 blocks at once, while the member that all ask is cut off from the others; then each wants another.
#[test]
fn etcd_further_blocks_have_one_holder() {
    let (etcd, store, runtime) = etcd();
    let access = etcd.access();
    runtime.block_on(Cluster::new(store, "race").pools(&pools())).expect("pools");
    let mut nodes: Vec<_> = (0..14).map(|at| Claimant::new(&access, &format!("node{at}"))).collect();
    runtime.block_on(join_all(nodes.iter_mut().map(|node| node.claim(1))));
    // Half of them are in the middle of it, the others begin when it has happened.
    let parted = Semaphore::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            etcd.part(0, true);
            parted.add_permits(7);
        });
        let claim = async |(at, node): (usize, &mut Claimant)| {
            if at % 2 == 1 {
                parted.acquire().await.expect("permits").forget();
            }
            node.claim(3).await;
        };
        runtime.block_on(join_all(nodes.iter_mut().enumerate().map(claim)));
    });
    assert!(nodes.iter().all(|node| node.own.len() == 4));
    let alone = EtcdStore::new(&EtcdAccess { endpoints: vec![etcd.endpoints().remove(0)], ..access.clone() });
    let alone = alone.expect("store");
    let answer = runtime.block_on(async { timeout(Duration::from_secs(2), alone.find("x")).await });
    assert!(!matches!(answer, Ok(Ok(_))), "it is cut off");
    runtime.block_on(join_all(nodes.iter_mut().map(|node| node.claim(1))));
    etcd.part(0, false);
    let mut holders = BTreeMap::new();
    for node in &nodes {
        for block in &node.own {
            let other = holders.insert(*block, node.holder.clone());
            assert_eq!(other, None, "{block} is one of {} as well", node.holder.node);
        }
    }
    assert_eq!(holders.len(), 64, "all of them");
    let written = runtime.block_on(nodes[0].cluster.holders(&pools()[0])).expect("holders");
    assert_eq!(written.into_iter().collect::<BTreeMap<_, _>>(), holders, "as etcd has it");
}
