//! `from_pod`, IPv4.

use std::net::Ipv4Addr;

use etherparse::{IcmpEchoHeader, Icmpv4Type, icmpv4::DestUnreachableHeader};
use netpath_common::abi::{DropReason, Program, TrafficClass};
use netpath_tests::{
    packet::{ACK, Frame, SYN, see},
    scene::{
        BEHIND_VPN, Context, GATEWAY, GATEWAY_MAC, NEXT, NOBODY, NODE, OUTSIDE, REDIRECT, Scene, UNMASKED,
        addr, route,
    },
};

fn echo(id: u16) -> Icmpv4Type {
    Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 })
}

fn own(scene: &Scene, frame: Frame) -> Vec<u8> {
    frame.macs(scene.a.mac, GATEWAY_MAC).bytes()
}

#[test]
fn to_a_local_pod_it_is_redirected_unchanged_but_for_ttl_and_macs() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let frames = [
        ("tcp", Frame::tcp((a.ip, 1000), (b.ip, 80), SYN)),
        ("udp", Frame::udp((a.ip, 1000), (b.ip, 53))),
        ("udp without checksum", Frame::udp((a.ip, 1000), (b.ip, 53)).no_checksum()),
        ("echo", Frame::icmp(a.ip, b.ip, echo(7))),
        ("IP options", Frame::udp((a.ip, 1000), (b.ip, 53)).options(&[1; 8])),
        ("first fragment", Frame::udp((a.ip, 1000), (b.ip, 53)).fragment(0, true)),
        ("later fragment", Frame::raw(a.ip, b.ip, 17).fragment(100, false)),
        ("SCTP", Frame::raw(a.ip, b.ip, 132)),
        ("full size", Frame::raw(a.ip, b.ip, 47).payload(vec![7; 1480])),
    ];
    for (n, (name, frame)) in frames.into_iter().enumerate() {
        let packet = own(&scene, frame);
        let ran = scene.from_a(&packet);
        assert_eq!(ran.code, REDIRECT, "{name}");
        let seen = see(&ran.packet);
        assert_eq!((seen.source_mac, seen.destination_mac, seen.ttl), (GATEWAY_MAC, b.mac, 63), "{name}");
        assert_eq!(ran.packet[26..], packet[26..], "{name}: all behind the header's checksum is untouched");
        assert_eq!(scene.traffic(TrafficClass::Local), n as u64 + 1, "{name}");
    }
    assert!(scene.pairs().is_empty(), "pod to pod needs no flow");
    let (tx, rx) = (scene.datapath.pod_counter(a.id).unwrap(), scene.datapath.pod_counter(b.id).unwrap());
    assert_eq!((tx.tx_packets, tx.rx_packets, rx.rx_packets, rx.tx_packets), (9, 0, 9, 0));
}

#[test]
fn what_the_stack_has_to_answer_goes_to_it_unchanged() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.add_route(&netpath::net::Route {
        kind: netpath::net::RouteKind::Unreachable,
        ifindex: None,
        ..route("203.0.113.128/25", 0)
    });
    let rows = [
        ("last hop, to a pod", Frame::udp((a.ip, 1), (b.ip, 2)).ttl(1), TrafficClass::ToStack),
        (
            "larger than the pod's MTU",
            Frame::raw(a.ip, b.ip, 47).payload(vec![0; 1481]),
            TrafficClass::ToStack,
        ),
        ("last hop, to outside", Frame::udp((a.ip, 1), (OUTSIDE, 2)).ttl(1), TrafficClass::ToStack),
        (
            "larger than the uplink's MTU",
            Frame::udp((a.ip, 1), (OUTSIDE, 2)).payload(vec![0; 1473]),
            TrafficClass::ToStack,
        ),
        (
            "unreachable route",
            Frame::udp((a.ip, 1), (Ipv4Addr::new(203, 0, 113, 200), 2)),
            TrafficClass::ToStack,
        ),
        ("to the node", Frame::udp((a.ip, 1), (NODE, 2)), TrafficClass::ToNode),
        (
            "to an address of the block that nobody has",
            Frame::udp((a.ip, 1), (NOBODY, 2)),
            TrafficClass::ToNode,
        ),
    ];
    for (name, frame, class) in rows {
        let (packet, before) = (own(&scene, frame), scene.traffic(class));
        let ran = scene.from_a(&packet);
        ran.assert_untouched(name, &packet);
        assert_eq!(scene.traffic(class), before + 1, "{name}");
    }
    assert!(scene.pairs().is_empty());
}

