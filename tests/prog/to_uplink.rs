//! `to_uplink`: invariant 1.

use std::net::IpAddr;

use netpath_common::abi::{DropReason, Link, NODE_FLAG_POOL};
use netpath_tests::{
    for_both_families, kernel,
    packet::{
        ACK, ErrorKind, Frame, SYN, arp, fragments, reassemble, router_solicitation, see, solicitation,
    },
    scene::{Family, GATEWAY_MAC, NEXT, Ran, Scene, Talk},
};

for_both_families!(
    what_from_pod_finished_passes_and_loses_its_mark,
    what_is_the_nodes_passes,
    what_the_stack_forwards_for_a_pod_is_translated,
    what_did_not_come_by_the_pods_link_does_not_leave,
    what_the_stack_cut_is_translated_in_pieces,
    a_new_binding_has_the_routes_source,
    an_icmp_error_that_the_stack_forwards_is_translated,
    what_cannot_be_translated_does_not_leave,
);

fn forwarded(scene: &Scene, frame: Frame) -> Ran {
    scene.leaves(&frame.ttl(63).bytes(), scene.a.ifindex, 0)
}

fn what_from_pod_finished_passes_and_loses_its_mark(f: Family) {
    let scene = Scene::new();
    let ran = scene.a_says(Frame::udp((f.a, 40_000), (f.outside, 53)));
    assert_ne!(ran.mark, 0, "from_pod says that it is finished");
    let left = scene.leaves(&ran.packet, scene.a.ifindex, ran.mark);
    assert_eq!((left.code, left.mark, left.packet), (NEXT, 0, ran.packet));
}

fn what_is_the_nodes_passes(f: Family) {
    let scene = Scene::new();
    let mark = 0x1234;
    let about = Frame::udp((f.outside, 53), (f.node, 1)).packet();
    let error = Frame::error(f.node, f.outside, ErrorKind::Unreachable(3), &about, usize::MAX);
    let mut rows = vec![
        ("its own packet", Frame::udp((f.node, 40_000), (f.outside, 53)).bytes(), 0),
        ("its own fragment", Frame::raw(f.node, f.outside, 17).fragment(9, false).bytes(), 0),
        ("its own ICMP error", error.bytes(), 0),
        ("masqueraded by somebody else", Frame::udp((f.node, 40_000), (f.outside, 53)).bytes(), scene.vpn),
        ("forwarded for others", Frame::udp((f.unmasked, 1), (f.outside, 53)).bytes(), scene.vpn),
    ];
    if f.is_v4() {
        rows.push(("ARP", arp(true, GATEWAY_MAC, (GATEWAY_MAC, f.node), f.router), 0));
    } else {
        let link_local = f.gateway;
        let ask = solicitation(GATEWAY_MAC, f.node, f.router, Some(GATEWAY_MAC));
        rows.push(("solicitation", ask.bytes(), 0));
        let ask = router_solicitation(GATEWAY_MAC, link_local, Some(GATEWAY_MAC));
        rows.push(("router solicitation", ask.bytes(), 0));
    }
    for (name, packet, ingress) in rows {
        let ran = scene.expect_no_drop(name, |scene| scene.leaves(&packet, ingress, mark));
        ran.assert_untouched(name, &packet);
        assert_eq!(ran.mark, mark, "{name}: the mark of others stays");
    }
    let strangers = scene.pairs().into_iter().filter(|pair| pair.original.pod != 0 || pair.is_translated());
    assert_eq!(strangers.count(), 0, "{:?}", scene.pairs());
}

fn what_the_stack_forwards_for_a_pod_is_translated(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        let seen = see(&forwarded(&scene, talk.question((f.a, 40_000), f.outside)).packet);
        assert_eq!(
            (seen.source, seen.source_port, seen.ttl),
            (f.node, 40_000, 63),
            "{talk:?}: a new flow; the stack has counted the hop"
        );
        let binding = talk.open(&scene, &f, 9).seen.source_port;
        let seen = see(&forwarded(&scene, talk.question((f.a, 9), f.outside)).packet);
        assert_eq!((seen.source, seen.source_port), (f.node, binding), "{talk:?}: a known flow's binding");
        let seen = see(&forwarded(&scene, talk.question((f.a, 9), f.unmasked)).packet);
        assert_eq!((seen.source, seen.source_port), (f.a, 9), "{talk:?}: its route says no masquerade");
    }
}

fn what_did_not_come_by_the_pods_link_does_not_leave(f: Family) {
    let mut scene = Scene::new();
    let (b, vpn) = (scene.b, scene.vpn);
    for to in [f.outside, f.unmasked] {
        let frame = Frame::udp((f.b, 1), (to, 53)).bytes();
        for ingress in [vpn, scene.a.ifindex, scene.uplink] {
            let name = format!("by interface {ingress}, to {to}");
            scene.expect_drop(&name, DropReason::SpoofedSource, |scene| scene.leaves(&frame, ingress, 0));
        }
        for ingress in [b.ifindex, 0] {
            scene.expect_no_drop("its own, or the stack's", |scene| scene.leaves(&frame, ingress, 0));
        }
    }
    assert_eq!(scene.pairs().len(), 2, "what is refused makes no flow: {:?}", scene.pairs());
    scene.datapath.set_link(vpn, Link { pod: b.id, ..Link::default() }).expect("link");
    let frame = Frame::udp((f.b, 1), (f.outside, 53)).bytes();
    scene.expect_no_drop("by another of its own", |scene| scene.leaves(&frame, vpn, 0));
}

