//! How many flows one pod may have, and what the programs count of scarce ports.

use std::net::Ipv4Addr;

use netpath::datapath::monotonic_ns;
use netpath_common::abi::{DropReason, Program, SNAT_TRY_ROWS};
use netpath_tests::{
    packet::Frame,
    scene::{Context, GATEWAY_MAC, OUTSIDE, Pod, REDIRECT, Ran, Scene, UNMASKED, addr},
};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn send(scene: &Scene, pod: Pod, port: u16, to: Ipv4Addr) -> Ran {
    let packet = Frame::udp((pod.ip, port), (to, 53)).macs(pod.mac, GATEWAY_MAC).bytes();
    scene.run(Program::FromPod, &packet, Context { ifindex: pod.ifindex, ..Context::default() })
}

/// The pod may open so many more.
fn allow(scene: &mut Scene, pod: Pod, more: u64, now: u64) {
    let opened = scene.datapath.opened(pod.id).expect("opened");
    scene.datapath.limit_pod(pod.id, opened + more, now).expect("limit");
}

#[test]
fn a_pod_at_its_limit_opens_no_more_and_keeps_what_it_has() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    allow(&mut scene, a, 3, monotonic_ns());
    allow(&mut scene, b, 3, monotonic_ns());
    assert_eq!(send(&scene, a, 40_000, UNMASKED).code, REDIRECT, "untranslated ones count as well");
    for port in [40_001, 40_002] {
        assert_eq!(send(&scene, a, port, OUTSIDE).code, REDIRECT);
    }
    for (name, to) in [("translated", OUTSIDE), ("untranslated", UNMASKED)] {
        let before = scene.all_drops();
        let ran = send(&scene, a, 40_003, to);
        scene.assert_dropped(name, &ran, &before, DropReason::PodFlowLimit);
    }
    assert_eq!(scene.datapath.opened(a.id).expect("opened"), 3, "what was refused is not counted");
    assert_eq!(scene.pairs().len(), 3);
    assert_eq!(send(&scene, a, 40_001, OUTSIDE).code, REDIRECT, "a flow that is there goes on");
    assert_eq!(send(&scene, b, 40_001, OUTSIDE).code, REDIRECT, "another pod has its own limit");
    allow(&mut scene, a, 1, monotonic_ns());
    assert_eq!(send(&scene, a, 40_003, OUTSIDE).code, REDIRECT, "one has ended, the sweep says");
    assert_eq!(send(&scene, a, 40_004, OUTSIDE).code, 2);
}

#[test]
fn a_limit_that_nobody_renews_ends_after_a_minute() {
    let mut scene = Scene::new();
    let a = scene.a;
    allow(&mut scene, a, 0, monotonic_ns() - MINUTE / 2);
    assert_eq!(send(&scene, a, 40_000, OUTSIDE).code, 2);
    // The programs' clock may be a tick behind.
    allow(&mut scene, a, 0, monotonic_ns() - MINUTE - SECOND);
    assert_eq!(send(&scene, a, 40_000, OUTSIDE).code, REDIRECT, "no agent, no limit but the table");
}

#[test]
fn scarce_ports_are_told_by_destination_and_by_tries() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1));
    assert_eq!(scene.datapath.exhausted().expect("exhausted"), []);
    send(&scene, a, 33_000, OUTSIDE);
    (0..3).for_each(|n| assert_eq!(send(&scene, a, 1000 + n, OUTSIDE).code, 2));
    assert_eq!(send(&scene, b, 1000, OUTSIDE).code, 2);
    let found = scene.datapath.exhausted().expect("exhausted");
    assert_eq!(found.len(), 1);
    let (destination, exhausted) = found[0];
    assert_eq!((destination.dst, destination.dport, destination.proto), (addr(OUTSIDE), 53_u16.to_be(), 17));
    assert_eq!((exhausted.packets, exhausted.pod), (4, b.id));
    let tries = scene.datapath.snat_tries().expect("tries");
    assert_eq!(tries.len(), SNAT_TRY_ROWS as usize);
    assert_eq!((tries[0], tries[tries.len() - 1]), (1, 4), "{tries:?}");
}
