//! Datagrams in pieces: only the first carries the ports, and every piece goes the first one's way.

use netpath::datapath::FlowPair;
use netpath_common::abi::{DropReason, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{Extension, Frame, fragments, reassemble, see, see_fragment},
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, ROUTER_MAC, Scene, Talk},
};

for_both_families!(
    between_pods_they_are_untouched,
    to_outside_all_are_translated,
    answers_in_pieces_come_back,
    out_of_order_from_a_pod_they_are_translated_all_the_same,
    a_later_piece_alone_from_the_wire_is_the_nodes,
    datagrams_of_one_identification_keep_apart,
    without_masquerade_they_leave_as_they_are,
    a_datagram_in_one_piece_is_no_train,
    options_and_extension_headers_stand_in_the_way_of_none,
);

const IDENTIFICATION: u32 = 0x4e50;

/// 16,000 bytes of UDP and 10,000 of echo, both of a prime period, so that no two pieces are alike.
fn large(talk: Talk, from: (std::net::IpAddr, u16), to: std::net::IpAddr) -> Frame {
    talk.question(from, to).payload(content(talk)).identification(IDENTIFICATION)
}

fn content(talk: Talk) -> Vec<u8> {
    let length = if talk == Talk::Echo { 10_000 } else { 16_000 };
    (0..length).map(|n: u32| (n % 251) as u8).collect()
}

const LARGE: [Talk; 2] = [Talk::Udp, Talk::Echo];

fn of_a(scene: &Scene, frame: Frame) -> Vec<Vec<u8>> {
    fragments(frame.macs(scene.a.mac, GATEWAY_MAC), 1500)
}

fn of_the_wire(frame: Frame) -> Vec<Vec<u8>> {
    fragments(frame.macs(ROUTER_MAC, GATEWAY_MAC), 1500)
}

/// Sends the pieces in the order given; each must leave with the node's address, one hop less, and keep its place.
fn left_the_node(scene: &Scene, f: &Family, name: &str, parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let send = |(n, part): (usize, &Vec<u8>)| {
        let name = format!("{name}, piece {n} of {}", parts.len());
        let ran = scene.expect_no_drop(&name, |scene| scene.from_a(part));
        let (seen, piece) = see_fragment(&ran.packet);
        assert_eq!((ran.code, seen.source, seen.ttl), (REDIRECT, f.node, 63), "{name}: {seen:?}");
        assert_eq!(piece, see_fragment(part).1, "{name}: its place in the datagram");
        ran.packet
    };
    parts.iter().enumerate().map(send).collect()
}

/// The datagram is whole, its checksum right, its content what was sent; returns its source port.
fn whole(f: &Family, name: &str, talk: Talk, parts: &[Vec<u8>]) -> u16 {
    let datagram = reassemble(parts);
    let seen = see(&datagram);
    assert_eq!((seen.source, seen.destination), (f.node, f.outside), "{name}: {seen:?}");
    assert!(datagram.ends_with(&content(talk)), "{name}: content");
    seen.source_port
}

fn between_pods_they_are_untouched(f: Family) {
    let scene = Scene::new();
    let mut count = 0;
    for talk in LARGE {
        let parts = of_a(&scene, large(talk, (f.a, 1000), f.b));
        for order in [parts.clone(), parts.iter().rev().cloned().collect()] {
            for part in order {
                let ran = scene.expect_no_drop("piece", |scene| scene.from_a(&part));
                ran.assert_forwarded(&format!("{talk:?}"), &part);
                assert_eq!(ran.macs(), (GATEWAY_MAC, scene.b.mac));
                count += 1;
            }
        }
    }
    assert_eq!(scene.traffic(TrafficClass::Local), count);
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn to_outside_all_are_translated(f: Family) {
    let scene = Scene::new();
    for talk in LARGE {
        for port in [40_000, 1000] {
            let name = format!("{talk:?} from port {port}");
            let parts = of_a(&scene, large(talk, (f.a, port), f.outside));
            let before = scene.traffic(TrafficClass::Translated);
            let left = left_the_node(&scene, &f, &name, &parts);
            let binding = whole(&f, &name, talk, &left);
            assert_eq!(binding == port, port == 40_000, "{name}: left from port {binding}");
            let count = scene.traffic(TrafficClass::Translated) - before;
            assert_eq!(count, parts.len() as u64, "{name}");
            let pairs = scene.pairs();
            let proto =
                f.pick(if talk == Talk::Udp { 17 } else { 1 }, if talk == Talk::Udp { 17 } else { 58 });
            let own = |pair: &&FlowPair| (pair.key.proto, pair.key.sport) == (proto, port.to_be());
            let pair = pairs.iter().find(own).expect("a flow");
            assert_eq!(
                pair.original.packets,
                parts.len() as u64,
                "{name}: every piece is the flow's: {pair:?}"
            );
        }
    }
    assert_eq!(scene.pairs().len(), 4, "no piece makes a flow of its own: {:?}", scene.pairs());
}

fn answers_in_pieces_come_back(f: Family) {
    let scene = Scene::new();
    for talk in LARGE {
        for port in [40_000, 1000] {
            let name = format!("{talk:?} to port {port}");
            let binding = talk.open(&scene, &f, port).seen.source_port;
            let answer = talk.answer(f.outside, (f.node, binding)).payload(content(talk));
            let deliver = |part: &Vec<u8>| {
                let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(part));
                assert_eq!(ran.code, REDIRECT, "{name}: {:?}", see_fragment(part).1);
                assert_eq!(ran.macs(), (GATEWAY_MAC, scene.a.mac), "{name}");
                assert_eq!(see(&ran.packet).ttl, 63, "{name}");
                ran.packet
            };
            let parts = of_the_wire(answer.identification(IDENTIFICATION + u32::from(port)));
            let got: Vec<_> = parts.iter().map(deliver).collect();
            let datagram = reassemble(&got);
            let seen = see(&datagram);
            assert_eq!((seen.source, seen.destination), (f.outside, f.a), "{name}: {seen:?}");
            assert_eq!(seen.destination_port, port, "{name}: {seen:?}");
            assert!(datagram.ends_with(&content(talk)), "{name}: content");
        }
    }
}