/// The stack fragments what is larger than the route's MTU: IPv4 only, in IPv6 the pod does.
fn what_the_stack_cut_is_translated_in_pieces(f: Family) {
    let scene = Scene::new();
    for (name, port) in [("port kept", 40_000), ("port moved", 9)] {
        let whole = Frame::udp((f.a, port), (f.outside, 53)).payload(vec![7; 5000]).identification(9).ttl(63);
        let left: Vec<_> = fragments(whole, 1280)
            .iter()
            .map(|part| {
                let ran = scene.expect_no_drop(name, |scene| scene.leaves(part, scene.a.ifindex, 0));
                assert_eq!(ran.code, NEXT, "{name}");
                ran.packet
            })
            .collect();
        let seen = see(&reassemble(&left));
        assert_eq!((seen.source, seen.destination), (f.node, f.outside), "{name}: {seen:?}");
        assert_eq!(seen.source_port == port, port == 40_000, "{name}: {seen:?}");
    }
}

/// As `from_pod` binds, so that a flow has one address whichever way its first packet takes.
fn a_new_binding_has_the_routes_source(f: Family) {
    if kernel::lacks((6, 7), "asking the FIB for a route's source") {
        return;
    }
    let scene = Scene::new();
    let second: IpAddr = f.pick("198.18.5.5", "2001:db8:5::5").parse().expect("address");
    scene.prefer_source(f.outside_net, f.router, second);
    let part = |offset, more| Frame::udp((f.a, 9), (f.outside, 53)).identification(7).fragment(offset, more);
    let rows = [
        ("a later part before its first", part(9, false)),
        ("a datagram", Talk::Udp.question((f.a, 40_000), f.outside)),
        ("a connection", Talk::Tcp.question((f.a, 40_000), f.outside)),
        ("an echo", Talk::Echo.question((f.a, 40_000), f.outside)),
    ];
    for (name, frame) in rows {
        let ran = scene.expect_no_drop(name, |scene| forwarded(scene, frame.clone()));
        assert_eq!((ran.code, see(&ran.packet).source), (NEXT, second), "{name}");
    }
    for talk in [Talk::Udp, Talk::Tcp, Talk::Echo] {
        let fresh = talk.question((f.a, 40_010), f.outside);
        let direct = scene.expect_no_drop("another binding", |scene| scene.a_says(fresh));
        assert_eq!(see(&direct.packet).source, second, "{talk:?}, by from_pod");
    }
    // What the FIB cannot be asked about: nothing is known of where it came in.
    let frame = Talk::Udp.question((f.a, 40_001), f.outside).ttl(63);
    let ran = scene.expect_no_drop("by nobody", |scene| scene.leaves(&frame.bytes(), 0, 0));
    assert_eq!(see(&ran.packet).source, f.node, "the uplink's own");
    // A flow that has its binding keeps it, whatever the route says now.
    scene.prefer_source(f.outside_net, f.router, f.node);
    let ran = forwarded(&scene, Talk::Udp.question((f.a, 40_000), f.outside));
    assert_eq!(see(&ran.packet).source, second, "a live flow");
}

fn an_icmp_error_that_the_stack_forwards_is_translated(f: Family) {
    let scene = Scene::new();
    let binding = Talk::Udp.open(&scene, &f, 9).seen.source_port;
    let received = Talk::Udp.answer(f.outside, (f.a, 9)).packet();
    let error = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &received, f.header() + 8);
    let ran = scene.expect_no_drop("port unreachable", |scene| forwarded(scene, error));
    let seen = see(&ran.packet);
    assert_eq!((ran.code, seen.source, seen.ttl), (NEXT, f.node, 63), "{seen:?}");
    let inner = seen.inner.expect("an embedded packet");
    assert_eq!((inner.destination, inner.destination_port), (f.node, binding), "{inner:?}");
}

fn what_cannot_be_translated_does_not_leave(f: Family) {
    let mut scene = Scene::new();
    let mut damaged = Frame::udp((f.a, 9), (f.outside, 53)).bytes();
    damaged[f.transport() + 4..f.transport() + 6].fill(0xff);
    let about = Frame::udp((f.outside, 53), (f.a, 1)).packet();
    let error = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &about, usize::MAX);
    let gone = |frame: Frame| (frame.bytes(), DropReason::Untranslated);
    let rows = [
        ("GRE", (Frame::raw(f.a, f.outside, 47).bytes(), DropReason::ProtocolNotTranslated)),
        ("ICMP error without a flow", (error.bytes(), DropReason::ProtocolNotTranslated)),
        ("damaged", (damaged, DropReason::Malformed)),
        ("of a pod that has gone", gone(Frame::tcp((f.nobody, 9), (f.outside, 53), ACK))),
        (
            "part of a datagram of one that has gone",
            gone(Frame::raw(f.nobody, f.outside, 17).fragment(9, true)),
        ),
    ];
    for (name, (packet, reason)) in rows {
        scene.expect_drop(name, reason, |scene| scene.leaves(&packet, scene.a.ifindex, 0));
    }
    // A pool, so that the FIB has no say.
    scene.set_node(|node| node.flags = NODE_FLAG_POOL);
    scene.forget_addresses();
    let reason = DropReason::NoSourceAddress;
    let frame = Frame::tcp((f.a, 9), (f.outside, 53), SYN);
    scene.expect_drop("uplink without an address", reason, |scene| forwarded(scene, frame));
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}
