//! A node with a real agent in a cluster, whose etcd is outside behind a router.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use netpath::{
    api::types::{ClusterNode, PodAdd},
    lab::topology::{self, OUTSIDE},
    model::{self, Family, Holder},
    store::{EtcdStore, cluster::Cluster},
};
use netpath_tests::{etcd::Etcd, node::Node, wait};
use tokio::runtime::Builder;

use super::{DIR, holder};

const POOLS: [&str; 2] = ["10.64.0.0/16", "fd00:64::/48"];

/// A node that has joined, and its etcd.
pub(super) fn joined() -> (Node, Etcd) {
    let (topology, runtime) = Node::without_agent();
    let etcd = Etcd::start(&topology.outside.netns, OUTSIDE.into(), DIR);
    let mut node = Node::with_agent(topology, runtime, &configuration(&etcd, "one"));
    node.wait_ready();
    (node, etcd)
}

/// The comment keeps the harness from writing a block.
pub(super) fn configuration(etcd: &Etcd, name: &str) -> String {
    format!(
        "node = \"{name}\"\n# no block = here\n[cluster]\nendpoints = {:?}\npools = [\"{}\", \"{}\"]\n",
        etcd.endpoints(),
        POOLS[0],
        POOLS[1]
    )
}

/// Does something as another node would, from where etcd is.
pub(super) fn beside<T: Send>(
    node: &Node,
    etcd: &Etcd,
    work: impl AsyncFnOnce(Cluster, EtcdStore) -> T + Send,
) -> T {
    let access = etcd.access();
    let inside = || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let store = EtcdStore::new(&access).expect("store");
        runtime.block_on(work(Cluster::new(store.clone(), "default"), store))
    };
    node.topology.outside.netns.enter(inside).expect("namespace")
}

pub(super) fn nodes(node: &Node) -> Vec<ClusterNode> {
    node.runtime.block_on(node.client.nodes()).expect("nodes")
}

pub(super) fn problems(node: &Node) -> String {
    node.runtime.block_on(node.client.status()).expect("status").problems.join("\n")
}

pub(super) fn pod(node: &Node, name: &str) -> Result<Vec<IpAddr>, String> {
    let wanted = PodAdd { name: name.into(), ..PodAdd::default() };
    let pod = node.runtime.block_on(node.client.pod_add(&wanted)).map_err(|error| error.to_string())?;
    Ok(pod.addresses)
}

pub(super) fn state(node: &Node, name: &str) -> Option<String> {
    nodes(node).into_iter().find(|one| one.name == name).map(|one| one.state)
}

