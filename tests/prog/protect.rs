//! Ports of nodes that pods do not reach, by whichever way.

use std::{collections::BTreeMap, net::IpAddr};

use netpath_common::abi::{DropReason, ROUTE_PEER, Route, RouteKind};
use netpath_tests::{
    for_both_families,
    packet::{ErrorKind, Extension, Frame, fragments, see},
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, SERVER_PORT, Scene, Talk, from_router},
};

for_both_families!(
    protected_ports_of_the_own_node_are_refused,
    protected_ports_of_what_the_kernel_delivers_are_refused,
    protected_ports_of_other_nodes_are_refused_where_a_flow_begins,
    protected_ports_are_refused_by_every_part_of_a_datagram,
    protected_ports_are_refused_to_pods_of_other_nodes,
    protected_ports_are_the_nodes_even_if_they_are_published,
);

#[test]
fn protected_ports_are_refused_behind_more_headers_than_are_walked() {
    let f = Family::V6;
    let mut scene = Scene::new();
    scene.belongs(f.outside, node());
    let hidden = |to| {
        let frame = Talk::Tcp.question((f.a, 1000), to);
        (0..9).fold(frame, |frame, _| frame.extension(Extension::Destination, &[]))
    };
    let long = |to| Talk::Tcp.question((f.a, 1000), to).extension(Extension::Destination, &[0; 390]);
    let cannot = DropReason::ProtocolNotTranslated;
    for (to, before) in [(f.node, None), (f.outside, Some(cannot)), (f.unmasked, None), (f.b, None)] {
        for (name, frame) in [("many", hidden(to)), ("long", long(to))] {
            match before {
                Some(reason) => scene.expect_drop(name, reason, |scene| scene.a_says(frame)),
                None => drop(scene.expect_no_drop(name, |scene| scene.a_says(frame))),
            }
        }
    }
    protect(&mut scene, &[Talk::Udp], &f);
    for to in [f.node, f.outside] {
        for (name, frame) in [("many", hidden(to)), ("long", long(to))] {
            scene.expect_drop(name, REFUSED, |scene| scene.a_says(frame));
        }
    }
    // As many as are walked hide nothing.
    let few = |port| {
        let frame = Frame::udp((f.a, 1000), (f.node, port));
        (0..8).fold(frame, |frame, _| frame.extension(Extension::Destination, &[]))
    };
    scene.expect_drop("eight", REFUSED, |scene| scene.a_says(few(SERVER_PORT)));
    scene.expect_no_drop("eight, another port", |scene| scene.a_says(few(SERVER_PORT + 1)));
    for to in [f.unmasked, f.b] {
        scene.expect_no_drop("no node's", |scene| scene.a_says(hidden(to)));
    }
}

const REFUSED: DropReason = DropReason::ProtectedPort;
/// Those that have ports.
const TALKS: [Talk; 3] = [Talk::Tcp, Talk::Udp, Talk::Sctp];

fn scene(talks: &[Talk], f: &Family) -> Scene {
    let mut scene = Scene::new();
    protect(&mut scene, talks, f);
    scene
}

/// Protects the server's port of these protocols, and nothing else.
fn protect(scene: &mut Scene, talks: &[Talk], f: &Family) {
    let ports: Vec<_> = talks.iter().map(|talk| (talk.number(f), SERVER_PORT)).collect();
    scene.protect(&ports);
}

/// Another node's own address, which comes in by no uplink.
fn node() -> Route {
    Route { flags: ROUTE_PEER, ..Route::new(RouteKind::Stack, false) }
}

