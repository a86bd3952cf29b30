//! `from_pod`: to other pods, to the node and its stack, to the gateway.

use netpath::net::{Route, RouteKind};
use netpath_common::abi::{DropReason, Program, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ACK, ErrorKind, Extension, Frame, SYN, protocol, see},
    scene::{Context, Family, GATEWAY_MAC, NEXT, REDIRECT, Scene, route},
};

for_both_families!(
    to_a_local_pod_it_is_redirected_unchanged_but_for_ttl_and_macs,
    what_the_stack_has_to_answer_goes_to_it_unchanged,
    gso_trains_are_judged_by_their_segments,
    the_gateway_answers_echo_and_nothing_else,
    the_gateways_answer_is_complete,
);

/// Every kind of packet from pod A to pod B.
pub(crate) fn to_a_local_pod(f: &Family) -> Vec<(&'static str, Frame)> {
    let udp = || Frame::udp((f.a, 1000), (f.b, 53));
    let about = Frame::udp((f.b, 53), (f.a, 1000)).packet();
    let mut frames = vec![
        ("tcp", Frame::tcp((f.a, 1000), (f.b, 80), SYN)),
        ("udp", udp()),
        ("udp without checksum", udp().no_checksum()),
        ("echo", Frame::echo(f.a, f.b, true, 7, 1)),
        ("echo reply", Frame::echo(f.a, f.b, false, 7, 1)),
        ("ICMP error", Frame::error(f.a, f.b, ErrorKind::Unreachable(3), &about, usize::MAX)),
        ("first fragment", udp().fragment(0, true)),
        ("later fragment", udp().fragment(100, false)),
        ("SCTP", Frame::sctp((f.a, 1000), (f.b, 36412))),
        ("full size", Frame::raw(f.a, f.b, 47).payload(vec![7; 1500 - f.header()])),
    ];
    if f.is_v4() {
        frames.push(("IP options", udp().options(&[1; 40])));
    } else {
        frames.extend(with_extensions(f, &udp()));
    }
    frames
}

fn to_a_local_pod_it_is_redirected_unchanged_but_for_ttl_and_macs(f: Family) {
    let scene = Scene::new();
    let (a, b, frames) = (scene.a, scene.b, to_a_local_pod(&f));
    let count = frames.len() as u64;
    for (name, frame) in frames {
        let packet = frame.macs(a.mac, GATEWAY_MAC).bytes();
        let ran = scene.from_a(&packet);
        ran.assert_forwarded(name, &packet);
        assert_eq!((ran.macs(), see(&ran.packet).ttl), ((GATEWAY_MAC, b.mac), 63), "{name}");
    }
    assert_eq!(scene.traffic(TrafficClass::Local), count);
    assert!(scene.pairs().is_empty(), "pod to pod needs no flow: {:?}", scene.pairs());
    let (tx, rx) = (
        scene.datapath.readings().pod_counter(a.id).unwrap(),
        scene.datapath.readings().pod_counter(b.id).unwrap(),
    );
    assert_eq!((tx.tx_packets, tx.rx_packets, rx.rx_packets, rx.tx_packets), (count, 0, count, 0));
}

/// Every kind of extension header, and all at once in the order of RFC 8200, 4.1.
fn with_extensions(f: &Family, udp: &Frame) -> Vec<(&'static str, Frame)> {
    let hop_by_hop = |frame: Frame| frame.extension(Extension::HopByHop, &[5, 2, 0, 0]);
    let routing = |frame: Frame| frame.extension(Extension::Routing, &[4, 0, 0, 0, 0, 0]);
    let authentication = |frame: Frame| frame.extension(Extension::Authentication, &[0; 22]);
    let destination = |frame: Frame| frame.extension(Extension::Destination, &[]);
    let all = |frame: Frame| destination(authentication(routing(hop_by_hop(frame))));
    vec![
        ("hop-by-hop", hop_by_hop(udp.clone())),
        ("routing", routing(udp.clone())),
        ("authentication", authentication(udp.clone())),
        ("destination options", destination(udp.clone())),
        ("all of them", all(udp.clone())),
        ("all of them, first fragment", all(udp.clone().fragment(0, true))),
        ("all of them, later fragment", all(udp.clone().fragment(100, false))),
        ("nothing follows", destination(Frame::raw(f.a, f.b, protocol::NONE).payload(Vec::new()))),
    ]
}

