//! `from_uplink`.

use etherparse::{IcmpEchoHeader, Icmpv4Type};
use netpath_common::abi::{DropReason, NODE_FLAG_INBOUND_ANY, TrafficClass};
use netpath_tests::{
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{GATEWAY_MAC, NEXT, NODE, OUTSIDE, REDIRECT, Scene, UNMASKED},
};

const ROUTER_MAC: [u8; 6] = [2, 1, 1, 1, 1, 1];

fn wire(frame: Frame) -> Vec<u8> {
    frame.macs(ROUTER_MAC, GATEWAY_MAC).bytes()
}

#[test]
fn an_answer_goes_back_to_its_pod() {
    let scene = Scene::new();
    let a = scene.a;
    let request = |id| Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
    let reply = |id| Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq: 1 });
    // Ports in the range and outside of it: kept and moved.
    for port in [40_000u16, 1000] {
        for proto in ["tcp", "udp", "echo"] {
            let out = match proto {
                "tcp" => Frame::tcp((a.ip, port), (OUTSIDE, 443), SYN),
                "udp" => Frame::udp((a.ip, port), (OUTSIDE, 443)),
                _ => Frame::icmp(a.ip, OUTSIDE, request(port)),
            };
            let sent = see(&scene.from_a(&out.macs(a.mac, GATEWAY_MAC).bytes()).packet);
            let answer = match proto {
                "tcp" => Frame::tcp((OUTSIDE, 443), (NODE, sent.source_port), SYN_ACK),
                "udp" => Frame::udp((OUTSIDE, 443), (NODE, sent.source_port)),
                _ => Frame::icmp(OUTSIDE, NODE, reply(sent.source_port)),
            };
            let ran = scene.from_wire(&wire(answer));
            assert_eq!(ran.code, REDIRECT, "{proto} {port}");
            let seen = see(&ran.packet);
            assert_eq!(
                (seen.source, seen.destination, seen.destination_port),
                (OUTSIDE, a.ip, port),
                "{proto}"
            );
            assert_eq!(
                (seen.source_mac, seen.destination_mac, seen.ttl),
                (GATEWAY_MAC, a.mac, 63),
                "{proto}"
            );
        }
    }
    assert_eq!(scene.traffic(TrafficClass::Reply), 6);
    assert!(scene.pairs().iter().all(|pair| pair.reply.expect("reply").packets == 1));
    assert_eq!(scene.datapath.pod_counter(a.id).unwrap().rx_packets, 6);
}

