//! `from_uplink`.

use netpath_common::abi::{DropReason, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{
        ACK, ErrorKind, Extension, Frame, RST, SYN, SYN_ACK, advertisement, arp, router_advertisement, see,
        solicitation,
    },
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, ROUTER_MAC, Scene, Talk, from_router},
};

for_both_families!(
    an_answer_goes_back_to_its_pod,
    options_and_extension_headers_do_not_hide_an_answer,
    what_is_the_nodes_is_left_alone,
    a_pods_own_address_is_reached_only_by_who_may,
    the_last_hop_of_an_answer_ends_here,
    the_answer_to_a_pod_that_is_gone_is_the_stacks,
    a_pods_address_does_not_come_from_the_wire,
    the_peer_of_an_earlier_pod_is_not_let_in,
    a_question_does_not_pass_for_the_answer,
);

fn an_answer_goes_back_to_its_pod(f: Family) {
    let scene = Scene::new();
    let a = scene.a;
    // Ports in the range and outside of it: kept and moved.
    for port in [40_000, 1000] {
        for talk in Talk::PORTS {
            let binding = talk.open(&scene, &f, port).seen.source_port;
            let ran = scene.router_says(talk.answer(f.outside, (f.node, binding)));
            assert_eq!(ran.code, REDIRECT, "{talk:?} {port}");
            let seen = see(&ran.packet);
            assert_eq!((seen.source, seen.source_port), (f.outside, talk.server_port(port)), "{talk:?}");
            assert_eq!((seen.destination, seen.destination_port), (f.a, port), "{talk:?}: {seen:?}");
            assert_eq!((ran.macs(), seen.ttl), ((GATEWAY_MAC, a.mac), 63), "{talk:?}");
        }
    }
    assert_eq!(scene.traffic(TrafficClass::Reply), 6);
    let pairs = scene.pairs();
    assert!(pairs.iter().all(|pair| pair.reply.expect("reply").packets == 1), "{pairs:?}");
    assert_eq!(scene.datapath.readings().pod_counter(a.id).unwrap().rx_packets, 6);
}

fn options_and_extension_headers_do_not_hide_an_answer(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        let binding = talk.open(&scene, &f, 1000).seen.source_port;
        let answer = talk.answer(f.outside, (f.node, binding));
        let answer = if f.is_v4() {
            answer.options(&[1; 12])
        } else {
            answer.extension(Extension::HopByHop, &[5, 2, 0, 0]).extension(Extension::Destination, &[0; 14])
        };
        let ran = scene.router_says(answer);
        let seen = see(&ran.packet);
        assert_eq!(ran.code, REDIRECT, "{talk:?}: {seen:?}");
        assert_eq!((seen.destination, seen.destination_port), (f.a, 1000), "{talk:?}: {seen:?}");
    }
}

fn what_is_the_nodes_is_left_alone(f: Family) {
    let scene = Scene::new();
    Talk::Udp.open(&scene, &f, 40_000);
    let mut damaged = from_router(Talk::Udp.answer(f.outside, (f.node, 40_000)));
    damaged[14] ^= 0x20;
    let mut rows = vec![
        ("another port", from_router(Talk::Udp.answer(f.outside, (f.node, 40_001)))),
        ("another sender", from_router(Talk::Udp.answer(f.unmasked, (f.node, 40_000)))),
        ("another protocol", from_router(Talk::Tcp.answer(f.outside, (f.node, 40_000)))),
        ("no ports", from_router(Frame::raw(f.outside, f.node, 47))),
        ("damaged", damaged),
        ("another EtherType", [&[0xff; 12][..], &[0x88, 0xcc], &[0; 46]].concat()),
    ];
    let other_mac = [2, 7, 7, 7, 7, 7];
    if f.is_v4() {
        let mut request = arp(true, ROUTER_MAC, (ROUTER_MAC, f.outside), f.node);
        request.extend([0; 18]);
        rows.push(("ARP", request));
    } else {
        let router = "fe80::7".parse::<std::net::Ipv6Addr>().expect("address");
        let found = advertisement(ROUTER_MAC, f.router, f.node, f.router, 0x40).macs(ROUTER_MAC, GATEWAY_MAC);
        rows.push(("solicitation", solicitation(ROUTER_MAC, f.router, f.node, Some(ROUTER_MAC)).bytes()));
        rows.push(("advertisement", found.bytes()));
        rows.push(("router advertisement", router_advertisement(other_mac, router).bytes()));
    }
    for (name, packet) in rows {
        let ran = scene.expect_no_drop(name, |scene| scene.from_wire(&packet));
        ran.assert_untouched(name, &packet);
    }
}

