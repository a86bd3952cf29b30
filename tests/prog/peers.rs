//! What belongs to other nodes of a cluster: who is let in, by which uplink, and what leaves as it is.

use netpath_common::abi::{DropReason, MAX_UPLINKS, ROUTE_PEER, Route, RouteKind};
use netpath_tests::{
    for_both_families,
    packet::{ErrorKind, Frame, see},
    scene::{Family, REDIRECT, Scene, Talk, from_router},
};

for_both_families!(
    pods_of_other_nodes_need_no_flow,
    other_nodes_are_let_in_and_get_answers,
    what_no_route_explains_is_dropped,
    an_uplink_is_known_by_its_place_whoever_was_before_it,
);

/// By the scene's uplink, the first of the node's record; and by another one.
const HERE: u16 = 1;
const ELSEWHERE: u16 = 2;

fn of_peer(kind: RouteKind, uplinks: u16) -> Route {
    Route { flags: ROUTE_PEER, uplinks, ..Route::new(kind, false) }
}

fn pods_of_other_nodes_need_no_flow(f: Family) {
    let mut scene = Scene::new();
    scene.belongs(f.outside, of_peer(RouteKind::Fib, HERE));
    for talk in Talk::ALL {
        let ran = scene.router_says(talk.question((f.outside, 5000), f.a));
        let seen = see(&ran.packet);
        assert_eq!((ran.code, seen.source, seen.ttl), (REDIRECT, f.outside, 63), "{talk:?}: {seen:?}");
        let question = talk.question((f.outside, 5000), f.a);
        scene.expect_no_drop("by the stack", |scene| scene.to_a(&from_router(question), scene.uplink));
        let ran = scene.a_says(talk.question((f.a, 1000), f.outside));
        let seen = see(&ran.packet);
        assert_eq!((ran.code, seen.source, seen.ttl), (REDIRECT, f.a, 63), "{talk:?}: {seen:?}");
    }
    let part = Frame::raw(f.outside, f.a, 17).fragment(9, false);
    assert_eq!(scene.router_says(part).code, REDIRECT, "part of a datagram");
    let sent = Talk::Udp.question((f.a, 1000), f.outside).packet();
    let error = Frame::error(f.outside, f.a, ErrorKind::Unreachable(1), &sent, usize::MAX);
    assert_eq!(scene.router_says(error).code, REDIRECT, "an ICMP error");
    assert_eq!(scene.pairs().len(), 0, "{:?}", scene.pairs());
}

fn other_nodes_are_let_in_and_get_answers(f: Family) {
    let mut scene = Scene::new();
    scene.belongs(f.outside, of_peer(RouteKind::Stack, HERE));
    for talk in Talk::ALL {
        let ran = scene.router_says(talk.question((f.outside, 5000), f.a));
        assert_eq!(ran.code, REDIRECT, "{talk:?}");
    }
    assert_eq!(scene.pairs().len(), Talk::ALL.len(), "so that answers are known: {:?}", scene.pairs());
    let answer = Frame::udp((f.a, Talk::Udp.server_port(5000)), (f.outside, 5000));
    let seen = see(&scene.a_says(answer).packet);
    assert_eq!((seen.source, seen.destination), (f.a, f.outside), "untranslated: {seen:?}");
    scene.belongs(f.outside, of_peer(RouteKind::Stack, ELSEWHERE));
    let knock = Frame::udp((f.outside, 7), (f.a, 7));
    scene.expect_drop("by another uplink", DropReason::InboundDenied, |scene| scene.router_says(knock));
}

fn what_no_route_explains_is_dropped(f: Family) {
    let rows = [
        ("a pod of a node on another link", of_peer(RouteKind::Fib, ELSEWHERE)),
        ("of the pools, and nobody's", Route::new(RouteKind::Stack, false)),
    ];
    for (whose, route) in rows {
        let mut scene = Scene::new();
        let knock = |to| Talk::Udp.question((f.outside, 5000), to);
        let node = from_router(knock(f.node));
        scene.from_wire(&node).assert_untouched("without a cluster", &node);
        scene.belongs(f.outside, route);
        for to in [f.a, f.node] {
            let name = format!("{whose}, to {to}");
            scene.expect_drop(&name, DropReason::SpoofedSource, |scene| scene.router_says(knock(to)));
            // The node's stack might understand it.
            let unsound = |from| Frame::raw(from, to, 17).payload(vec![0; 4]);
            for from in [f.outside, f.b] {
                let name = format!("{name}, of {from}, not understood");
                scene.expect_drop(&name, DropReason::SpoofedSource, |scene| scene.router_says(unsound(from)));
            }
            let others = from_router(unsound(f.unmasked));
            scene.from_wire(&others).assert_untouched("not understood, and the node's to judge", &others);
        }
        let sent = Talk::Udp.question((f.a, 1000), f.outside).packet();
        let error = Frame::error(f.outside, f.a, ErrorKind::Unreachable(1), &sent, usize::MAX);
        scene.expect_drop(whose, DropReason::SpoofedSource, |scene| scene.router_says(error));
        let forwarded = from_router(knock(f.a));
        scene.expect_drop(whose, DropReason::SpoofedSource, |scene| scene.to_a(&forwarded, scene.uplink));
    }
}

fn an_uplink_is_known_by_its_place_whoever_was_before_it(f: Family) {
    const LAST: usize = MAX_UPLINKS - 1;
    let mut scene = Scene::new();
    scene.set_node(|node| node.uplinks.swap(0, LAST));
    let knock = || Talk::Udp.question((f.outside, 5000), f.a);
    scene.belongs(f.outside, of_peer(RouteKind::Fib, 1 << LAST));
    assert_eq!(scene.expect_no_drop("by its place", |scene| scene.router_says(knock())).code, REDIRECT);
    let ran = scene.a_says(Talk::Udp.question((f.a, 1000), f.other));
    assert_eq!((ran.code, see(&ran.packet).source), (REDIRECT, f.node), "translated as before");
    scene.belongs(f.outside, of_peer(RouteKind::Fib, HERE));
    let reason = DropReason::SpoofedSource;
    scene.expect_drop("by the one before it, which has gone", reason, |scene| scene.router_says(knock()));
}