fn protected_ports_of_the_own_node_are_refused(f: Family) {
    for listed in TALKS {
        let scene = scene(&[listed], &f);
        let name = |name| format!("{name}, {listed:?} protected");
        for ttl in [64, 1] {
            let frame = listed.question((f.a, 1000), f.node).ttl(ttl);
            scene.expect_drop(&name("the port"), REFUSED, |scene| scene.a_says(frame));
        }
        for talk in Talk::ALL.into_iter().filter(|talk| *talk != listed) {
            let frame = talk.question((f.a, 1000), f.node);
            let ran = scene.expect_no_drop(&name("another protocol"), |scene| scene.a_says(frame));
            assert_eq!(ran.code, NEXT, "{talk:?}");
        }
        for port in [SERVER_PORT - 1, SERVER_PORT + 1, SERVER_PORT + 64] {
            let frame = Frame::udp((f.a, 1000), (f.node, port));
            assert_eq!(scene.expect_no_drop("another port", |scene| scene.a_says(frame)).code, NEXT);
        }
        for (to, code) in
            [(f.b, REDIRECT), (f.outside, REDIRECT), (f.unmasked, REDIRECT), (f.vpn, NEXT), (f.nobody, NEXT)]
        {
            let frame = listed.question((f.a, 1000), to);
            let ran = scene.expect_no_drop(&name("no node's"), |scene| scene.a_says(frame));
            assert_eq!(ran.code, code, "{to}");
        }
        let about = listed.question((f.node, 1), f.a).packet();
        let error = Frame::error(f.a, f.node, ErrorKind::Unreachable(3), &about, usize::MAX);
        assert_eq!(scene.expect_no_drop("an error", |scene| scene.a_says(error)).code, NEXT);
        // What the node itself says is nobody's to refuse.
        let own = listed.question((f.node, 1000), f.a).bytes();
        scene.to_a(&own, 0).assert_untouched("the node asks a pod", &own);
    }
}

/// An address of an interface that the tables do not name: it has just come, or is a local route.
fn protected_ports_of_what_the_kernel_delivers_are_refused(f: Family) {
    let to: IpAddr = f.pick("192.0.2.1", "2001:db8:77::1").parse().expect("address");
    let scene = scene(&[Talk::Tcp], &f);
    for ttl in [64, 1] {
        let say = |talk: Talk| talk.question((f.a, 1000), to).ttl(ttl);
        scene.expect_drop("the port", REFUSED, |scene| scene.a_says(say(Talk::Tcp)));
        let ran = scene.expect_no_drop("another protocol", |scene| scene.a_says(say(Talk::Udp)));
        assert_eq!(ran.code, NEXT, "to the stack");
        // The stack has to answer this one.
        let out = Talk::Tcp.question((f.a, 1000), f.outside).payload(vec![0; 1600]);
        assert_eq!(scene.expect_no_drop("too large", |scene| scene.a_says(out)).code, NEXT);
    }
}

fn protected_ports_of_other_nodes_are_refused_where_a_flow_begins(f: Family) {
    // Masqueraded; with the pod's address; by what is no uplink.
    for (to, code) in [(f.outside, REDIRECT), (f.unmasked, REDIRECT), (f.vpn, NEXT)] {
        let mut scene = Scene::new();
        let a = scene.a.ifindex;
        scene.belongs(to, node());
        let say = |talk: Talk, port| talk.question((f.a, port), to);
        for talk in TALKS {
            assert_eq!(scene.a_says(say(talk, 40_000)).code, code, "{talk:?}, before");
        }
        protect(&mut scene, &TALKS, &f);
        for talk in TALKS {
            let name = format!("{talk:?} to {to}");
            scene.expect_drop(&name, REFUSED, |scene| scene.a_says(say(talk, 1000)));
            if to != f.vpn {
                let forwarded = say(talk, 1000).macs(GATEWAY_MAC, GATEWAY_MAC).bytes();
                scene.expect_drop(&name, REFUSED, |scene| scene.leaves(&forwarded, a, 0));
                // Nobody asks again: the agent ends those flows.
                let ran = scene.expect_no_drop(&name, |scene| scene.a_says(say(talk, 40_000)));
                assert_eq!(ran.code, code, "{name}: a flow that is known");
            }
            let other = Frame::udp((f.a, 1000), (to, SERVER_PORT + 1));
            assert_eq!(scene.expect_no_drop(&name, |scene| scene.a_says(other)).code, code, "another port");
        }
        let echo = say(Talk::Echo, 9);
        assert_eq!(scene.expect_no_drop("an echo", |scene| scene.a_says(echo)).code, code);
        let gone = scene.flows.remove_if(|key, _| key.dport == SERVER_PORT.to_be()).expect("flows");
        assert_eq!(gone, 3, "{:?}", scene.pairs());
        for talk in TALKS {
            scene.expect_drop("its flow ended", REFUSED, |scene| scene.a_says(say(talk, 40_000)));
        }
        let left = scene.pairs();
        assert!(left.iter().all(|pair| pair.key.dport != SERVER_PORT.to_be()), "{left:?}");
    }
}

