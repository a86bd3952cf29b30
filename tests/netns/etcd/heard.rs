//! A node that its cluster may have given up for lost, and one whose state was copied.

use std::time::Duration;

use netpath::{
    lab::topology,
    model::{self, Family, Holder},
};
use netpath_tests::{node::Node, wait};

use super::node::{beside, configuration, joined, nodes, pod, problems, state};

const UNHEARD: &str = "cluster has not heard of it";

/// Becomes the agent, after the machine has been up for an hour more.
const LATER: [&str; 6] = ["unshare", "--time", "--boottime", "3600", "--monotonic", "3600"];
/// Becomes the agent, in what looks like another run of the kernel to it.
const REBOOTED: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "cat /proc/sys/kernel/random/uuid >/mnt/boot && mount --bind /mnt/boot /proc/sys/kernel/random/boot_id && exec \"$@\"",
    "sh",
];

fn launch(node: &mut Node, by: &[&str]) {
    node.kill();
    node.launcher = by.iter().map(ToString::to_string).collect();
    node.restart();
}

fn refused(node: &Node, name: &str) {
    let error = pod(node, name).expect_err("nobody knows whose the block is");
    assert!(error.contains(UNHEARD), "{error}");
}

fn added(node: &Node, name: &str) {
    pod(node, name).expect("added");
    node.runtime.block_on(node.client.pod_rm(name)).expect("removed");
}

#[test]
fn etcd_node_that_its_cluster_has_not_heard_of_for_long_gives_no_addresses() {
    let (mut node, mut etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").as_deref() == Some("ready"));
    added(&node, "a");
    etcd.kill_all();
    launch(&mut node, &[]);
    added(&node, "a");
    launch(&mut node, &LATER);
    // An hour is not long, if a day is what others wait.
    added(&node, "a");
    etcd.restart();
    node.stop();
    let hasty = configuration(&etcd, "one") + "release_after = \"50m\"\n";
    node.configure(&hasty);
    node.launcher.clear();
    node.restart();
    wait::until("the others are told", || {
        etcd.ctl(&["get", "/netpath/default/nodes/one"]).contains("\"release_after\":3000")
    });
    added(&node, "a");
    etcd.kill_all();
    launch(&mut node, &[]);
    added(&node, "a");
    launch(&mut node, &LATER);
    refused(&node, "a");
    // What counts is what they were told, not what the node says since.
    node.configure(&configuration(&etcd, "one"));
    launch(&mut node, &LATER);
    refused(&node, "a");
    etcd.restart();
    wait::until("it is heard again", || pod(&node, "a").is_ok());
}

#[test]
fn etcd_node_that_boots_gives_no_addresses_until_it_is_heard() {
    let (mut node, mut etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").as_deref() == Some("ready"));
    let blocks = nodes(&node).remove(0).blocks;
    etcd.kill_all();
    node.configure(&(configuration(&etcd, "one") + "[bgp]\nas = 64512\n"));
    launch(&mut node, &REBOOTED);
    refused(&node, "a");
    // Its pods of before are still led to.
    let bird = node.netpath(&["bgp", "render"]);
    let bird = String::from_utf8_lossy(&bird.stdout);
    assert!(blocks.iter().all(|block| bird.contains(&block.to_string())), "{bird}");
    etcd.restart();
    wait::until("it is heard again", || pod(&node, "a").is_ok());
}

#[test]
fn etcd_node_with_a_copy_gives_no_addresses_while_that_is_there() {
    let (node, etcd) = joined();
    wait::until("the node is seen", || state(&node, "one").as_deref() == Some("ready"));
    added(&node, "a");
    let record = etcd.ctl(&["get", "--print-value-only", "/netpath/default/nodes/one"]);
    let record: serde_json::Value = serde_json::from_str(&record).expect("record");
    let uid = record["value"]["uid"].as_str().expect("uid").to_owned();
    let copy = model::Node {
        holder: Holder { node: "one".into(), uid },
        addresses: [Family::V4, Family::V6].map(topology::node).to_vec(),
        drained: false,
        release_after: 60,
        overlay: None,
    };
    let blocks = nodes(&node).remove(0).blocks;
    let sign = || {
        beside(&node, &etcd, async |cluster, _| {
            let lease = cluster.lease(None).await.expect("lease");
            cluster.register(&copy, &blocks, lease).await.expect("nobody knows a copy by its records");
            cluster.run().to_owned()
        })
    };
    // Once only: etcd that was restored shows what an earlier process of the node has written.
    let once = sign();
    wait::until("the node signs again", || {
        let alive = etcd.ctl(&["get", "/netpath/default/alive/one"]);
        alive.contains("uid") && !alive.contains(&once)
    });
    added(&node, "a");
    // One that is suspected is for as long as a lease.
    wait::within(Duration::from_secs(8), "nothing is wrong", || problems(&node).is_empty());
    sign();
    wait::until("status tells", || problems(&node).contains("with a copy of this one's state"));
    let error = pod(&node, "a").expect_err("both would give it the same address");
    assert!(error.contains("this node's block"), "{error}");
    // It goes: so does its sign of life.
    assert_eq!(etcd.ctl(&["del", "/netpath/default/alive/one"]).trim(), "1");
    wait::until("nothing is wrong any more", || pod(&node, "a").is_ok());
    wait::until("nor told of", || problems(&node).is_empty());
}
