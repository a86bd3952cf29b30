//! The limits of the SNAT range and of the flow table.

use std::collections::BTreeSet;

use netpath_common::abi::DropReason;
use netpath_tests::{
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{GATEWAY_MAC, NODE, OUTSIDE, REDIRECT, Scene, UNMASKED},
};

#[test]
fn every_port_of_a_tiny_range_is_used_and_then_drops_are_counted_exactly() {
    let mut scene = Scene::new();
    let a = scene.a;
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 7));
    let send = |scene: &Scene, port, to| {
        scene.from_a(&Frame::udp((a.ip, port), (to, 53)).macs(a.mac, GATEWAY_MAC).bytes())
    };
    let used: BTreeSet<_> =
        (0..7).map(|n| see(&send(&scene, 1000 + n, OUTSIDE).packet).source_port).collect();
    assert_eq!(used, (33_000..33_007).collect(), "every port, the last one too");
    for n in 0..5 {
        let before = scene.all_drops();
        let ran = send(&scene, 2000 + n, OUTSIDE);
        scene.assert_dropped("no port left", &ran, &before, DropReason::SnatExhausted);
    }
    assert_eq!(scene.drops(DropReason::SnatExhausted), 5);
    assert_eq!(scene.pairs().len(), 7, "nothing half-made");
    let other = std::net::Ipv4Addr::new(203, 0, 113, 10).into();
    assert_eq!(send(&scene, 3000, other).code, REDIRECT, "another destination has all its ports");
    for n in 0..7 {
        assert_eq!(send(&scene, 1000 + n, OUTSIDE).code, REDIRECT, "live flows go on");
    }
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let scene = Scene::with_flows(64);
    let a = scene.a;
    let send = |port, to| scene.from_a(&Frame::udp((a.ip, port), (to, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    let made = (0..200).filter(|n| send(40_000 + n, OUTSIDE).code == REDIRECT).count();
    assert!((16..=64).contains(&made), "{made} flows in a table of 64 entries");
    assert_eq!(scene.drops(DropReason::FlowTableFull), 200 - made as u64);
    let pairs = scene.pairs();
    assert_eq!(pairs.len(), made);
    assert!(pairs.iter().all(|pair| pair.reply.is_some()), "no half alone");
    let before = scene.drops(DropReason::FlowTableFull);
    assert_eq!(send(1000, UNMASKED).code, 2, "an untranslated flow needs its entry as well");
    assert_eq!(scene.drops(DropReason::FlowTableFull), before + 1);
    for pair in pairs {
        assert_eq!(send(u16::from_be(pair.key.sport), OUTSIDE).code, REDIRECT, "live flows go on");
    }
}

#[test]
fn tcp_states_follow_both_halves() {
    let scene = Scene::new();
    let a = scene.a;
    let out = |flags| {
        scene.from_a(&Frame::tcp((a.ip, 40_000), (OUTSIDE, 443), flags).macs(a.mac, GATEWAY_MAC).bytes())
    };
    let back = |flags| scene.from_wire(&Frame::tcp((OUTSIDE, 443), (NODE, 40_000), flags).bytes());
    let state = || scene.pairs()[0].state().name();
    out(SYN);
    assert_eq!(state(), "unreplied");
    back(SYN_ACK);
    out(ACK);
    assert_eq!(state(), "established");
    back(RST);
    assert_eq!(state(), "reset");
    back(ACK);
    assert_eq!(state(), "established", "data after a stray RST restores the flow");
    assert_eq!((scene.pairs()[0].original.packets, scene.pairs()[0].reply.unwrap().packets), (2, 3));
}

#[test]
fn removing_a_pods_flows_leaves_the_others() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.from_a(&Frame::udp((a.ip, 40_000), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    let of_b = Frame::udp((b.ip, 40_001), (OUTSIDE, 53)).macs(b.mac, GATEWAY_MAC).bytes();
    let context = netpath_tests::scene::Context { ifindex: b.ifindex, ..Default::default() };
    scene.run(netpath_common::abi::Program::FromPod, &of_b, context);
    assert_eq!(scene.flows.remove_of(a.id).expect("removed"), 1);
    let left = scene.pairs();
    assert_eq!((left.len(), left[0].original.pod), (1, b.id));
    let swept = scene.flows.sweep().expect("sweep");
    assert_eq!((swept.kept, swept.expired, swept.translated), (1, 0, 1), "a sweep keeps live flows");
}
