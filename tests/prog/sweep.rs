//! What a sweep sees of flows that the programs made.

use netpath::datapath::{Timeouts, monotonic_ns};
use netpath_tests::{
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{GATEWAY_MAC, NODE, OUTSIDE, REDIRECT, Scene, UNMASKED},
};

const SECOND: u64 = 1_000_000_000;

fn udp(scene: &Scene, port: u16, to: std::net::Ipv4Addr) -> i32 {
    let a = scene.a;
    scene.from_a(&Frame::udp((a.ip, port), (to, 53)).macs(a.mac, GATEWAY_MAC).bytes()).code
}

fn answer(scene: &Scene, port: u16) -> i32 {
    scene.from_wire(&Frame::udp((OUTSIDE, 53), (NODE, port)).macs([2; 6], GATEWAY_MAC).bytes()).code
}

/// What is left after a sweep so many seconds from now.
fn left(scene: &mut Scene, seconds: u64) -> Vec<u16> {
    let now = monotonic_ns() + seconds * SECOND;
    scene.flows.sweep_at(&Timeouts::DEFAULT, now).expect("sweep");
    let mut ports: Vec<_> = scene.pairs().iter().map(|pair| u16::from_be(pair.key.sport)).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_sweep_gives_each_flow_the_time_of_its_state() {
    let mut scene = Scene::new();
    let a = scene.a;
    let tcp = |scene: &Scene, port, flags| {
        scene.from_a(&Frame::tcp((a.ip, port), (OUTSIDE, 443), flags).macs(a.mac, GATEWAY_MAC).bytes());
    };
    let back = |scene: &Scene, port, flags| {
        scene.from_wire(&Frame::tcp((OUTSIDE, 443), (NODE, port), flags).bytes());
    };
    udp(&scene, 40_001, OUTSIDE);
    udp(&scene, 40_002, OUTSIDE);
    answer(&scene, 40_002);
    tcp(&scene, 40_003, SYN);
    for port in [40_004, 40_005] {
        tcp(&scene, port, SYN);
        back(&scene, port, SYN_ACK);
        tcp(&scene, port, ACK);
    }
    back(&scene, 40_005, RST);
    udp(&scene, 40_006, UNMASKED);
    for (seconds, ports) in [
        (9, vec![40_001, 40_002, 40_003, 40_004, 40_005, 40_006]),
        (11, vec![40_001, 40_002, 40_003, 40_004, 40_006]),
        (61, vec![40_002, 40_004]),
        (181, vec![40_004]),
        (6 * 3600 + 1, vec![]),
    ] {
        assert_eq!(left(&mut scene, seconds), ports, "after {seconds} s");
    }
}

#[test]
fn what_a_sweep_removes_gives_its_port_back_and_is_made_anew() {
    let mut scene = Scene::new();
    let a = scene.a;
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1));
    let send = |scene: &Scene, port| {
        scene.from_a(&Frame::udp((a.ip, port), (OUTSIDE, 53)).macs(a.mac, GATEWAY_MAC).bytes())
    };
    assert_eq!(see(&send(&scene, 1000).packet).source_port, 33_000);
    assert_ne!(send(&scene, 1001).code, REDIRECT, "the only port is taken");
    assert_eq!(left(&mut scene, 61), [0; 0]);
    assert_eq!(see(&send(&scene, 1001).packet).source_port, 33_000);
    assert_eq!(answer(&scene, 33_000), REDIRECT);
    assert_eq!(left(&mut scene, 61), [1001], "answered flows have longer");
}

#[test]
fn a_sweep_counts_the_flows_of_each_pod() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    (0..5).for_each(|n| assert_eq!(udp(&scene, 40_000 + n, OUTSIDE), REDIRECT));
    udp(&scene, 41_000, UNMASKED);
    let of_b = Frame::udp((b.ip, 40_001), (OUTSIDE, 53)).macs(b.mac, GATEWAY_MAC).bytes();
    let context = netpath_tests::scene::Context { ifindex: b.ifindex, ..Default::default() };
    scene.run(netpath_common::abi::Program::FromPod, &of_b, context);
    let swept = scene.flows.sweep().expect("sweep");
    assert_eq!((swept.kept, swept.translated, swept.orphans), (7, 6, 0));
    assert_eq!(swept.of_pods, [(a.id, 6), (b.id, 1)].into());
}