#[test]
fn what_is_the_nodes_is_left_alone() {
    let scene = Scene::new();
    let a = scene.a;
    scene.from_a(&Frame::udp((a.ip, 40_000), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    let mut arp = netpath_tests::packet::arp(true, ROUTER_MAC, (ROUTER_MAC, OUTSIDE), NODE);
    arp.extend([0; 18]);
    let mut damaged = wire(Frame::udp((OUTSIDE, 53), (NODE, 40_000)));
    damaged[14] = 0x65;
    let rows = [
        ("ARP", arp),
        ("another port", wire(Frame::udp((OUTSIDE, 53), (NODE, 40_001)))),
        ("another sender", wire(Frame::udp((UNMASKED, 53), (NODE, 40_000)))),
        ("another protocol", wire(Frame::tcp((OUTSIDE, 53), (NODE, 40_000), ACK))),
        ("a fragment", wire(Frame::udp((OUTSIDE, 53), (NODE, 40_000)).fragment(0, true))),
        ("damaged", damaged),
    ];
    for (name, packet) in rows {
        let ran = scene.from_wire(&packet);
        assert_eq!((ran.code, ran.packet), (NEXT, packet), "{name}");
    }
    assert_eq!(scene.all_drops().iter().sum::<u64>(), 0);
}

#[test]
fn a_pods_own_address_is_reached_only_by_who_may() {
    let mut scene = Scene::new();
    let (a, mac) = (scene.a, GATEWAY_MAC);
    let knock = wire(Frame::tcp((OUTSIDE, 5000), (a.ip, 80), SYN));
    let before = scene.all_drops();
    scene.assert_dropped("from outside", &scene.from_wire(&knock), &before, DropReason::InboundDenied);

    scene.from_a(&Frame::udp((a.ip, 1000), (UNMASKED, 53)).macs(a.mac, mac).bytes());
    let answer = scene.from_wire(&wire(Frame::udp((UNMASKED, 53), (a.ip, 1000))));
    assert_eq!((answer.code, see(&answer.packet).destination_mac), (REDIRECT, a.mac), "an answer is let in");

    scene.set_node(|node| node.flags = NODE_FLAG_INBOUND_ANY);
    let opened = scene.from_wire(&knock);
    assert_eq!((opened.code, see(&opened.packet).ttl), (REDIRECT, 63), "inbound = any");
    let back = scene.from_a(&Frame::tcp((a.ip, 80), (OUTSIDE, 5000), SYN_ACK).macs(a.mac, mac).bytes());
    let seen = see(&back.packet);
    assert_eq!((seen.source, seen.source_port), (a.ip, 80), "its answer is not translated");
    let late = scene.from_wire(&wire(Frame::tcp((OUTSIDE, 5001), (a.ip, 80), SYN).ttl(1)));
    assert_eq!(late.code, NEXT, "the last hop: the stack answers");
}

#[test]
fn the_last_hop_of_an_answer_ends_here() {
    let scene = Scene::new();
    let a = scene.a;
    scene.from_a(&Frame::udp((a.ip, 40_000), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    let before = scene.all_drops();
    let ran = scene.from_wire(&wire(Frame::udp((OUTSIDE, 53), (NODE, 40_000)).ttl(1)));
    scene.assert_dropped("TTL 1", &ran, &before, DropReason::TtlExpired);
}

#[test]
fn the_answer_to_a_pod_that_is_gone_is_the_stacks() {
    let mut scene = Scene::new();
    let a = scene.a;
    scene.from_a(&Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), SYN).macs(a.mac, GATEWAY_MAC).bytes());
    scene.datapath.remove_endpoint(a.ip).expect("endpoint");
    let answer = wire(Frame::tcp((OUTSIDE, 443), (NODE, 40_000), SYN_ACK));
    let ran = scene.from_wire(&answer);
    assert_eq!((ran.code, ran.packet), (NEXT, answer));
}

#[test]
fn a_pods_address_does_not_come_from_the_wire() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.from_a(&Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), SYN).macs(a.mac, GATEWAY_MAC).bytes());
    let rows = [
        ("into its own flow", Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), RST)),
        ("to the node", Frame::udp((a.ip, 1), (NODE, 53))),
        ("to another pod", Frame::udp((a.ip, 1), (b.ip, 53))),
    ];
    for (name, frame) in rows {
        let before = scene.all_drops();
        let ran = scene.from_wire(&wire(frame));
        scene.assert_dropped(name, &ran, &before, DropReason::SpoofedSource);
    }
}

#[test]
fn a_question_does_not_pass_for_the_answer() {
    let scene = Scene::new();
    let a = scene.a;
    let echo = IcmpEchoHeader { id: 40_000, seq: 1 };
    scene.from_a(&Frame::icmp(a.ip, OUTSIDE, Icmpv4Type::EchoRequest(echo)).macs(a.mac, GATEWAY_MAC).bytes());
    let question = wire(Frame::icmp(OUTSIDE, NODE, Icmpv4Type::EchoRequest(echo)));
    scene.from_wire(&question).assert_untouched("the node answers it itself", &question);
    let answer = scene.from_wire(&wire(Frame::icmp(OUTSIDE, NODE, Icmpv4Type::EchoReply(echo))));
    assert_eq!((answer.code, see(&answer.packet).destination), (REDIRECT, a.ip));
}
