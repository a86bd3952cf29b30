//! A node is cut off from all others and from etcd, for longer than its lease lasts, and sees nothing of it at its link.

use std::time::Instant;

use netpath_tests::wait;

use super::{ANNOUNCED, CALL, LONG, LOOK, SLACK, Scene, away, routes_to};

#[test]
fn etcd_partition_of_a_node_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let of_b = |what: &str| what.contains('b');
    scene.cluster.part(1, true);
    let begun = Instant::now();
    // By the node on its link; the one behind the router has to ask more often.
    let blocks = scene.cluster.nodes[1].blocks();
    wait::within(LONG + LOOK + SLACK, "its routes are withdrawn", || {
        routes_to(&scene.cluster.nodes[0], &blocks).is_empty()
    });
    println!("withdrawn after {:?}", begun.elapsed());
    assert!(away(&scene.cluster.nodes[2], "node2"), "{:?}", scene.cluster.nodes[2].known());
    assert_eq!(routes_to(&scene.cluster.nodes[2], &blocks).len(), 2);
    assert_eq!(routes_to(&scene.cluster.nodes[1], &scene.cluster.nodes[0].blocks()).len(), 2);
    scene.streams.these_go_on("among the others", |what| !of_b(what));
    scene.cluster.part(1, false);
    scene.is_over();
    scene.records_follow(1, Instant::now(), CALL + SLACK);
    scene.finish("partition of a node on the link", of_b, LOOK + ANNOUNCED + SLACK);
}

#[test]
fn etcd_partition_of_a_node_behind_a_router_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let of_c = |what: &str| what.contains('c');
    // Only of whom they have heard do they notice that he is silent.
    for node in &scene.cluster.nodes[..2] {
        wait::until("it has answered", || node.log().contains("answers from behind routers"));
    }
    scene.cluster.part_far(2, true);
    let begun = Instant::now();
    wait::within(LONG + SLACK, "it is away", || away(&scene.cluster.nodes[0], "node3"));
    let blocks = scene.cluster.nodes[2].blocks();
    assert_eq!(routes_to(&scene.cluster.nodes[0], &blocks).len(), 2, "that alone withdraws nothing");
    for at in 0..2 {
        wait::within(3 * LOOK + SLACK, "its routes are withdrawn", || {
            routes_to(&scene.cluster.nodes[at], &blocks).is_empty()
        });
    }
    println!("withdrawn after {:?}", begun.elapsed());
    scene.streams.these_go_on("among the others", |what| !of_c(what));
    scene.cluster.part_far(2, false);
    scene.is_over();
    scene.records_follow(2, Instant::now(), CALL + SLACK);
    scene.finish("partition of a node behind a router", of_c, LOOK + ANNOUNCED + SLACK);
}