#[test]
fn gso_trains_are_judged_by_their_segments() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    for (gso_size, code) in [(1440, REDIRECT), (1461, NEXT)] {
        let packet = own(&scene, Frame::tcp((a.ip, 1), (b.ip, 2), ACK).payload(vec![0; 2880]));
        let context = Context { ifindex: a.ifindex, gso_size, ..Context::default() };
        assert_eq!(scene.run(Program::FromPod, &packet, context).code, code, "segments of {gso_size}");
    }
}

#[test]
fn the_gateway_answers_echo_and_nothing_else() {
    let scene = Scene::new();
    let a = scene.a;
    let ran = scene.from_a(&own(&scene, Frame::icmp(a.ip, GATEWAY, echo(9))));
    assert_eq!(ran.code, REDIRECT);
    let seen = see(&ran.packet);
    assert_eq!((seen.source, seen.destination, seen.destination_mac), (GATEWAY, a.ip, a.mac));
    assert_eq!((ran.packet[34], seen.source_port), (0, 9), "an echo reply with the same identifier");
    let before = scene.all_drops();
    let ran = scene.from_a(&own(&scene, Frame::udp((a.ip, 1), (GATEWAY, 53))));
    scene.assert_dropped("UDP to the gateway", &ran, &before, DropReason::RouteDrop);
}

fn assert_refused(scene: &Scene, rows: impl IntoIterator<Item = (&'static str, Vec<u8>, DropReason)>) {
    for (name, packet, reason) in rows {
        let before = scene.all_drops();
        let ran = scene.from_a(&packet);
        scene.assert_dropped(name, &ran, &before, reason);
    }
    assert!(scene.pairs().is_empty(), "what is dropped makes no flow");
}

/// Invariant 4, and invariant 7 with it: each refusal has its reason and its counter.
#[test]
fn spoofed_packets_are_refused() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let mac = |frame: Frame| own(&scene, frame);
    let spoofed = DropReason::SpoofedSource;
    let rows = [
        ("another pod's address", mac(Frame::udp((b.ip, 1), (a.ip, 2))), spoofed),
        ("nobody's address", mac(Frame::udp((OUTSIDE, 1), (b.ip, 2))), spoofed),
        ("the node's address", mac(Frame::udp((NODE, 1), (OUTSIDE, 2))), spoofed),
        ("another MAC", Frame::udp((a.ip, 1), (b.ip, 2)).macs(b.mac, GATEWAY_MAC).bytes(), spoofed),
    ];
    assert_refused(&scene, rows);
}

/// Invariant 9.
#[test]
fn malformed_packets_are_refused() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let udp = own(&scene, Frame::udp((a.ip, 1000), (b.ip, 53)).payload(vec![0; 40]));
    let tcp = own(&scene, Frame::tcp((a.ip, 1), (b.ip, 2), SYN));
    let patched = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let rows = [
        ("IPv6 on an IPv4 network", patched(&udp, 12, &[0x86, 0xdd]), DropReason::UnsupportedProtocol),
        ("version 5", patched(&udp, 14, &[0x55]), DropReason::Malformed),
        ("header of 16 bytes", patched(&udp, 14, &[0x44]), DropReason::Malformed),
        ("total length beyond the packet", patched(&udp, 16, &[1, 0]), DropReason::Malformed),
        ("total length below the header", patched(&udp, 16, &[0, 19]), DropReason::Malformed),
        ("UDP length beyond the packet", patched(&udp, 38, &[0, 99]), DropReason::Malformed),
        ("TCP header of 16 bytes", patched(&tcp, 46, &[0x40]), DropReason::Malformed),
        // A frame that ends inside the IP header cannot be tried: the kernel refuses such a test run.
        ("cut in the UDP header", udp[..38].to_vec(), DropReason::Malformed),
    ];
    assert_refused(&scene, rows);
}

