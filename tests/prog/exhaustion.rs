//! The limits of the SNAT range and of the flow table.

use std::collections::BTreeSet;

use netpath::datapath::{Rules, monotonic_ns};
use netpath_common::abi::DropReason;
use netpath_tests::{
    for_both_families,
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{DROP, Family, REDIRECT, Scene, Talk},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

for_both_families!(
    every_port_of_a_tiny_range_is_used_and_then_drops_are_counted_exactly,
    a_full_table_keeps_answered_flows_and_reclaims_others,
    what_no_program_remembers_makes_room_by_a_sweep,
    tcp_states_follow_both_halves,
    removing_a_pods_flows_leaves_the_others,
);

fn every_port_of_a_tiny_range_is_used_and_then_drops_are_counted_exactly(f: Family) {
    let mut scene = Scene::new();
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 7));
    for talk in Talk::PORTS {
        let (dropped, pairs) = (scene.drops(DropReason::SnatExhausted), scene.pairs().len());
        let send = |port, to| scene.a_says(talk.question((f.a, port), to));
        let used: BTreeSet<_> = (0..7).map(|n| see(&send(1000 + n, f.outside).packet).source_port).collect();
        assert_eq!(used, (33_000..33_007).collect(), "{talk:?}: every port, the last one too");
        for n in 0..5 {
            let reason = DropReason::SnatExhausted;
            scene.expect_drop("no port left", reason, |_| send(2000 + n, f.outside));
        }
        assert_eq!(scene.drops(DropReason::SnatExhausted), dropped + 5, "{talk:?}");
        assert_eq!(scene.pairs().len(), pairs + 7, "{talk:?}: nothing half-made");
        assert_eq!(send(3000, f.other).code, REDIRECT, "{talk:?}: another destination has all its ports");
        for n in 0..7 {
            assert_eq!(send(1000 + n, f.outside).code, REDIRECT, "{talk:?}: live flows go on");
        }
    }
}

fn a_full_table_keeps_answered_flows_and_reclaims_others(f: Family) {
    let scene = Scene::with_flows(64);
    let send = |port, to| scene.a_says(Talk::Udp.question((f.a, port), to));
    let answer = |port| scene.router_says(Talk::Udp.answer(f.outside, (f.node, port)));
    for port in 40_000..40_008 {
        assert_eq!((send(port, f.outside).code, answer(port).code), (REDIRECT, REDIRECT), "port {port}");
    }
    for port in 41_000..41_200 {
        assert_eq!(send(port, f.outside).code, REDIRECT, "what never saw a reply makes room for {port}");
    }
    assert_eq!(scene.drops(DropReason::FlowTableFull), 0);
    let pairs = scene.pairs();
    assert!(pairs.iter().all(|pair| pair.reply.is_some()), "no half alone: {pairs:?}");
    let answered = pairs.iter().filter(|pair| pair.reply.is_some_and(|reply| reply.packets == 1));
    assert_eq!(answered.count(), 8, "answered flows stay: {pairs:?}");
    // Now with all of them answered.
    for pair in &pairs {
        assert_eq!(answer(u16::from_be(pair.original.port)).code, REDIRECT);
    }
    let open = |port| send(port, f.outside).code == REDIRECT && answer(port).code == REDIRECT;
    let made = (0..64).filter(|n| open(42_000 + n)).count();
    let refused = scene.drops(DropReason::FlowTableFull);
    assert_eq!(refused, 64 - made as u64, "each flow is either made or refused and counted");
    assert!(refused > 0, "a table of 64 entries has no room for so many");
    assert_eq!(send(1000, f.unmasked).code, DROP, "an untranslated flow needs its entry as well");
    assert_eq!(scene.drops(DropReason::FlowTableFull), refused + 1);
    for pair in pairs {
        assert_eq!(send(u16::from_be(pair.key.sport), f.outside).code, REDIRECT, "live flows go on");
    }
}

/// Programs remember a CPU's newest 4,096 flows; here all of those are answered, and the rest of the table is older.
fn what_no_program_remembers_makes_room_by_a_sweep(f: Family) {
    const ANSWERED: u16 = 4096;
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("affinity");
    let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true)).expect("a CPU");
    let mut one = CpuSet::new();
    one.set(cpu).expect("a CPU");
    sched_setaffinity(this, &one).expect("affinity");
    let mut scene = Scene::with_flows(16_384);
    let send = |scene: &Scene, port, to| scene.a_says(Talk::Udp.question((f.a, port), to)).code;
    let unanswered = 16_384 / 2 - ANSWERED;
    for port in 0..unanswered {
        assert_eq!(send(&scene, 33_000 + port, f.outside), REDIRECT);
    }
    for port in 33_000..33_000 + ANSWERED {
        assert_eq!(send(&scene, port, f.other), REDIRECT);
        assert_eq!(scene.router_says(Talk::Udp.answer(f.other, (f.node, port))).code, REDIRECT);
    }
    scene.expect_drop("a full table", DropReason::FlowTableFull, |scene| {
        scene.a_says(Talk::Udp.question((f.a, 1000), f.outside))
    });
    let swept = scene.flows.sweep_by(&Rules::at(monotonic_ns() + 10_000_000_000)).expect("sweep");
    assert!(swept.kept * 10 < 16_384 / 2 * 9 && swept.expired == 0, "{swept:?}");
    assert_eq!(send(&scene, 1000, f.outside), REDIRECT, "there is room");
    let pairs = scene.pairs();
    let answered = pairs.iter().filter(|pair| pair.reply.is_some_and(|reply| reply.packets == 1)).count();
    assert_eq!(answered, usize::from(ANSWERED), "what is answered stays");
}

fn tcp_states_follow_both_halves(f: Family) {
    let scene = Scene::new();
    let out = |flags| scene.a_says(Frame::tcp((f.a, 40_000), (f.outside, 443), flags));
    let back = |flags| scene.router_says(Frame::tcp((f.outside, 443), (f.node, 40_000), flags));
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

fn removing_a_pods_flows_leaves_the_others(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.a_says(Talk::Udp.question((f.a, 40_000), f.outside));
    scene.says(b, Talk::Udp.question((f.b, 40_001), f.outside));
    assert_eq!(scene.flows.remove_of(a.id).expect("removed"), 1);
    let left = scene.pairs();
    assert_eq!((left.len(), left[0].original.pod), (1, b.id));
    let swept = scene.flows.sweep().expect("sweep");
    assert_eq!((swept.kept, swept.expired, swept.translated), (1, 0, 1), "a sweep keeps live flows");
}
