//! `to_pod`.

use netpath_common::abi::{DropReason, Link, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Frame, arp, fragments, solicitation},
    scene::{Family, GATEWAY_MAC, NEXT, Scene, Talk},
};

for_both_families!(
    the_node_and_pods_and_answers_come_in,
    a_pod_speaks_by_its_own_links_only,
    strangers_do_not,
    the_peers_of_an_earlier_pod_do_not,
    errors_and_fragments_of_known_flows_come_in,
    neighbours_are_found_and_damaged_packets_are_not_let_in,
);

fn the_node_and_pods_and_answers_come_in(f: Family) {
    let scene = Scene::new();
    let b = scene.b;
    for talk in Talk::ALL {
        scene.a_says(talk.question((f.a, 1000), f.vpn));
    }
    let about = Frame::udp((f.a, 1), (f.outside, 2)).packet();
    let too_big = Frame::error(f.node, f.a, ErrorKind::TooBig(1400), &about, usize::MAX);
    let mut rows = vec![
        ("the node itself", Frame::udp((f.node, 1), (f.a, 2)), 0),
        ("an ICMP error of the node", too_big, 0),
        ("a fragment from the node", Frame::raw(f.node, f.a, 17).fragment(9, false), 0),
        ("a pod by way of the stack", Frame::udp((f.b, 1), (f.a, 2)), b.ifindex),
    ];
    rows.extend(Talk::ALL.map(|talk| ("the answer of a VPN", talk.answer(f.vpn, (f.a, 1000)), scene.vpn)));
    let count = rows.len() as u64;
    for (name, frame, ingress) in rows {
        let packet = frame.bytes();
        scene.to_a(&packet, ingress).assert_untouched(name, &packet);
    }
    assert_eq!(scene.traffic(TrafficClass::FromStack), count);
    assert_eq!(scene.datapath.readings().pod_counter(scene.a.id).unwrap().rx_packets, count);
}

fn a_pod_speaks_by_its_own_links_only(f: Family) {
    let mut scene = Scene::new();
    let (a, b, frame) = (scene.a, scene.b, Frame::udp((f.b, 1), (f.a, 2)).bytes());
    for ingress in [scene.uplink, scene.vpn, a.ifindex, 99_999] {
        let name = format!("by interface {ingress}");
        scene.expect_drop(&name, DropReason::SpoofedSource, |scene| scene.to_a(&frame, ingress));
    }
    scene.to_a(&frame, b.ifindex).assert_untouched("by its own", &frame);
    scene.to_a(&frame, 0).assert_untouched("the stack in its name, as a firewall that refuses", &frame);
    let vpn = scene.vpn;
    scene.datapath.set_link(vpn, Link { pod: b.id, ..Link::default() }).expect("link");
    scene.to_a(&frame, vpn).assert_untouched("by another of its own", &frame);
}

/// The flow of a pod that had the address before lets nobody in, and is forgotten.
fn the_peers_of_an_earlier_pod_do_not(f: Family) {
    let mut scene = Scene::new();
    for talk in Talk::ALL {
        scene.a_says(talk.question((f.a, 1000), f.vpn));
    }
    let a = scene.a;
    scene.set_pod_number(a, 77);
    for talk in Talk::ALL {
        let answer = talk.answer(f.vpn, (f.a, 1000)).bytes();
        scene.expect_drop(&format!("{talk:?}"), DropReason::InboundDenied, |scene| {
            scene.to_a(&answer, scene.vpn)
        });
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn strangers_do_not(f: Family) {
    let mut scene = Scene::new();
    let about = Frame::udp((f.a, 1), (f.vpn, 2)).packet();
    let knock = || Frame::udp((f.outside, 1), (f.a, 2));
    let rows = [
        ("forwarded from elsewhere", knock()),
        ("ICMP error", Frame::error(f.vpn, f.a, ErrorKind::Unreachable(1), &about, usize::MAX)),
        ("echo", Frame::echo(f.outside, f.a, true, 1, 1)),
    ];
    for (name, frame) in rows {
        let packet = frame.bytes();
        scene.expect_drop(name, DropReason::InboundDenied, |scene| scene.to_a(&packet, scene.vpn));
    }
    let part = Frame::raw(f.outside, f.a, 17).fragment(9, false).bytes();
    let unknown = DropReason::FragmentOutOfOrder;
    scene.expect_drop("part of a datagram", unknown, |scene| scene.to_a(&part, scene.vpn));
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
    scene.allow_inbound();
    assert_eq!(scene.to_a(&knock().bytes(), scene.vpn).code, NEXT, "inbound = any");
    assert_eq!(
        scene.pairs().len(),
        1,
        "tracked, so that its answers are not translated: {:?}",
        scene.pairs()
    );
}

fn errors_and_fragments_of_known_flows_come_in(f: Family) {
    let scene = Scene::new();
    let frame = Talk::Udp.question((f.a, 1000), f.vpn);
    let sent = frame.clone().packet();
    scene.a_says(frame);
    for kind in [ErrorKind::Unreachable(1), ErrorKind::TooBig(1300), ErrorKind::TimeExceeded(0)] {
        let error = Frame::error(f.outside, f.a, kind, &sent, f.header() + 8).bytes();
        let name = format!("{kind:?} of any router");
        let ran = scene.expect_no_drop(&name, |scene| scene.to_a(&error, scene.vpn));
        ran.assert_untouched(&name, &error);
    }
    let answer = Talk::Udp.answer(f.vpn, (f.a, 1000)).payload(vec![7; 5000]).identification(9);
    for (n, part) in fragments(answer, 1500).iter().enumerate() {
        let name = format!("part {n} of an answer");
        let ran = scene.expect_no_drop(&name, |scene| scene.to_a(part, scene.vpn));
        ran.assert_untouched(&name, part);
    }
    assert_eq!(scene.pairs().len(), 1, "{:?}", scene.pairs());
}

fn neighbours_are_found_and_damaged_packets_are_not_let_in(f: Family) {
    let scene = Scene::new();
    let request = if f.is_v4() {
        arp(true, GATEWAY_MAC, (GATEWAY_MAC, f.node), f.a)
    } else {
        solicitation(GATEWAY_MAC, f.gateway, f.a, Some(GATEWAY_MAC)).bytes()
    };
    scene.to_a(&request, 0).assert_untouched("the node looks for the pod's MAC", &request);
    let mut damaged = Frame::udp((f.node, 1), (f.a, 2)).bytes();
    // A length beyond the packet.
    damaged[ETHERNET + f.pick(2, 4)] = 1;
    scene.expect_drop("damaged", DropReason::Malformed, |scene| scene.to_a(&damaged, 0));
}