fn what_the_stack_has_to_answer_goes_to_it_unchanged(f: Family) {
    let scene = Scene::new();
    let unreachable = Route { kind: RouteKind::Unreachable, ifindex: None, ..route(f.unreachable_net, 0) };
    scene.add_route(&unreachable);
    let (to_stack, to_node) = (TrafficClass::ToStack, TrafficClass::ToNode);
    let udp = |to| Frame::udp((f.a, 1), (to, 2));
    let too_long = vec![0; 1501 - f.header()];
    let about = Frame::udp((f.node, 53), (f.a, 1)).packet();
    let rows = [
        ("last hop, to a pod", udp(f.b).ttl(1), to_stack),
        ("larger than the pod's MTU", Frame::raw(f.a, f.b, 47).payload(too_long.clone()), to_stack),
        ("last hop, to outside", udp(f.outside).ttl(1), to_stack),
        ("larger than the uplink's MTU", udp(f.outside).payload(too_long[8..].to_vec()), to_stack),
        ("unreachable route", udp(f.unreachable), to_stack),
        ("to the node", udp(f.node), to_node),
        ("echo to the node", Frame::echo(f.a, f.node, true, 1, 1), to_node),
        (
            "ICMP error to the node",
            Frame::error(f.a, f.node, ErrorKind::Unreachable(3), &about, usize::MAX),
            to_node,
        ),
        ("fragment to the node", udp(f.node).fragment(100, true), to_node),
        ("to an address of the block that nobody has", udp(f.nobody), to_node),
    ];
    for (name, frame, class) in rows {
        let (packet, before) = (frame.macs(scene.a.mac, GATEWAY_MAC).bytes(), scene.traffic(class));
        let ran = scene.from_a(&packet);
        ran.assert_untouched(name, &packet);
        assert_eq!(scene.traffic(class), before + 1, "{name}");
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn gso_trains_are_judged_by_their_segments(f: Family) {
    let scene = Scene::new();
    let largest = 1500 - f.header() as u32 - 20;
    for (gso_size, code) in [(largest - 20, REDIRECT), (largest, REDIRECT), (largest + 1, NEXT)] {
        let train = Frame::tcp((f.a, 1), (f.b, 2), ACK).payload(vec![0; 2880]);
        let packet = train.macs(scene.a.mac, GATEWAY_MAC).bytes();
        let context = Context { ifindex: scene.a.ifindex, gso_size, ..Context::default() };
        assert_eq!(scene.run(Program::FromPod, &packet, context).code, code, "segments of {gso_size}");
    }
}

fn the_gateway_answers_echo_and_nothing_else(f: Family) {
    let scene = Scene::new();
    let ran = scene.a_says(Frame::echo(f.a, f.gateway, true, 9, 1));
    assert_eq!(ran.code, REDIRECT);
    let seen = see(&ran.packet);
    assert_eq!((seen.source, seen.destination), (f.gateway, f.a), "{seen:?}");
    assert_eq!(ran.macs(), (GATEWAY_MAC, scene.a.mac));
    let numbers = seen.icmp.map(|icmp| icmp.numbers);
    assert_eq!((numbers, seen.source_port), (Some([f.pick(0, 129), 0]), 9), "same identifier: {seen:?}");
    assert_eq!(scene.traffic(TrafficClass::Neighbour), 1);
    let about = Frame::udp((f.gateway, 53), (f.a, 1)).packet();
    let rows = [
        ("UDP", Frame::udp((f.a, 1), (f.gateway, 53))),
        ("echo reply", Frame::echo(f.a, f.gateway, false, 9, 1)),
        ("ICMP error", Frame::error(f.a, f.gateway, ErrorKind::Unreachable(3), &about, usize::MAX)),
    ];
    for (name, frame) in rows {
        scene.expect_drop(name, DropReason::RouteDrop, |scene| scene.a_says(frame));
    }
}

fn the_gateways_answer_is_complete(f: Family) {
    let scene = Scene::new();
    let payload: Vec<u8> = (0..1400u32).map(|n| n as u8).collect();
    let mut rows = vec![("long", Frame::echo(f.a, f.gateway, true, 9, 0xffff).payload(payload))];
    if f.is_v4() {
        rows.push(("IP options", Frame::echo(f.a, f.gateway, true, 9, 1).options(&[1; 8])));
    } else {
        let frame = Frame::echo(f.a, f.gateway, true, 9, 1);
        rows.push(("extension header", frame.extension(Extension::Destination, &[])));
        rows.push(("link-local", Frame::echo(scene.a.link_local, f.gateway, true, 9, 1)));
    }
    for (name, frame) in rows {
        let asked = frame.clone().packet();
        let ran = scene.expect_no_drop(name, |scene| scene.a_says(frame));
        assert_eq!(ran.code, REDIRECT, "{name}");
        see(&ran.packet);
        let behind_checksum = asked.len() - if name == "long" { 1404 } else { 11 };
        assert_eq!(
            ran.packet[14 + behind_checksum..],
            asked[behind_checksum..],
            "{name}: id, number, payload"
        );
    }
}
