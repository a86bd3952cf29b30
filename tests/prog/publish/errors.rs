//! What the node's stack, routers and pods say about packets by a published port.

use std::net::IpAddr;

use netpath_common::abi::{DropReason, ENDPOINT_PUBLISHES, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Frame, Seen, see},
    scene::{DROP, Family, GATEWAY_MAC, NEXT, REDIRECT, Ran},
};

use super::{CLIENT, POD_PORT, PORT, TALKS, ends, hairpin, packet, port_of, scene};

for_both_families!(
    what_the_stack_must_answer_it_gets_translated,
    the_stacks_answers_about_it_name_the_nodes_port,
    the_last_hop,
    errors_about_it_reach_who_sent_what,
    errors_between_pods_and_of_a_pod_about_itself,
    nobody_else_ends_a_flow_by_an_error,
);

fn into_pod(name: &str, ran: &Ran, mac: [u8; 6]) -> Vec<u8> {
    assert_eq!((ran.code, ran.macs().1), (REDIRECT, mac), "{name}: {:?}", see(&ran.packet));
    ran.packet.clone()
}

/// The embedded packet is the one that was sent, byte for byte where the transport begins.
fn about(name: &str, seen: &Seen, f: &Family, from: (IpAddr, u16), to: (IpAddr, u16), sent: &Frame) {
    let inner = seen.inner.as_ref().unwrap_or_else(|| panic!("{name}: no embedded packet in {seen:?}"));
    assert_eq!((inner.source, inner.source_port), from, "{name}: {inner:?}");
    assert_eq!((inner.destination, inner.destination_port), to, "{name}: {inner:?}");
    let sent = &sent.clone().packet()[f.header()..];
    assert_eq!(inner.segment, sent[..inner.segment.len()], "{name}: transport as it was sent");
}

fn what_the_stack_must_answer_it_gets_translated(f: Family) {
    let mut scene = scene(&f);
    scene.change_endpoint(scene.a, |endpoint| {
        (endpoint.mtu, endpoint.flags) = (1300, endpoint.flags | ENDPOINT_PUBLISHES);
    });
    let content = vec![7; 1350];
    scene.a_says(Frame::udp((f.a, CLIENT), (f.node, PORT)));
    let b = scene.b;
    let outside = Frame::udp((f.outside, CLIENT), (f.node, PORT)).payload(content.clone());
    let inside = Frame::udp((f.b, CLIENT), (f.node, PORT)).payload(content.clone());
    for (name, ran, from) in
        [("outside", scene.router_says(outside), f.outside), ("inside", scene.says(b, inside), f.b)]
    {
        let seen = see(&ran.packet);
        assert_eq!((ran.code, seen.ttl), (NEXT, 64), "{name}: {seen:?}");
        assert_eq!(ends(&seen), ((from, CLIENT), (f.a, POD_PORT)), "{name}: {seen:?}");
        // Forwarded, perhaps in pieces, it is let in.
        let ingress = if from == f.b { b.ifindex } else { scene.uplink };
        scene
            .expect_no_drop(name, |scene| scene.to_a(&ran.packet, ingress))
            .assert_untouched(name, &ran.packet);
        let stray = Frame::udp((from, CLIENT + 1), (f.a, POD_PORT)).bytes();
        let forged = Frame::udp((hairpin(&f), CLIENT), (f.a, POD_PORT)).bytes();
        scene.expect_drop("to itself, from elsewhere", DropReason::InboundDenied, |scene| {
            scene.to_a(&forged, scene.vpn)
        });
        if from == f.outside {
            scene.expect_drop("no flow", DropReason::InboundDenied, |scene| scene.to_a(&stray, ingress));
        }
    }
    assert_eq!(scene.traffic(TrafficClass::ToStack), 2);
    // An answer that is too large for the other pod is translated on its way out of the stack.
    scene.change_endpoint(b, |endpoint| endpoint.mtu = 1300);
    let answer =
        Frame::udp((f.a, POD_PORT), (f.b, CLIENT)).payload(content).macs(scene.a.mac, GATEWAY_MAC).bytes();
    scene.from_a(&answer).assert_untouched("too large", &answer);
    let seen = see(&scene.to_pod(b, &answer, scene.a.ifindex).packet);
    assert_eq!(ends(&seen), ((f.node, PORT), (f.b, CLIENT)), "{seen:?}");
}

fn the_stacks_answers_about_it_name_the_nodes_port(f: Family) {
    let scene = scene(&f);
    let b = scene.b;
    let outside = scene.router_says(Frame::udp((f.outside, CLIENT), (f.node, PORT))).packet;
    let inside = scene.says(b, Frame::udp((f.b, CLIENT), (f.node, PORT))).packet;
    for (client, led) in [(f.outside, outside), (f.b, inside)] {
        let error =
            Frame::error(f.node, client, ErrorKind::TooBig(1300), &led[ETHERNET..], usize::MAX).bytes();
        let ran = if client == f.b { scene.to_pod(b, &error, 0) } else { scene.leaves(&error, 0, 0) };
        let seen = see(&ran.packet);
        let inner = seen.inner.as_ref().expect("an embedded packet");
        assert_eq!((ran.code, seen.source, seen.destination), (NEXT, f.node, client), "{seen:?}");
        assert_eq!((inner.source, inner.source_port), (client, CLIENT), "{seen:?}");
        assert_eq!((inner.destination, inner.destination_port), (f.node, PORT), "{seen:?}");
    }
    // About something else it stays as it is.
    let other = Frame::udp((f.b, 1), (f.a, 2)).packet();
    let error = Frame::error(f.node, f.b, ErrorKind::TooBig(1300), &other, usize::MAX).bytes();
    scene.to_pod(b, &error, 0).assert_untouched("no such flow", &error);
}

