//! `from_pod`: what is refused. Invariants 4, 7 and 9: each refusal has its reason and its counter.

use std::net::IpAddr;

use netpath_common::abi::DropReason;
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Extension, Frame, SYN},
    scene::{Family, GATEWAY_MAC, Scene},
};

for_both_families!(
    spoofed_packets_are_refused,
    malformed_packets_are_refused,
    malformed_icmp_errors_are_refused,
    destinations_that_are_not_for_pods_are_refused,
    what_cannot_be_translated_is_refused,
);

fn assert_refused(scene: &Scene, rows: impl IntoIterator<Item = (&'static str, Vec<u8>, DropReason)>) {
    for (name, packet, reason) in rows {
        scene.expect_drop(name, reason, |scene| scene.from_a(&packet));
    }
    assert!(scene.pairs().is_empty(), "what is dropped makes no flow: {:?}", scene.pairs());
}

fn patched(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

fn spoofed_packets_are_refused(f: Family) {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let own = |frame: Frame| frame.macs(a.mac, GATEWAY_MAC).bytes();
    let about = Frame::udp((f.outside, 53), (f.b, 1)).packet();
    let error = Frame::error(f.b, f.outside, ErrorKind::Unreachable(3), &about, usize::MAX);
    let rows = [
        ("another pod's address", own(Frame::udp((f.b, 1), (f.a, 2)))),
        ("another pod's address, to outside", own(Frame::udp((f.b, 1), (f.outside, 2)))),
        ("another pod's address, to the gateway", own(Frame::echo(f.b, f.gateway, true, 1, 1))),
        ("another pod's address, fragment", own(Frame::udp((f.b, 1), (f.outside, 2)).fragment(9, true))),
        ("another pod's address, ICMP error", own(error)),
        ("nobody's address", own(Frame::udp((f.outside, 1), (f.b, 2)))),
        ("the block's, without a pod", own(Frame::udp((f.nobody, 1), (f.outside, 2)))),
        ("the node's address", own(Frame::udp((f.node, 1), (f.outside, 2)))),
        ("the gateway's address", own(Frame::udp((f.gateway, 1), (f.b, 2)))),
        ("another MAC", Frame::udp((f.a, 1), (f.b, 2)).macs(b.mac, GATEWAY_MAC).bytes()),
    ];
    assert_refused(&scene, rows.map(|(name, packet)| (name, packet, DropReason::SpoofedSource)));
}

fn malformed_packets_are_refused(f: Family) {
    let scene = Scene::new();
    let own = |frame: Frame| frame.macs(scene.a.mac, GATEWAY_MAC).bytes();
    let udp = own(Frame::udp((f.a, 1000), (f.b, 53)).payload(vec![0; 40]));
    let tcp = own(Frame::tcp((f.a, 1), (f.b, 2), SYN));
    let sctp = own(Frame::sctp((f.a, 1), (f.b, 2)));
    let l4 = f.transport();
    let malformed = DropReason::Malformed;
    let mut rows = vec![
        ("another EtherType", patched(&udp, 12, &[0x88, 0xcc]), DropReason::UnsupportedProtocol),
        ("the other family's EtherType", patched(&udp, 12, f.pick(&[0x86, 0xdd], &[8, 0])), malformed),
        ("version 5", patched(&udp, ETHERNET, &[0x55]), malformed),
        ("length beyond the packet", patched(&udp, f.pick(16, 18), &[1, 0]), malformed),
        ("UDP length beyond the packet", patched(&udp, l4 + 4, &[0, 99]), malformed),
        ("UDP length below its header", patched(&udp, l4 + 4, &[0, 7]), malformed),
        ("TCP header of 16 bytes", patched(&tcp, l4 + 12, &[0x40]), malformed),
        ("TCP header beyond the packet", patched(&tcp, l4 + 12, &[0xf0]), malformed),
        // A frame that ends inside the IP header cannot be tried: the kernel refuses such a test run.
        ("cut in the UDP header", udp[..l4 + 4].to_vec(), malformed),
        ("IP ends in the UDP header", own(Frame::raw(f.a, f.b, 17).payload(vec![0; 7])), malformed),
        ("IP ends in the TCP header", own(Frame::raw(f.a, f.b, 6).payload(vec![0x50; 19])), malformed),
        ("IP ends in the SCTP header", own(Frame::raw(f.a, f.b, 132).payload(vec![0; 11])), malformed),
        ("cut in the SCTP header", sctp[..l4 + 6].to_vec(), malformed),
        ("IP ends in the ICMP header", own(Frame::raw(f.a, f.b, f.icmp()).payload(vec![0; 7])), malformed),
    ];
    if f.is_v4() {
        rows.push(("header of 16 bytes", patched(&udp, ETHERNET, &[0x44]), malformed));
        rows.push(("total length below the header", patched(&udp, 16, &[0, 19]), malformed));
    } else {
        rows.extend(malformed_chains(&f, own).map(|(name, packet)| (name, packet, malformed)));
    }
    assert_refused(&scene, rows);
}

/// Extension headers that the packet ends in the middle of, and addresses that are never valid on a wire.
fn malformed_chains(f: &Family, own: impl Fn(Frame) -> Vec<u8>) -> [(&'static str, Vec<u8>); 5] {
    let extension = f.transport();
    let udp = || Frame::udp((f.a, 1000), (f.b, 53));
    let options = own(udp().extension(Extension::Destination, &[]));
    let fragment = own(udp().fragment(0, true));
    let announced = |number: u8| own(Frame::raw(f.a, f.b, number).payload(vec![17, 0, 0, 0]));
    let mapped: IpAddr = "::ffff:10.61.0.2".parse().expect("address");
    [
        ("extension header longer than the packet", patched(&options, extension + 1, &[9])),
        ("an extension header of four bytes", announced(60)),
        ("a fragment header of four bytes", announced(44)),
        ("fragment without a transport header", patched(&fragment, 18, &[0, 8])),
        ("a v4-mapped source", own(Frame::udp((mapped, 1), (f.b, 2)))),
    ]
}

/// Too short to tell what they are about: to outside they cannot be translated, and nothing reads beyond their end.
fn malformed_icmp_errors_are_refused(f: Family) {
    let scene = Scene::new();
    let offending = Frame::udp((f.outside, 53), (f.a, 1000)).packet();
    let error = |offending: &[u8], embed| {
        let frame = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), offending, embed);
        frame.macs(scene.a.mac, GATEWAY_MAC).bytes()
    };
    let header = f.header();
    for (name, packet) in [
        ("nothing embedded", error(&offending, 0)),
        ("cut in the embedded IP header", error(&offending, header - 1)),
        ("cut before the embedded ports", error(&offending, header)),
        ("seven bytes of the embedded transport", error(&offending, header + 7)),
        ("embedded version 5", error(&patched(&offending, 0, &[0x55]), usize::MAX)),
        ("an error within", {
            let within = Frame::error(f.outside, f.a, ErrorKind::Unreachable(3), &offending, header + 8);
            error(&within.packet(), usize::MAX)
        }),
    ] {
        scene.expect_drop(name, DropReason::ProtocolNotTranslated, |scene| scene.from_a(&packet));
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn destinations_that_are_not_for_pods_are_refused(f: Family) {
    let scene = Scene::new();
    let (multicast, martian) = (DropReason::Multicast, DropReason::MartianDestination);
    let v4: &[_] = &[
        ("multicast", "224.0.0.251", multicast),
        ("broadcast", "255.255.255.255", multicast),
        ("loopback", "127.0.0.1", martian),
        ("0/8", "0.1.2.3", martian),
        ("240/4", "250.0.0.1", martian),
    ];
    let v6 = &[
        ("multicast of the link", "ff02::fb", multicast),
        ("all nodes", "ff02::1", multicast),
        ("multicast of the site", "ff05::2", multicast),
        ("loopback", "::1", martian),
        ("unspecified", "::", martian),
        ("link-local", "fe80::5", martian),
    ];
    for &(name, to, reason) in f.pick(v4, v6) {
        let to: IpAddr = to.parse().expect("address");
        for frame in [Frame::udp((f.a, 1), (to, 2)), Frame::echo(f.a, to, true, 1, 1)] {
            scene.expect_drop(name, reason, |scene| scene.a_says(frame));
        }
    }
    let to_drop_route = Frame::udp((f.a, 1), (f.refused, 2));
    scene.expect_drop("a drop route", DropReason::RouteDrop, |scene| scene.a_says(to_drop_route));
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn what_cannot_be_translated_is_refused(f: Family) {
    let scene = Scene::new();
    let offending = Frame::udp((f.outside, 53), (f.a, 1000)).packet();
    let error = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &offending, usize::MAX);
    for (name, frame) in [
        ("GRE", Frame::raw(f.a, f.outside, 47)),
        ("the other family's ICMP", Frame::raw(f.a, f.outside, f.pick(58, 1)).payload(vec![8; 16])),
        ("ICMP error without a flow", error),
        ("echo reply without a question", Frame::echo(f.a, f.outside, false, 1, 1)),
        ("another ICMP message", Frame::message(f.a, f.outside, [f.pick(13, 139), 0], [0, 1, 0, 1])),
    ] {
        let reason = DropReason::ProtocolNotTranslated;
        scene.expect_drop(name, reason, |scene| scene.a_says(frame));
    }
    assert!(scene.pairs().is_empty(), "what is dropped makes no flow: {:?}", scene.pairs());
}
