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
    // By the node on its link; the one behind the router cannot tell, and keeps its tunnel.
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
    scene.cluster.part_far(2, true);
    wait::within(LONG + SLACK, "it is away", || away(&scene.cluster.nodes[0], "node3"));
    scene.streams.these_go_on("among the others", |what| !of_c(what));
    scene.cluster.part_far(2, false);
    scene.is_over();
    scene.records_follow(2, Instant::now(), CALL + SLACK);
    // Nothing was withdrawn.
    scene.finish("partition of a node behind a router", of_c, ANNOUNCED);
}
