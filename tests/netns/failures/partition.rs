//! A node is cut off from all others and from etcd, for longer than its lease lasts, and sees nothing of it at its link; or only
//! etcd does not hear of it.

use std::time::{Duration, Instant};

use netpath_tests::wait;

use super::{ANNOUNCED, CALL, LONG, LOOK, SLACK, Scene, away, routes_to};

/// A node that is away and silent is lost by then: three looks.
const WITHDRAWN: Duration = LOOK.saturating_mul(3).saturating_add(SLACK);

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
    wait::until("the third sees it too", || away(&scene.cluster.nodes[2], "node2"));
    assert_eq!(routes_to(&scene.cluster.nodes[2], &blocks).len(), 2);
    assert_eq!(routes_to(&scene.cluster.nodes[1], &scene.cluster.nodes[0].blocks()).len(), 2);
    scene.streams.these_go_on("among the others", |what| !of_b(what));
    scene.cluster.part(1, false);
    scene.is_over();
    scene.records_follow(1, Instant::now(), CALL + SLACK);
    scene.finish("partition of a node on the link", of_b, LOOK + ANNOUNCED + SLACK);
}

/// Waits until the node behind the router has answered both others: only of whom they have heard do they notice that he is silent.
fn wait_answered(scene: &Scene) {
    for node in &scene.cluster.nodes[..2] {
        wait::until("it has answered", || node.log().contains("answers from behind routers"));
    }
}

/// That etcd does not hear of a node withdraws nothing: it answers.
#[test]
fn etcd_does_not_hear_of_a_node_behind_a_router_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    wait_answered(&scene);
    let blocks = scene.cluster.nodes[2].blocks();
    scene.cluster.nodes[2].kill();
    wait::within(LONG + SLACK, "it is away", || away(&scene.cluster.nodes[0], "node3"));
    scene.run_on(WITHDRAWN, |_| true);
    for node in &scene.cluster.nodes[..2] {
        assert_eq!(routes_to(node, &blocks).len(), 2, "{}", node.log());
    }
    scene.cluster.nodes[2].restart();
    scene.is_over();
    scene.records_follow(2, Instant::now(), CALL + SLACK);
    scene.finish("agent dead behind a router", |_| false, ANNOUNCED);
}

#[test]
fn etcd_partition_of_a_node_behind_a_router_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let of_c = |what: &str| what.contains('c');
    wait_answered(&scene);
    scene.cluster.part_far(2, true);
    let begun = Instant::now();
    wait::within(LONG + SLACK, "it is away", || away(&scene.cluster.nodes[0], "node3"));
    let blocks = scene.cluster.nodes[2].blocks();
    for at in 0..2 {
        wait::within(WITHDRAWN, "its routes are withdrawn", || {
            routes_to(&scene.cluster.nodes[at], &blocks).is_empty()
        });
    }
    println!("withdrawn after {:?}", begun.elapsed());
    scene.streams.these_go_on("among the others", |what| !of_c(what));
    // An agent that is started again knows it for lost.
    scene.cluster.nodes[0].kill();
    scene.cluster.nodes[0].restart();
    assert_eq!(routes_to(&scene.cluster.nodes[0], &blocks), [""; 0]);
    scene.run_on(LOOK + SLACK, |what| !of_c(what));
    assert_eq!(routes_to(&scene.cluster.nodes[0], &blocks), [""; 0], "nor later");
    // It answers before etcd hears of it.
    scene.cluster.nodes[2].kill();
    scene.cluster.part_far(2, false);
    scene.is_over();
    for at in 0..2 {
        wait::within(LOOK + SLACK, "its routes are back", || {
            routes_to(&scene.cluster.nodes[at], &blocks).len() == 2
        });
        assert!(away(&scene.cluster.nodes[at], "node3"), "by an answer");
    }
    scene.cluster.nodes[2].restart();
    scene.records_follow(2, Instant::now(), CALL + SLACK);
    scene.finish("partition of a node behind a router", of_c, LOOK + ANNOUNCED + SLACK);
}
