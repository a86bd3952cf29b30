//! The control plane fails: etcd's leader, its majority, the agents. No packet may be lost by that.

use std::time::Instant;

use netpath_tests::wait;

use super::{ANNOUNCED, CALL, FAMILIES, LONG, LOOK, SLACK, Scene, away, routes_to};
use crate::direct::ping;

#[test]
fn etcd_leader_is_killed_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let leader = scene.cluster.etcd.leader();
    scene.cluster.etcd.kill(leader);
    scene.records_follow(0, Instant::now(), CALL + SLACK);
    scene.streams.go_on("with another leader");
    scene.cluster.etcd.restart();
    scene.finish("etcd leader killed", |_| false, ANNOUNCED);
}

/// For longer than leases last: nobody can end them meanwhile.
#[test]
fn etcd_majority_is_lost_and_comes_back_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let leader = scene.cluster.etcd.leader();
    for at in [leader, (leader + 1) % 3] {
        scene.cluster.etcd.kill(at);
    }
    let begun = Instant::now();
    wait::until("all nodes tell", || {
        scene.cluster.nodes.iter().all(|node| node.problems().contains("cluster: "))
    });
    new_pods_are_reached(&scene);
    scene.run_on(LONG.saturating_sub(begun.elapsed()), |_| true);
    scene.cluster.etcd.restart();
    scene.records_follow(0, Instant::now(), CALL + SLACK);
    scene.finish("etcd majority lost", |_| false, ANNOUNCED);
}

/// Each node adds one from its own block, whom pods of all nodes reach.
fn new_pods_are_reached(scene: &Scene) {
    for node in &scene.cluster.nodes {
        let name = format!("new-on-{}", node.name);
        let new = node.named(&name);
        for family in FAMILIES {
            let (own, to) = (node.blocks(), new.at(family).expect("address"));
            assert!(own.iter().any(|block| block.contains(&to)), "{to} of {own:?}");
            for pod in &scene.pods {
                let said = ping(&pod.netns, &[], to);
                assert!(said.contains("1 received"), "{} to {name}: {said}", pod.pod.name);
            }
        }
        scene.cluster.runtime.block_on(node.client.pod_rm(&name)).expect("removed");
    }
}

/// All at once, and for so long that all of them are away.
#[test]
fn etcd_agents_of_all_nodes_are_killed_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let blocks = scene.cluster.nodes[1].blocks();
    scene.cluster.nodes.iter_mut().for_each(|node| node.kill());
    let alive = ["get", "--prefix", "--keys-only", "/netpath/default/alive/"];
    wait::within(LONG + SLACK, "etcd has given up all nodes", || {
        scene.streams.go_on("without agents");
        scene.cluster.etcd.ctl(&alive).trim().is_empty()
    });
    // The first sees that all others are away, and asks for them: they answer on the link.
    scene.cluster.nodes[0].restart();
    scene.run_on(LOOK, |_| true);
    assert!(away(&scene.cluster.nodes[0], "node2"), "{:?}", scene.cluster.nodes[0].known());
    assert_eq!(routes_to(&scene.cluster.nodes[0], &blocks).len(), 2, "its routes stay");
    scene.cluster.nodes.iter_mut().skip(1).for_each(|node| node.restart());
    scene.records_follow(0, Instant::now(), CALL + SLACK);
    scene.finish("agents killed on all nodes", |_| false, ANNOUNCED);
}
