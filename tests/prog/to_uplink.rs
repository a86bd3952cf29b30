//! `to_uplink`: invariant 1.

use netpath_common::abi::{DropReason, Program};
use netpath_tests::{
    packet::{ACK, Frame, SYN, arp, see},
    scene::{Context, GATEWAY_MAC, NEXT, NOBODY, NODE, OUTSIDE, Ran, Scene, UNMASKED},
};

fn leave(scene: &Scene, packet: &[u8], ingress_ifindex: u32, mark: u32) -> Ran {
    scene.run(
        Program::ToUplink,
        packet,
        Context { ifindex: scene.uplink, ingress_ifindex, mark, gso_size: 0 },
    )
}

#[test]
fn what_from_pod_finished_passes_and_loses_its_mark() {
    let scene = Scene::new();
    let a = scene.a;
    let ran = scene.from_a(&Frame::udp((a.ip, 40_000), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    assert_ne!(ran.mark, 0, "from_pod says that it is finished");
    let left = leave(&scene, &ran.packet, a.ifindex, ran.mark);
    assert_eq!((left.code, left.mark, left.packet), (NEXT, 0, ran.packet));
}

#[test]
fn what_is_the_nodes_passes() {
    let scene = Scene::new();
    let mark = 0x1234;
    let rows = [
        ("its own packet", Frame::udp((NODE, 40_000), (OUTSIDE, 53)).bytes(), 0),
        ("masqueraded by somebody else", Frame::udp((NODE, 40_000), (OUTSIDE, 53)).bytes(), scene.vpn),
        ("forwarded for others", Frame::udp((UNMASKED, 1), (OUTSIDE, 53)).bytes(), scene.vpn),
        ("ARP", arp(true, GATEWAY_MAC, (GATEWAY_MAC, NODE), OUTSIDE), 0),
    ];
    for (name, packet, ingress) in rows {
        let ran = leave(&scene, &packet, ingress, mark);
        assert_eq!(
            (ran.code, ran.mark, ran.packet),
            (NEXT, mark, packet),
            "{name}: the mark of others stays"
        );
    }
    assert!(scene.pairs().is_empty());
}

#[test]
fn what_the_stack_forwards_for_a_pod_is_translated() {
    let scene = Scene::new();
    let a = scene.a;
    let forwarded = |frame: Frame| leave(&scene, &frame.ttl(63).bytes(), a.ifindex, 0);
    let seen = see(&forwarded(Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), SYN)).packet);
    assert_eq!(
        (seen.source, seen.source_port, seen.ttl),
        (NODE, 40_000, 63),
        "a new flow; the stack has counted the hop"
    );
    let moved =
        see(&scene.from_a(&Frame::udp((a.ip, 9), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes()).packet);
    let seen = see(&forwarded(Frame::udp((a.ip, 9), (OUTSIDE, 53))).packet);
    assert_eq!((seen.source, seen.source_port), (NODE, moved.source_port), "a known flow keeps its binding");
    let seen = see(&forwarded(Frame::udp((a.ip, 9), (UNMASKED, 53))).packet);
    assert_eq!((seen.source, seen.source_port), (a.ip, 9), "its route says no masquerade");
}

#[test]
fn what_cannot_be_translated_does_not_leave() {
    let scene = Scene::new();
    let a = scene.a;
    let mut damaged = Frame::udp((a.ip, 9), (OUTSIDE, 53)).bytes();
    damaged[38..40].copy_from_slice(&[0xff, 0xff]);
    let rows = [
        ("GRE", Frame::raw(a.ip, OUTSIDE, 47).bytes(), DropReason::ProtocolNotTranslated),
        ("damaged", damaged, DropReason::Malformed),
        (
            "of a pod that has gone",
            Frame::tcp((NOBODY, 9), (OUTSIDE, 53), ACK).bytes(),
            DropReason::Untranslated,
        ),
    ];
    for (name, packet, reason) in rows {
        let before = scene.all_drops();
        let ran = leave(&scene, &packet, a.ifindex, 0);
        scene.assert_dropped(name, &ran, &before, reason);
    }
    let mut scene = scene;
    scene.set_node(|node| node.uplinks[0].v4 = netpath_common::abi::Pool::default());
    let before = scene.all_drops();
    let ran = leave(&scene, &Frame::udp((a.ip, 9), (OUTSIDE, 53)).bytes(), a.ifindex, 0);
    scene.assert_dropped("uplink without an address", &ran, &before, DropReason::NoSourceAddress);
}
