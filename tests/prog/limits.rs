//! How many flows one pod may have, and what the programs count of scarce ports.

use netpath::datapath::monotonic_ns;
use netpath_common::abi::{DropReason, SNAT_TRY_ROWS};
use netpath_tests::{
    for_both_families,
    scene::{DROP, Family, Pod, REDIRECT, Scene, Talk, addr},
};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

for_both_families!(
    a_pod_at_its_limit_opens_no_more_and_keeps_what_it_has,
    a_limit_that_nobody_renews_ends_after_a_minute,
    scarce_ports_are_told_by_destination_and_by_tries,
);

/// The pod may open so many more.
fn allow(scene: &mut Scene, pod: Pod, more: u64, now: u64) {
    let opened = scene.datapath.opened(pod.id).expect("opened");
    scene.datapath.limit_pod(pod.id, opened + more, now).expect("limit");
}

fn a_pod_at_its_limit_opens_no_more_and_keeps_what_it_has(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let send = |scene: &Scene, port, to| scene.a_says(Talk::Udp.question((f.a, port), to));
    allow(&mut scene, a, 3, monotonic_ns());
    allow(&mut scene, b, 3, monotonic_ns());
    assert_eq!(send(&scene, 40_000, f.unmasked).code, REDIRECT, "untranslated ones count as well");
    for port in [40_001, 40_002] {
        assert_eq!(send(&scene, port, f.outside).code, REDIRECT);
    }
    for (name, to) in [("translated", f.outside), ("untranslated", f.unmasked)] {
        scene.expect_drop(name, DropReason::PodFlowLimit, |scene| send(scene, 40_003, to));
    }
    assert_eq!(scene.datapath.opened(a.id).expect("opened"), 3, "what was refused is not counted");
    assert_eq!(scene.pairs().len(), 3);
    assert_eq!(send(&scene, 40_001, f.outside).code, REDIRECT, "a flow that is there goes on");
    let of_b = scene.says(b, Talk::Udp.question((f.b, 40_001), f.outside));
    assert_eq!(of_b.code, REDIRECT, "another pod has its own limit");
    allow(&mut scene, a, 1, monotonic_ns());
    assert_eq!(send(&scene, 40_003, f.outside).code, REDIRECT, "one has ended, the sweep says");
    assert_eq!(send(&scene, 40_004, f.outside).code, DROP);
}

fn a_limit_that_nobody_renews_ends_after_a_minute(f: Family) {
    let mut scene = Scene::new();
    let a = scene.a;
    let send = |scene: &Scene| scene.a_says(Talk::Udp.question((f.a, 40_000), f.outside)).code;
    allow(&mut scene, a, 0, monotonic_ns() - MINUTE / 2);
    assert_eq!(send(&scene), DROP);
    // The programs' clock may be a tick behind.
    allow(&mut scene, a, 0, monotonic_ns() - MINUTE - SECOND);
    assert_eq!(send(&scene), REDIRECT, "no agent, no limit but the table");
}

fn scarce_ports_are_told_by_destination_and_by_tries(f: Family) {
    let mut scene = Scene::new();
    let b = scene.b;
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1));
    let send = |port| scene.a_says(Talk::Udp.question((f.a, port), f.outside)).code;
    assert_eq!(scene.datapath.readings().exhausted().expect("exhausted"), []);
    assert_eq!(send(33_000), REDIRECT);
    (0..3).for_each(|n| assert_eq!(send(1000 + n), DROP));
    assert_eq!(scene.says(b, Talk::Udp.question((f.b, 1000), f.outside)).code, DROP);
    let found = scene.datapath.readings().exhausted().expect("exhausted");
    assert_eq!(found.len(), 1);
    let (destination, exhausted) = found[0];
    let port = Talk::Udp.server_port(0).to_be();
    assert_eq!((destination.dst, destination.dport, destination.proto), (addr(f.outside), port, 17));
    assert_eq!((exhausted.packets, exhausted.pod), (4, b.id));
    let tries = scene.datapath.readings().snat_tries().expect("tries");
    assert_eq!(tries.len(), SNAT_TRY_ROWS as usize);
    assert_eq!((tries[0], tries[tries.len() - 1]), (1, 4), "{tries:?}");
}
