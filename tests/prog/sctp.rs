//! SCTP: its CRC32c covers the ports but no address, so that the address is translated and the port stays.

use netpath_common::abi::DropReason;
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, Frame, fragments, reassemble, see},
    scene::{Family, GATEWAY_MAC, REDIRECT, Scene, Talk, from_router},
};

for_both_families!(
    to_outside_only_the_address_changes,
    the_answer_comes_back,
    a_port_that_another_pod_has_is_refused_and_not_changed,
    in_pieces_it_is_translated_as_well,
);

/// The port cannot change, and another flow to this destination has it.
const PORT_TAKEN: DropReason = DropReason::SnatPortTaken;

fn to_outside_only_the_address_changes(f: Family) {
    let scene = Scene::new();
    // In the range, outside of it on both sides, and the largest.
    for port in [40_000, 1000, 60_000, u16::MAX] {
        let name = format!("port {port}");
        let packet = Talk::Sctp.question((f.a, port), f.outside).macs(scene.a.mac, GATEWAY_MAC).bytes();
        for _ in 0..2 {
            let ran = scene.expect_no_drop(&name, |scene| scene.from_a(&packet));
            let seen = see(&ran.packet);
            assert_eq!(
                (ran.code, seen.source, seen.source_port),
                (REDIRECT, f.node, port),
                "{name}: {seen:?}"
            );
            assert_eq!((seen.destination, seen.ttl), (f.outside, 63), "{name}: {seen:?}");
            let at = f.transport();
            assert_eq!(ran.packet[at..], packet[at..], "{name}: ports, CRC and chunks");
        }
    }
    let pairs = scene.pairs();
    assert!(pairs.len() == 4 && pairs.iter().all(|pair| pair.original.packets == 2), "{pairs:?}");
}

fn the_answer_comes_back(f: Family) {
    let scene = Scene::new();
    for port in [40_000, 1000] {
        let name = format!("port {port}");
        Talk::Sctp.open(&scene, &f, port);
        let answer = from_router(Talk::Sctp.answer(f.outside, (f.node, port)));
        let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&answer));
        let seen = see(&ran.packet);
        assert_eq!((ran.code, ran.macs()), (REDIRECT, (GATEWAY_MAC, scene.a.mac)), "{name}: {seen:?}");
        assert_eq!((seen.destination, seen.destination_port, seen.ttl), (f.a, port, 63), "{name}: {seen:?}");
        let at = f.transport();
        assert_eq!(ran.packet[at..], answer[at..], "{name}: ports, CRC and chunks");
    }
    let other = from_router(Talk::Sctp.answer(f.outside, (f.node, 2000)));
    scene.from_wire(&other).assert_untouched("the node's", &other);
}

fn a_port_that_another_pod_has_is_refused_and_not_changed(f: Family) {
    let scene = Scene::new();
    for port in [40_000, 1000] {
        let name = format!("port {port}");
        Talk::Sctp.open(&scene, &f, port);
        let flows = scene.pairs().len();
        let of_b = |to| Talk::Sctp.question((f.b, port), to);
        scene.expect_drop(&name, PORT_TAKEN, |scene| scene.says(scene.b, of_b(f.outside)));
        assert_eq!(scene.pairs().len(), flows, "{name}: nothing half-made: {:?}", scene.pairs());
        let ran = scene.expect_no_drop(&name, |scene| scene.says(scene.b, of_b(f.other)));
        let seen = see(&ran.packet);
        assert_eq!(
            (ran.code, seen.source, seen.source_port),
            (REDIRECT, f.node, port),
            "another peer: {seen:?}"
        );
        let another_port = Frame::sctp((f.b, port), (f.outside, 5000));
        let ran = scene.expect_no_drop(&name, |scene| scene.says(scene.b, another_port));
        let seen = see(&ran.packet);
        assert_eq!((ran.code, seen.source_port), (REDIRECT, port), "another port of the peer: {seen:?}");
        // A UDP flow of the same port is another matter.
        assert_eq!(scene.says(scene.b, Talk::Udp.question((f.b, port), f.outside)).code, REDIRECT, "{name}");
        let ran =
            scene.expect_no_drop(&name, |scene| scene.a_says(Talk::Sctp.question((f.a, port), f.outside)));
        assert_eq!(ran.code, REDIRECT, "{name}: the first pod's flow goes on");
    }
}

fn in_pieces_it_is_translated_as_well(f: Family) {
    let scene = Scene::new();
    let frame = Talk::Sctp.question((f.a, 1000), f.outside).payload(vec![7; 4000]).identification(5);
    let left: Vec<_> = fragments(frame.macs(scene.a.mac, GATEWAY_MAC), 1500)
        .iter()
        .map(|part| scene.expect_no_drop("piece", |scene| scene.from_a(part)).packet)
        .collect();
    let whole = reassemble(&left);
    let seen = see(&whole);
    assert_eq!((seen.source, seen.source_port), (f.node, 1000), "{seen:?}");
    assert!(whole.len() > ETHERNET + f.header() + 4000, "{} bytes", whole.len());
}