/// A later piece needs only the address, which is the same for all of the pod's flows.
fn out_of_order_from_a_pod_they_are_translated_all_the_same(f: Family) {
    let scene = Scene::new();
    // Another identification each time, so that nobody remembers the first piece.
    let mut identification = IDENTIFICATION;
    for talk in LARGE {
        for port in [40_000, 1000] {
            for order in ["swapped", "reversed"] {
                let name = format!("{talk:?} from port {port}, {order}");
                identification += 1;
                let frame = large(talk, (f.a, port), f.outside).identification(identification);
                let mut parts = of_a(&scene, frame);
                if order == "swapped" {
                    parts.swap(0, 1);
                } else {
                    parts.reverse();
                }
                whole(&f, &name, talk, &left_the_node(&scene, &f, &name, &parts));
            }
        }
    }
    assert_eq!(scene.pairs().len(), 4, "{:?}", scene.pairs());
}

/// Nobody can tell whose it is, so it goes to the node's stack; the first piece still finds its pod.
fn a_later_piece_alone_from_the_wire_is_the_nodes(f: Family) {
    let scene = Scene::new();
    for talk in LARGE {
        let name = format!("{talk:?}");
        let binding = talk.open(&scene, &f, 1000).seen.source_port;
        let answer = talk.answer(f.outside, (f.node, binding)).payload(content(talk));
        let parts = of_the_wire(answer.identification(IDENTIFICATION));
        let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&parts[1]));
        ran.assert_untouched(&name, &parts[1]);
        // Its datagram cannot come together any more: that is counted, and told with the first part's ports.
        scene.expect_drop(&name, DropReason::FragmentOutOfOrder, |scene| scene.from_wire(&parts[0]));
        let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&parts[2]));
        ran.assert_untouched(&name, &parts[2]);
        // The next datagram has another identification, and is not spoilt.
        let answer = talk.answer(f.outside, (f.node, binding)).payload(content(talk));
        for part in of_the_wire(answer.identification(IDENTIFICATION + 1)) {
            let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&part));
            assert_eq!(ran.code, REDIRECT, "{name}: {:?}", see_fragment(&part).1);
        }
        // The node's own datagrams stay the node's.
        let own = talk.answer(f.other, (f.node, binding)).payload(content(talk));
        for part in of_the_wire(own.identification(IDENTIFICATION)) {
            let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&part));
            assert_eq!(ran.code, NEXT, "{name}: {:?}", see_fragment(&part).1);
            ran.assert_untouched(&name, &part);
        }
    }
}