fn the_last_hop(f: Family) {
    let scene = scene(&f);
    for (name, ran) in [
        ("outside", scene.router_says(Frame::udp((f.outside, CLIENT), (f.node, PORT)).ttl(1))),
        ("inside", scene.says(scene.b, Frame::udp((f.b, CLIENT), (f.node, PORT)).ttl(1))),
    ] {
        let seen = see(&ran.packet);
        assert_eq!(
            (ran.code, seen.destination, seen.ttl),
            (NEXT, f.a, 1),
            "{name}: the stack answers: {seen:?}"
        );
    }
    for frame in [
        Frame::udp((f.a, CLIENT), (f.node, PORT)).ttl(1),
        Frame::udp((f.a, POD_PORT), (hairpin(&f), CLIENT)).ttl(1),
    ] {
        scene.expect_drop("to itself", DropReason::TtlExpired, |scene| scene.a_says(frame));
    }
}

fn errors_about_it_reach_who_sent_what(f: Family) {
    let scene = scene(&f);
    let a = scene.a;
    for talk in TALKS {
        let sent = packet(talk, (f.outside, CLIENT), (f.node, PORT), false);
        let led = scene.router_says(sent.clone()).packet;
        let answered = packet(talk, (f.a, port_of(talk)), (f.outside, CLIENT), true);
        let left = scene.a_says(answered.clone()).packet;
        for embed in [f.header() + 8, usize::MAX] {
            let name = format!("{talk:?}, {embed} bytes");
            // A router about what the pod has answered.
            let error = Frame::error(f.router, f.node, ErrorKind::TooBig(1300), &left[ETHERNET..], embed);
            let seen = see(&into_pod(&name, &scene.router_says(error), a.mac));
            assert_eq!((seen.source, seen.destination), (f.router, f.a), "{name}: {seen:?}");
            about(&name, &seen, &f, (f.a, port_of(talk)), (f.outside, CLIENT), &answered);
            // The pod about what came.
            let error = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &led[ETHERNET..], embed);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(error));
            let seen = see(&ran.packet);
            assert_eq!((ran.code, seen.source, seen.destination), (REDIRECT, f.node, f.outside), "{name}");
            about(&name, &seen, &f, (f.outside, CLIENT), (f.node, PORT), &sent);
        }
    }
}

fn errors_between_pods_and_of_a_pod_about_itself(f: Family) {
    let scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    for talk in TALKS {
        for (client, pod, shown) in [(f.b, b, f.b), (f.a, a, hairpin(&f))] {
            let name = format!("{talk:?}, {client}");
            let sent = packet(talk, (client, CLIENT), (f.node, PORT), false);
            let led = scene.says(pod, sent.clone()).packet;
            let error = Frame::error(f.a, shown, ErrorKind::Unreachable(3), &led[ETHERNET..], usize::MAX);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(error));
            let seen = see(&into_pod(&name, &ran, pod.mac));
            assert_eq!((seen.source, seen.destination), (f.node, client), "{name}: {seen:?}");
            about(&name, &seen, &f, (client, CLIENT), (f.node, PORT), &sent);
        }
        // Of the client, about an answer that it no longer wants.
        let answered = packet(talk, (f.a, port_of(talk)), (f.b, CLIENT), true);
        let got = scene.a_says(answered.clone()).packet;
        let error = Frame::error(f.b, f.node, ErrorKind::Unreachable(3), &got[ETHERNET..], usize::MAX);
        let seen = see(&into_pod("the client's", &scene.says(b, error), a.mac));
        assert_eq!((seen.source, seen.destination), (f.b, f.a), "{talk:?}: {seen:?}");
        about("the client's", &seen, &f, (f.a, port_of(talk)), (f.b, CLIENT), &answered);
    }
}

fn nobody_else_ends_a_flow_by_an_error(f: Family) {
    let scene = scene(&f);
    scene.router_says(Frame::udp((f.outside, CLIENT), (f.node, PORT)));
    // Pod B in the client's place; the node's stack knows no such socket.
    let about = Frame::udp((f.node, PORT), (f.outside, CLIENT)).packet();
    let forged = Frame::error(f.b, f.node, ErrorKind::Unreachable(3), &about, usize::MAX);
    let forged = forged.macs(scene.b.mac, GATEWAY_MAC).bytes();
    scene.from(scene.b, &forged).assert_untouched("forged", &forged);
    // Pod B in the place of the pod behind the port.
    let about = Frame::udp((f.outside, CLIENT), (f.a, POD_PORT)).packet();
    let forged = Frame::error(f.b, f.outside, ErrorKind::Unreachable(3), &about, usize::MAX);
    assert_eq!(scene.says(scene.b, forged).code, DROP);
}