#[test]
fn destinations_that_are_not_for_pods_are_refused() {
    let scene = Scene::new();
    let to = |last: [u8; 4]| own(&scene, Frame::udp((scene.a.ip, 1), (Ipv4Addr::from(last), 2)));
    let rows = [
        ("multicast", to([224, 0, 0, 251]), DropReason::Multicast),
        ("broadcast", to([255; 4]), DropReason::Multicast),
        ("loopback", to([127, 0, 0, 1]), DropReason::MartianDestination),
        ("0/8", to([0, 1, 2, 3]), DropReason::MartianDestination),
        ("240/4", to([250, 0, 0, 1]), DropReason::MartianDestination),
        ("a drop route", to([198, 51, 100, 66]), DropReason::RouteDrop),
    ];
    assert_refused(&scene, rows);
}

#[test]
fn what_cannot_be_translated_is_refused() {
    let scene = Scene::new();
    let a = scene.a;
    let mac = |frame: Frame| own(&scene, frame);
    let unreachable = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let reply = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 1, seq: 1 });
    let fragment = mac(Frame::udp((a.ip, 1), (OUTSIDE, 2)).fragment(0, true));
    let cannot = DropReason::ProtocolNotTranslated;
    let rows = [
        ("fragment", fragment, DropReason::FragmentNotTranslated),
        ("SCTP", mac(Frame::raw(a.ip, OUTSIDE, 132)), cannot),
        ("ICMP error without a flow", mac(Frame::icmp(a.ip, OUTSIDE, unreachable)), cannot),
        ("echo reply without a question", mac(Frame::icmp(a.ip, OUTSIDE, reply)), cannot),
    ];
    assert_refused(&scene, rows);
}

#[test]
fn to_outside_the_source_becomes_the_nodes_and_both_halves_are_written() {
    let scene = Scene::new();
    let a = scene.a;
    let frames = [
        ("tcp", Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), SYN), 40_000, 443),
        ("udp", Frame::udp((a.ip, 40_001), (OUTSIDE, 53)), 40_001, 53),
        ("udp without checksum", Frame::udp((a.ip, 40_002), (OUTSIDE, 53)).no_checksum(), 40_002, 53),
        ("echo", Frame::icmp(a.ip, OUTSIDE, echo(40_003)), 40_003, 40_003),
        ("IP options", Frame::tcp((a.ip, 40_004), (OUTSIDE, 443), SYN).options(&[1; 40]), 40_004, 443),
    ];
    for (name, frame, port, to) in frames {
        let ran = scene.from_a(&own(&scene, frame));
        assert_eq!(ran.code, REDIRECT, "{name}");
        let seen = see(&ran.packet);
        assert_eq!((seen.source, seen.source_port), (NODE, port), "{name}: port kept, it lies in the range");
        assert_eq!((seen.destination, seen.destination_port, seen.ttl), (OUTSIDE, to, 63), "{name}");
        assert_eq!(seen.udp_checksum == 0, !name.starts_with("udp") || name.contains("without"), "{name}");
        let pair = *scene.pairs().iter().find(|pair| pair.key.sport == port.to_be()).expect(name);
        assert_eq!(
            (pair.key.src, pair.original.addr, pair.original.pod),
            (addr(a.ip), addr(NODE), a.id),
            "{name}"
        );
        let reply = pair.reply.expect("both halves");
        assert_eq!((reply.addr, reply.port, reply.packets), (addr(a.ip), port.to_be(), 0), "{name}");
    }
    assert_eq!(scene.traffic(TrafficClass::Translated), 5);
}

#[test]
fn a_port_outside_the_range_moves_into_it_and_stays() {
    let scene = Scene::new();
    let a = scene.a;
    let packet = own(&scene, Frame::udp((a.ip, 1000), (OUTSIDE, 53)));
    let ports: Vec<_> = (0..3).map(|_| see(&scene.from_a(&packet).packet).source_port).collect();
    assert!((32_768..=49_151).contains(&ports[0]), "{ports:?}");
    assert!(ports.iter().all(|port| *port == ports[0]), "one flow, one port: {ports:?}");
    let pairs = scene.pairs();
    assert_eq!((pairs.len(), pairs[0].original.packets), (1, 3), "counted exactly");
    assert_eq!(pairs[0].original.bytes, 3 * (packet.len() as u64 - 14));
}