fn datagrams_of_one_identification_keep_apart(f: Family) {
    let scene = Scene::new();
    let echo = large(Talk::Echo, (f.a, 1000), f.outside);
    // Two pods' datagrams to one server, and UDP and echo of one pod, piece by piece in turn.
    let trains = [
        (scene.a, Talk::Udp, large(Talk::Udp, (f.a, 1000), f.outside)),
        (scene.b, Talk::Udp, large(Talk::Udp, (f.b, 1000), f.outside)),
        // Over IPv6 the protocol does not tell two datagrams apart (RFC 8200, 4.5): no host would use one for both.
        (scene.a, Talk::Echo, echo.identification(IDENTIFICATION + f.pick(0, 1))),
    ];
    let parts = trains.clone().map(|(pod, _, frame)| fragments(frame.macs(pod.mac, GATEWAY_MAC), 1500));
    let mut left = [vec![], vec![], vec![]];
    for n in 0..parts[0].len() {
        for (train, parts) in parts.iter().enumerate().filter(|(_, parts)| n < parts.len()) {
            let ran = scene.expect_no_drop("piece", |scene| scene.from(trains[train].0, &parts[n]));
            assert_eq!(ran.code, REDIRECT, "train {train}, piece {n}");
            left[train].push(ran.packet);
        }
    }
    let [first, second, _] =
        [0, 1, 2].map(|train| whole(&f, &format!("train {train}"), trains[train].1, &left[train]));
    assert_ne!(first, second, "two pods, two ports");
}

fn without_masquerade_they_leave_as_they_are(f: Family) {
    let scene = Scene::new();
    for (n, talk) in LARGE.into_iter().enumerate() {
        let parts = of_a(&scene, large(talk, (f.a, 1000), f.unmasked));
        for part in parts {
            let name = format!("{talk:?} {:?}", see_fragment(&part).1);
            scene.expect_no_drop(&name, |scene| scene.from_a(&part)).assert_forwarded(&name, &part);
        }
        assert_eq!(scene.pairs().len(), n + 1, "one flow for all pieces: {:?}", scene.pairs());
        let answer = talk.answer(f.unmasked, (f.a, 1000)).payload(content(talk));
        for part in of_the_wire(answer.identification(9)) {
            let name = format!("answer of {talk:?} {:?}", see_fragment(&part).1);
            let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&part));
            ran.assert_forwarded(&name, &part);
        }
    }
}

/// RFC 6946: a fragment header on a whole datagram.
fn a_datagram_in_one_piece_is_no_train(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        let name = format!("{talk:?}");
        let alone = talk.question((f.a, 1000), f.outside).identification(7).fragment(0, false);
        let ran = scene.expect_no_drop(&name, |scene| scene.a_says(alone));
        let left = if f.is_v4() { ran.packet } else { reassemble(&[ran.packet]) };
        let seen = see(&left);
        assert_eq!((ran.code, seen.source), (REDIRECT, f.node), "{name}: {seen:?}");
        let alone = talk.answer(f.outside, (f.node, seen.source_port)).identification(7).fragment(0, false);
        let ran = scene.expect_no_drop(&name, |scene| scene.router_says(alone));
        let got = if f.is_v4() { ran.packet } else { reassemble(&[ran.packet]) };
        let seen = see(&got);
        assert_eq!((ran.code, seen.destination_port), (REDIRECT, 1000), "{name}: {seen:?}");
    }
}

fn options_and_extension_headers_stand_in_the_way_of_none(f: Family) {
    let scene = Scene::new();
    let mut identification = IDENTIFICATION;
    let mut count = 0;
    for talk in LARGE {
        for (name, longer) in longer_headers(&f) {
            let name = format!("{talk:?}, {name}");
            identification += 1;
            let question = longer(large(talk, (f.a, 1000), f.outside)).identification(identification);
            let parts = of_a(&scene, question);
            let binding = whole(&f, &name, talk, &left_the_node(&scene, &f, &name, &parts));
            count += parts.len() as u64;
            let answer = talk.answer(f.outside, (f.node, binding)).payload(content(talk));
            for part in of_the_wire(longer(answer).identification(identification)) {
                let name = format!("{name}, answer {:?}", see_fragment(&part).1);
                let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&part));
                assert_eq!((ran.code, see(&ran.packet).destination), (REDIRECT, f.a), "{name}");
            }
        }
    }
    let pairs = scene.pairs();
    let packets: u64 = pairs.iter().map(|pair| pair.original.packets).sum();
    assert_eq!((pairs.len(), packets), (2, count), "every piece is its flow's: {pairs:?}");
}

type Longer = fn(Frame) -> Frame;

/// IPv6: what stands before the fragment header, and behind it, where later pieces do not have it.
fn longer_headers(f: &Family) -> Vec<(&'static str, Longer)> {
    const ALERT: [u8; 4] = [5, 2, 0, 0];
    if f.is_v4() {
        return vec![("IP options", |frame| frame.options(&[1; 24]))];
    }
    vec![
        ("hop-by-hop", |frame| frame.extension(Extension::HopByHop, &ALERT)),
        ("destination options", |frame| frame.extension(Extension::Destination, &[0; 14])),
        ("both", |frame| {
            frame.extension(Extension::HopByHop, &ALERT).extension(Extension::Destination, &[0; 14])
        }),
    ]
}