fn protected_ports_are_refused_by_every_part_of_a_datagram(f: Family) {
    let mut scene = scene(&[Talk::Udp], &f);
    scene.belongs(f.outside, node());
    for (to, id) in [(f.node, 1), (f.outside, 2)] {
        let whole = Talk::Udp.question((f.a, 1000), to).payload(vec![7; 4000]).identification(id);
        for (n, part) in fragments(whole.macs(scene.a.mac, GATEWAY_MAC), 1500).iter().enumerate() {
            scene.expect_drop(&format!("part {n} to {to}"), REFUSED, |scene| scene.from_a(part));
        }
        // Without a first part it never becomes a datagram.
        let alone = Frame::raw(f.a, to, 17).fragment(9, false).identification(id + 10);
        scene.expect_no_drop("a later part alone", |scene| scene.a_says(alone));
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn protected_ports_are_refused_to_pods_of_other_nodes(f: Family) {
    let mut scene = scene(&TALKS, &f);
    const HERE: u16 = 1;
    let own = |kind| Route { uplinks: HERE, flags: ROUTE_PEER, ..Route::new(kind, false) };
    scene.all_belong(&[(f.outside, own(RouteKind::Fib)), (f.other, own(RouteKind::Stack))]);
    for talk in TALKS {
        let knock = |from, to| talk.question((from, 1000), to);
        scene.expect_drop("a pod", REFUSED, |scene| scene.router_says(knock(f.outside, f.node)));
        for (name, from) in [("a node", f.other), ("somebody outside", f.unmasked)] {
            let packet = from_router(knock(from, f.node));
            scene.expect_no_drop(name, |scene| scene.from_wire(&packet)).assert_untouched(name, &packet);
        }
        let ran =
            scene.expect_no_drop("pods among each other", |scene| scene.router_says(knock(f.outside, f.a)));
        assert_eq!(ran.code, REDIRECT);
    }
    let whole = Talk::Udp.question((f.outside, 1000), f.node).payload(vec![7; 4000]).identification(5);
    for part in fragments(whole.macs(GATEWAY_MAC, GATEWAY_MAC), 1500) {
        scene.expect_drop("in parts", REFUSED, |scene| scene.from_wire(&part));
    }
    let echo = from_router(Talk::Echo.question((f.outside, SERVER_PORT), f.node));
    scene.expect_no_drop("an echo", |scene| scene.from_wire(&echo)).assert_untouched("an echo", &echo);
}

fn protected_ports_are_the_nodes_even_if_they_are_published(f: Family) {
    let mut scene = scene(&[Talk::Tcp], &f);
    let (a, b) = (scene.a, scene.b);
    scene.publish((f.node, SERVER_PORT), a, (f.a, 80));
    for pod in [a, b] {
        let frame = Talk::Tcp.question((pod.address(&f), 1000), f.node);
        scene.expect_drop("by a pod here", REFUSED, |scene| scene.says(pod, frame));
    }
    let led = scene.says(b, Talk::Udp.question((f.b, 1000), f.node));
    assert_eq!(see(&led.packet).destination, f.a, "another protocol");
    let ran = scene.router_says(Talk::Tcp.question((f.unmasked, 1000), f.node));
    assert_eq!((ran.code, see(&ran.packet).destination), (REDIRECT, f.a), "from outside");
    scene.datapath.set_protected(&BTreeMap::new()).expect("written");
    let led = scene.says(b, Talk::Tcp.question((f.b, 1000), f.node));
    assert_eq!(see(&led.packet).destination, f.a, "protected no more");
}