#[test]
fn two_pods_with_one_source_port_get_two() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let first = see(&scene.from_a(&own(&scene, Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), SYN))).packet);
    let packet = Frame::tcp((b.ip, 40_000), (OUTSIDE, 443), SYN).macs(b.mac, GATEWAY_MAC).bytes();
    let context = Context { ifindex: b.ifindex, ..Context::default() };
    let second = see(&scene.run(Program::FromPod, &packet, context).packet);
    assert_eq!((first.source, second.source), (NODE, NODE));
    assert_eq!(first.source_port, 40_000);
    assert_ne!(second.source_port, 40_000, "the port is taken towards this destination");
    let elsewhere = Frame::tcp((b.ip, 40_000), (OUTSIDE, 80), SYN).macs(b.mac, GATEWAY_MAC).bytes();
    let third = see(&scene.run(Program::FromPod, &elsewhere, context).packet);
    assert_eq!(third.source_port, 40_000, "one port serves many destinations");
}

#[test]
fn a_port_the_node_listens_on_is_not_taken() {
    let scene = Scene::new();
    let a = scene.a;
    let udp = std::net::UdpSocket::bind((NODE, 40_000)).expect("the node's socket");
    let tcp = std::net::TcpListener::bind((NODE, 40_001)).expect("the node's listener");
    let seen = see(&scene.from_a(&own(&scene, Frame::udp((a.ip, 40_000), (OUTSIDE, 53)))).packet);
    assert_ne!(seen.source_port, 40_000);
    let seen = see(&scene.from_a(&own(&scene, Frame::tcp((a.ip, 40_001), (OUTSIDE, 53), SYN))).packet);
    assert_ne!(seen.source_port, 40_001);
    drop((udp, tcp));
    let seen = see(&scene.from_a(&own(&scene, Frame::tcp((a.ip, 40_001), (OUTSIDE, 54), SYN))).packet);
    assert_eq!(seen.source_port, 40_001, "free again");
    assert_eq!(scene.pairs().len(), 3, "no half of a refused port is left");
}

#[test]
fn without_masquerade_it_leaves_with_its_own_address_and_is_tracked() {
    let scene = Scene::new();
    let a = scene.a;
    let ran = scene.from_a(&own(&scene, Frame::udp((a.ip, 1000), (UNMASKED, 53))));
    assert_eq!(ran.code, REDIRECT);
    let seen = see(&ran.packet);
    assert_eq!((seen.source, seen.source_port, seen.ttl), (a.ip, 1000, 63));
    assert_eq!((scene.pairs().len(), scene.traffic(TrafficClass::Routed)), (1, 1));
}

#[test]
fn by_an_interface_that_is_no_uplink_it_goes_to_the_stack_and_is_tracked() {
    let scene = Scene::new();
    let packet = own(&scene, Frame::udp((scene.a.ip, 1000), (BEHIND_VPN, 53)));
    let ran = scene.from_a(&packet);
    assert_eq!((ran.code, &ran.packet), (NEXT, &packet));
    assert_eq!((scene.pairs().len(), scene.traffic(TrafficClass::ToStack)), (1, 1));
}

#[test]
fn before_the_node_is_known_nothing_leaves() {
    let mut scene = Scene::new();
    let packet = own(&scene, Frame::udp((scene.a.ip, 1000), (OUTSIDE, 53)));
    scene.set_node(|node| node.snat_count = 0);
    let before = scene.all_drops();
    let ran = scene.from_a(&packet);
    scene.assert_dropped("no SNAT range yet", &ran, &before, DropReason::NotReady);
}

/// Invariant 1 for a live flow whose way changes: out by a VPN first, then by the uplink.
#[test]
fn a_flow_that_moves_to_the_uplink_is_translated_from_then_on() {
    let scene = Scene::new();
    let packet = own(&scene, Frame::udp((scene.a.ip, 1000), (OUTSIDE, 53)));
    let by_vpn = route("203.0.113.0/24", scene.vpn);
    scene.add_route(&by_vpn);
    scene.from_a(&packet).assert_untouched("by the VPN", &packet);
    assert_eq!(scene.pairs().len(), 1);
    scene.add_route(&netpath::net::Route {
        via: Some(netpath_tests::scene::ROUTER),
        ..route("203.0.113.0/24", scene.uplink)
    });
    let ran = scene.from_a(&packet);
    assert_eq!((ran.code, see(&ran.packet).source), (REDIRECT, NODE));
    let pairs = scene.pairs();
    assert!(pairs.len() == 1 && pairs[0].is_translated() && pairs[0].reply.is_some(), "{pairs:?}");
}