#[test]
fn etcd_down_and_pods_are_added_from_the_own_block_ipv4_and_ipv6() {
    let (mut node, mut etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").as_deref() == Some("ready"));
    let own = nodes(&node).remove(0);
    assert_eq!(own.addresses, [Family::V4, Family::V6].map(topology::node));
    assert!(own.own, "{own:?}");
    let inside = |name: &str, addresses: &[IpAddr]| {
        let held = |address| own.blocks.iter().any(|block: &IpNet| block.contains(address));
        assert!(
            addresses.len() == 2 && addresses.iter().all(held),
            "{name}: {addresses:?} of {:?}",
            own.blocks
        );
    };
    inside("a", &pod(&node, "a").expect("added"));
    etcd.kill_all();
    inside("b", &pod(&node, "b").expect("added without etcd"));
    for address in pod(&node, "c").expect("added") {
        let outcome =
            node.netpath(&["pod", "exec", "b", "--", "ping", "-c", "1", "-W", "3", &address.to_string()]);
        assert!(outcome.status.success(), "{outcome:?}");
    }
    wait::until("status tells", || problems(&node).contains("cluster: "));
    assert_eq!(nodes(&node).len(), 1, "what was last known");
    node.kill();
    node.restart();
    inside("e", &pod(&node, "e").expect("added by an agent that began without etcd"));
    etcd.restart();
    wait::until("nothing is wrong any more", || problems(&node).is_empty());
    wait::until("the node is seen again", || state(&node, "one").as_deref() == Some("ready"));
    assert_eq!(nodes(&node)[0].blocks, own.blocks);
}

fn record(holder: Holder, addresses: Vec<IpAddr>) -> model::Node {
    model::Node { holder, addresses, drained: false, release_after: 0, overlay: None }
}

#[test]
fn etcd_has_one_node_of_a_name_an_address_and_a_block() {
    let (mut node, etcd) = joined();
    let register = |other: &Holder, addresses: &[&str], ttl: u64| {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        let other = record(other.clone(), addresses);
        beside(&node, &etcd, async |cluster, store| {
            let lease = store.grant(Duration::from_secs(ttl)).await.expect("lease");
            let pools = cluster.pools(&[]).await.expect("pools");
            let blocks = cluster.claim(&other.holder, &pools).await.expect("claimed");
            cluster.register(&other, &blocks, lease).await.map(|()| blocks).map_err(|error| error.to_string())
        })
    };
    wait::until("the node is seen", || state(&node, "one").is_some());
    let error = register(&holder("one"), &[], 60).expect_err("its name");
    assert!(error.contains("another node of the cluster has the name: 'one'"), "{error}");
    let error =
        register(&holder("two"), &[&topology::node(Family::V6).to_string()], 60).expect_err("its address");
    assert!(error.contains("has the address 2001:") && error.contains("'one'"), "{error}");
    let theirs = register(&holder("two"), &["198.18.7.7"], 60).expect("its own");
    wait::until("the other is seen", || state(&node, "two").as_deref() == Some("ready"));
    let error = node.runtime.block_on(node.client.node_leave("two")).expect_err("alive").to_string();
    assert!(error.contains("node 'two' is alive"), "{error}");
    // Nor is any part of a block that it would write down again.
    let part = block_key(theirs[0]).replace("-26", "-27");
    assert_eq!(etcd.ctl(&["del", &block_key(theirs[0])]).trim(), "1");
    assert_eq!(etcd.ctl(&["put", &part, THIEF]).trim(), "OK");
    let again = record(holder("two"), vec!["198.18.7.7".parse().unwrap()]);
    let refused = beside(&node, &etcd, async |cluster, store| {
        let lease = store.grant(Duration::from_secs(60)).await.expect("lease");
        cluster.register(&again, &theirs, lease).await.expect_err("a part of its block").to_string()
    });
    assert!(refused.contains("has the block") && refused.contains("'thief'"), "{refused}");
    assert_eq!(etcd.ctl(&["del", &part]).trim(), "1");
    // Only until its lease ends.
    register(&holder("two"), &["198.18.7.7"], 10).expect("again");
    wait::until("the other is away", || state(&node, "two").as_deref() == Some("away"));
    let left = node.netpath(&["node", "leave", "two"]);
    assert!(left.status.success(), "{left:?}");
    wait::until("the other is gone", || state(&node, "two").is_none());
    for block in theirs {
        assert_eq!(etcd.ctl(&["get", &block_key(block)]), "", "{block} is free again");
    }
    // A node of a name that another has does not start, nor one of an address; and has no block then.
    node.stop();
    std::fs::remove_dir_all("/mnt/state").expect("state");
    let said = node.refused(&[]);
    assert!(said.contains("another node of the cluster has the name"), "{said}");
    node.configure(&configuration(&etcd, "three"));
    for _ in 0..2 {
        let said = node.refused(&[]);
        assert!(said.contains("another node of the cluster has the address"), "{said}");
        let keys = etcd.ctl(&["get", "--prefix", "/netpath/"]);
        assert!(keys.contains("\"one\"") && !keys.contains("\"three\""), "{keys}");
    }
}

#[test]
fn etcd_gets_a_block_back_from_a_node_that_leaves() {
    let (mut node, mut etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").is_some());
    pod(&node, "a").expect("added");
    let drained = node.netpath(&["node", "drain"]);
    assert!(drained.status.success(), "{drained:?}");
    wait::until("it is seen to be drained", || state(&node, "one").as_deref() == Some("drained"));
    node.kill();
    node.restart();
    assert!(pod(&node, "b").expect_err("drained").contains("takes no new pods"));
    assert!(node.netpath(&["node", "drain", "--undo"]).status.success());
    wait::until("it is seen to take pods", || state(&node, "one").as_deref() == Some("ready"));
    pod(&node, "b").expect("added");
    node.runtime.block_on(node.client.pod_rm("b")).expect("removed");
    let error = node.runtime.block_on(node.client.node_leave("one")).expect_err("pods").to_string();
    assert!(error.contains("this node has 1 pods"), "{error}");
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    let left = node.netpath(&["node", "leave"]);
    assert!(left.status.success(), "{left:?}");
    wait::until("it is gone", || nodes(&node).is_empty());
    assert!(pod(&node, "b").expect_err("no block").contains("has left its cluster"));
    let keys = etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/"]);
    assert_eq!(keys.trim(), "/netpath/default/pools", "nothing else is left");
    node.stop();
    node.restart();
    pod(&node, "b").expect("joined again");
    // Under another name it would leave its block behind.
    node.stop();
    node.configure(&configuration(&etcd, "other"));
    let said = node.refused(&[]);
    assert!(said.contains("this node is 'one' in the cluster 'default', and not 'other'"), "{said}");
    node.configure(&configuration(&etcd, "one"));
    node.restart();
    // Somebody has taken it out, wrongly, and another has its block: it gives no address of it any more.
    let blocks = nodes(&node).into_iter().find(|one| one.own).map(|one| one.blocks);
    wait::until("the node is seen", || state(&node, "one").is_some());
    let blocks = blocks.filter(|blocks| !blocks.is_empty()).unwrap_or_else(|| nodes(&node)[0].blocks.clone());
    node.kill();
    assert_eq!(etcd.ctl(&["put", &block_key(blocks[0]), THIEF]).trim(), "OK");
    node.restart();
    // At once, and so it stays without etcd.
    let refused = |node: &Node| {
        let error = pod(node, "c").expect_err("somebody else's");
        assert!(error.contains("another node of the cluster has this node's block"), "{error}");
    };
    refused(&node);
    wait::until("status tells who has it", || problems(&node).contains("'thief'"));
    etcd.kill_all();
    node.kill();
    node.restart();
    refused(&node);
}

/// What others do to its records meanwhile.
#[test]
fn etcd_records_come_back_and_conflicts_take_no_lease_and_hide_no_loss() {
    let (node, mut etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").as_deref() == Some("ready"));
    let blocks = nodes(&node).remove(0).blocks;
    let get = |etcd: &Etcd, key: &str| etcd.ctl(&["get", key]);
    // Removed, with its lease alive.
    let keys = ["nodes/one".to_owned(), "alive/one".to_owned(), block_key(blocks[0])]
        .map(|key| if key.starts_with('/') { key } else { format!("/netpath/default/{key}") });
    for key in &keys {
        assert_eq!(etcd.ctl(&["del", key]).trim(), "1", "{key}");
        wait::until("it is written again", || get(&etcd, key).contains("\"one\""));
    }
    // Another has an address of it, and the record is to be written anew: it stays alive, and has its block.
    let leases = |etcd: &Etcd| etcd.ctl(&["lease", "list"]);
    let before = leases(&etcd);
    let address = format!("/netpath/default/addresses/{}", topology::node(Family::V4));
    assert_eq!(etcd.ctl(&["put", &address, THIEF]).trim(), "OK");
    assert_eq!(etcd.ctl(&["del", &keys[1]]).trim(), "1");
    wait::until("status tells", || problems(&node).contains("the address"));
    wait::until("it is alive all the same", || get(&etcd, &keys[1]).contains("\"one\""));
    assert_eq!(leases(&etcd), before, "by the same lease");
    pod(&node, "a").expect("the block is its own");
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    // And a block as well.
    assert_eq!(etcd.ctl(&["put", &block_key(blocks[1]), THIEF]).trim(), "OK");
    wait::until("pods are refused", || match pod(&node, "a") {
        Ok(_) => {
            node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
            false
        }
        Err(error) => error.contains("this node's block"),
    });
    for key in [&address, &block_key(blocks[1])] {
        assert_eq!(etcd.ctl(&["del", key]).trim(), "1", "{key}");
    }
    wait::until("nothing is wrong any more", || problems(&node).is_empty());
    pod(&node, "a").expect("its own again");
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    // It leaves, and whether it has is not known.
    etcd.kill_all();
    node.runtime.block_on(node.client.node_leave("one")).expect_err("no etcd");
    let error = pod(&node, "a").expect_err("it may have left");
    assert!(error.contains("this node's block"), "{error}");
    etcd.restart();
    wait::until("it has not", || pod(&node, "a").is_ok());
    assert!(get(&etcd, &keys[0]).contains("\"one\""));
}

#[test]
fn etcd_node_keeps_its_cluster_until_it_leaves() {
    let (mut node, etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").is_some());
    node.stop();
    node.configure("node = \"one\"\n");
    let said = node.refused(&[]);
    assert!(said.contains("this node is 'one' in the cluster 'default', and [cluster] is missing"), "{said}");
    let other = configuration(&etcd, "one").replace(POOLS[0], "10.65.0.0/16");
    node.configure(&other);
    node.restart();
    wait::until("status tells", || problems(&node).contains("the pools of the cluster are 10.64.0.0/16"));
    wait::until("the node is seen", || state(&node, "one").is_some());
    let blocks = nodes(&node).remove(0).blocks;
    node.stop();
    // By flags alone.
    node.configure("node = \"one\"\n# no block = here\n");
    let endpoints = etcd.endpoints().join(",");
    node.spawn_with(&["--etcd", &endpoints]);
    node.wait_ready();
    wait::until("nothing is wrong any more", || problems(&node).is_empty());
    wait::until("the node is seen", || state(&node, "one").is_some());
    assert_eq!(nodes(&node).remove(0).blocks, blocks);
}

const THIEF: &str = "{\"version\":1,\"value\":{\"node\":\"thief\",\"uid\":\"x\"}}";

fn block_key(block: IpNet) -> String {
    format!("/netpath/default/blocks/{}-{}", block.network(), block.prefix_len())
}
