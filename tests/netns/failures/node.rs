//! A node loses its power, and comes back with the name and the disk it had.

use std::time::Instant;

use netpath_tests::wait;

use super::{ANNOUNCED, CALL, FAMILIES, LONG, LOOK, SLACK, Scene, away, routes_to};

#[test]
fn etcd_node_dies_and_returns_with_its_name_ipv4_and_ipv6() {
    // What it sends itself ends with it, and so do its connections.
    let mut scene = Scene::start_with(|what| !what.starts_with('b'), |what| !what.contains('b'));
    let to_b = |what: &str| what.ends_with('b');
    let blocks = scene.cluster.nodes[1].blocks();
    let held = |scene: &Scene| {
        let keys = scene.cluster.etcd.ctl(&["get", "--prefix", "/netpath/default/blocks/"]);
        keys.matches("\"node2\"").count()
    };
    let off = scene.cluster.cut_power(1);
    let begun = Instant::now();
    // Nodes have a number less.
    wait::within(LONG + LOOK + SLACK, "its routes are withdrawn", || {
        routes_to(&scene.cluster.nodes[0], &blocks).is_empty()
    });
    println!("withdrawn after {:?}", begun.elapsed());
    wait::until("all see that it is away", || scene.cluster.nodes.iter().all(|node| away(node, "node2")));
    assert_eq!(held(&scene), 2, "its blocks are kept");
    scene.streams.these_go_on("among the others", |what| !to_b(what));
    scene.cluster.boot(off);
    scene.is_over();
    wait::until("it has the blocks that it had", || scene.cluster.nodes[1].blocks() == blocks);
    let again = scene.open(1, "b");
    for family in FAMILIES {
        let [before, now] = [&scene.pods[1], &again].map(|pod| pod.at(family).expect("address"));
        assert_eq!(before, now, "its pod has the address it had");
        scene.streams.received_in(&again.netns, now);
    }
    scene.pods[1] = again;
    scene.records_follow(1, Instant::now(), CALL + SLACK);
    scene.finish("node dies and returns", to_b, LOOK + ANNOUNCED + SLACK);
}
