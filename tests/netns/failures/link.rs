//! A node's link goes and comes, and its routes to others.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use netpath_tests::{cluster::ROUTERS, wait};

use super::{ANNOUNCED, CALL, SLACK, Scene, routes_to};

/// How long a link is down.
const DOWN: Duration = Duration::from_secs(3);
/// How often routes flap.
const FLAPS: usize = 10;

/// First its cable, then by its operator: with the link the kernel takes its routes and IPv6 addresses.
#[test]
fn etcd_link_goes_down_and_up_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    let of_b = |what: &str| what.contains('b');
    for by_operator in [false, true] {
        scene.fails();
        match by_operator {
            true => drop(scene.cluster.nodes[1].run("ip", &["link", "set", "up0", "down"])),
            false => scene.cluster.plug(1, false),
        }
        scene.run_on(DOWN, |what| !of_b(what));
        match by_operator {
            true => {
                scene.cluster.nodes[1].run("ip", &["link", "set", "up0", "up"]);
                scene.cluster.configure_again(1);
            }
            false => scene.cluster.plug(1, true),
        }
        scene.is_over();
        scene.streams.go_on("with the link up again");
        scene.records_follow(1, Instant::now(), CALL + SLACK);
    }
    // The kernel itself waits for up to a second before it believes a carrier.
    scene.finish("link down and up", of_b, ANNOUNCED + SLACK);
}

/// Somebody deletes the routes to the other node's blocks, gives them another next hop, or has the kernel forget who that is.
#[test]
fn etcd_routes_flap_ipv4_and_ipv6() {
    let mut scene = Scene::start();
    // Only what the node sends by these routes: tunnels need none, nor does what comes in.
    let hit = |what: &str| what == "a to b";
    let blocks = scene.cluster.nodes[1].blocks();
    let before = routes_to(&scene.cluster.nodes[0], &blocks);
    assert_eq!(before.len(), 2, "{before:?}");
    let by_router = |block: &IpNet| ROUTERS[usize::from(block.addr().is_ipv6())];
    for flap in 0..FLAPS {
        for replaced in [false, true] {
            scene.fails();
            scene.is_over();
            for block in &blocks {
                let text = block.to_string();
                let said = match replaced {
                    true => scene.cluster.nodes[0]
                        .run("ip", &["route", "replace", &text, "via", by_router(block)]),
                    false => scene.cluster.nodes[0].run("ip", &["route", "del", &text]),
                };
                assert_eq!(said, "", "{block}");
            }
            wait::within(ANNOUNCED + SLACK, &format!("the routes are right after flap {flap}"), || {
                routes_to(&scene.cluster.nodes[0], &blocks) == before
            });
            scene.streams.go_on("by the right routes");
        }
    }
    scene.finish("route flap", hit, ANNOUNCED);
}

/// The next hop's address is known no more: what is sent meanwhile waits until it is.
#[test]
fn etcd_neighbours_flap_ipv4_and_ipv6() {
    let scene = Scene::start();
    for _ in 0..FLAPS {
        for address in scene.cluster.nodes[1].addresses {
            scene.cluster.nodes[0].run("ip", &["neigh", "del", &address.to_string(), "dev", "up0"]);
        }
        scene.streams.go_on("with the neighbours known again");
    }
    scene.finish("next hop forgotten", |_| false, ANNOUNCED);
}
