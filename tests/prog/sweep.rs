//! What a sweep sees of flows that the programs made.

use netpath::datapath::{Rules, monotonic_ns};
use netpath_tests::{
    for_both_families,
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{DROP, Family, REDIRECT, Scene, Talk},
};

const SECOND: u64 = 1_000_000_000;

for_both_families!(
    a_sweep_gives_each_flow_the_time_of_its_state,
    what_a_sweep_removes_gives_its_port_back_and_is_made_anew,
    a_sweep_counts_the_flows_of_each_pod,
);

/// Source ports of what is left after a sweep so many seconds from now.
fn left(scene: &mut Scene, seconds: u64) -> Vec<u16> {
    let now = monotonic_ns() + seconds * SECOND;
    scene.flows.sweep_by(&Rules::at(now)).expect("sweep");
    let mut ports: Vec<_> = scene.pairs().iter().map(|pair| u16::from_be(pair.key.sport)).collect();
    ports.sort_unstable();
    ports
}

fn a_sweep_gives_each_flow_the_time_of_its_state(f: Family) {
    let mut scene = Scene::new();
    let udp = |port, to| scene.a_says(Talk::Udp.question((f.a, port), to));
    let tcp = |port, flags| scene.a_says(Frame::tcp((f.a, port), (f.outside, 443), flags));
    let back = |port, flags| scene.router_says(Frame::tcp((f.outside, 443), (f.node, port), flags));
    udp(40_001, f.outside);
    udp(40_002, f.outside);
    scene.router_says(Talk::Udp.answer(f.outside, (f.node, 40_002)));
    tcp(40_003, SYN);
    for port in [40_004, 40_005] {
        tcp(port, SYN);
        back(port, SYN_ACK);
        tcp(port, ACK);
    }
    back(40_005, RST);
    udp(40_006, f.unmasked);
    scene.a_says(Talk::Echo.question((f.a, 40_007), f.outside));
    for (seconds, ports) in [
        (9, vec![40_001, 40_002, 40_003, 40_004, 40_005, 40_006, 40_007]),
        (11, vec![40_001, 40_002, 40_003, 40_004, 40_006, 40_007]),
        (31, vec![40_001, 40_002, 40_003, 40_004, 40_006]),
        (61, vec![40_002, 40_004]),
        (181, vec![40_004]),
        (6 * 3600 + 1, vec![]),
    ] {
        assert_eq!(left(&mut scene, seconds), ports, "after {seconds} s");
    }
}

fn what_a_sweep_removes_gives_its_port_back_and_is_made_anew(f: Family) {
    let mut scene = Scene::new();
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1));
    let send = |scene: &Scene, port| scene.a_says(Talk::Udp.question((f.a, port), f.outside));
    assert_eq!(see(&send(&scene, 1000).packet).source_port, 33_000);
    assert_eq!(send(&scene, 1001).code, DROP, "the only port is taken");
    assert_eq!(left(&mut scene, 61), [0; 0]);
    assert_eq!(see(&send(&scene, 1001).packet).source_port, 33_000);
    assert_eq!(scene.router_says(Talk::Udp.answer(f.outside, (f.node, 33_000))).code, REDIRECT);
    assert_eq!(left(&mut scene, 61), [1001], "answered flows have longer");
}

fn a_sweep_counts_the_flows_of_each_pod(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    for n in 0..5 {
        assert_eq!(scene.a_says(Talk::Udp.question((f.a, 40_000 + n), f.outside)).code, REDIRECT);
    }
    scene.a_says(Talk::Udp.question((f.a, 41_000), f.unmasked));
    scene.says(b, Talk::Udp.question((f.b, 40_001), f.outside));
    let swept = scene.flows.sweep().expect("sweep");
    assert_eq!((swept.kept, swept.translated, swept.orphans), (7, 6, 0));
    assert_eq!(swept.of_pods, [(a.id, 6), (b.id, 1)].into());
}