fn a_pods_own_address_is_reached_only_by_who_may(f: Family) {
    let mut scene = Scene::new();
    let a = scene.a;
    let knock = from_router(Frame::tcp((f.outside, 5000), (f.a, 80), SYN));
    let denied = DropReason::InboundDenied;
    scene.expect_drop("from outside", denied, |scene| scene.from_wire(&knock));
    let part = Frame::raw(f.outside, f.a, 17).fragment(9, false);
    // Of which nobody knows yet whether it was asked for.
    let unknown = DropReason::FragmentOutOfOrder;
    scene.expect_drop("part of a datagram from outside", unknown, |scene| scene.router_says(part));

    scene.a_says(Talk::Udp.question((f.a, 1000), f.unmasked));
    let answer = scene.router_says(Talk::Udp.answer(f.unmasked, (f.a, 1000)));
    assert_eq!((answer.code, answer.macs().1), (REDIRECT, a.mac), "an answer is let in");

    scene.allow_inbound();
    let opened = scene.from_wire(&knock);
    opened.assert_forwarded("inbound = any", &knock);
    assert_eq!(opened.macs(), (GATEWAY_MAC, a.mac));
    let answer = Frame::tcp((f.a, 80), (f.outside, 5000), SYN_ACK).macs(a.mac, GATEWAY_MAC).bytes();
    scene.from_a(&answer).assert_forwarded("its answer is not translated", &answer);
    let flows = scene.pairs().len();
    for hops in [0, 1] {
        for talk in Talk::ALL {
            let late = from_router(talk.question((f.outside, 5001), f.a).ttl(hops));
            let name = format!("{talk:?}, hop {hops}: the stack answers");
            scene.expect_no_drop(&name, |scene| scene.from_wire(&late)).assert_untouched(&name, &late);
        }
    }
    assert_eq!(scene.pairs().len(), flows, "nothing got through: {:?}", scene.pairs());
}

fn the_last_hop_of_an_answer_ends_here(f: Family) {
    let scene = Scene::new();
    Talk::Udp.open(&scene, &f, 40_000);
    let answer = Talk::Udp.answer(f.outside, (f.node, 40_000)).ttl(1);
    scene.expect_drop("TTL 1", DropReason::TtlExpired, |scene| scene.router_says(answer));
}

fn the_answer_to_a_pod_that_is_gone_is_the_stacks(f: Family) {
    let mut scene = Scene::new();
    Talk::Tcp.open(&scene, &f, 40_000);
    scene.remove_pod(scene.a);
    let answer = from_router(Frame::tcp((f.outside, 443), (f.node, 40_000), SYN_ACK));
    scene.from_wire(&answer).assert_untouched("nobody's answer", &answer);
}

fn a_pods_address_does_not_come_from_the_wire(f: Family) {
    let scene = Scene::new();
    Talk::Tcp.open(&scene, &f, 40_000);
    let rows = [
        ("into its own flow", Frame::tcp((f.a, 40_000), (f.outside, 443), RST)),
        ("to the node", Frame::udp((f.a, 1), (f.node, 53))),
        ("to another pod", Frame::udp((f.a, 1), (f.b, 53))),
        ("part of a datagram", Frame::raw(f.a, f.b, 17).fragment(9, false)),
    ];
    let before = scene.pairs();
    for (name, frame) in rows {
        scene.expect_drop(name, DropReason::SpoofedSource, |scene| scene.router_says(frame));
    }
    assert_eq!(scene.pairs(), before, "and keeps no flow alive");
}

fn the_peer_of_an_earlier_pod_is_not_let_in(f: Family) {
    let mut scene = Scene::new();
    for talk in Talk::ALL {
        scene.a_says(talk.question((f.a, 1000), f.unmasked));
    }
    let received = Talk::Udp.question((f.a, 1000), f.unmasked).packet();
    let error = Frame::error(f.router, f.a, ErrorKind::Unreachable(1), &received, usize::MAX);
    let a = scene.a;
    scene.set_pod_number(a, 77);
    scene.expect_drop("an ICMP error", DropReason::InboundDenied, |scene| scene.router_says(error));
    for talk in Talk::ALL {
        let answer = talk.answer(f.unmasked, (f.a, 1000));
        let name = format!("{talk:?}");
        scene.expect_drop(&name, DropReason::InboundDenied, |scene| scene.router_says(answer));
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn a_question_does_not_pass_for_the_answer(f: Family) {
    let scene = Scene::new();
    Talk::Echo.open(&scene, &f, 40_000);
    let question = from_router(Frame::echo(f.outside, f.node, true, 40_000, 1));
    scene.from_wire(&question).assert_untouched("the node answers it itself", &question);
    let answer = scene.router_says(Talk::Echo.answer(f.outside, (f.node, 40_000)));
    assert_eq!((answer.code, see(&answer.packet).destination), (REDIRECT, f.a));
    let stray = from_router(Frame::tcp((f.outside, 40_000), (f.node, 40_000), ACK));
    assert_eq!(scene.from_wire(&stray).code, NEXT, "an identifier is no TCP port");
}
