//! The flow table: TCP's states, counters, two CPUs at once, the limit of a pod.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
    thread,
};

use netpath::datapath::monotonic_ns;
use netpath_common::abi::{DropReason, PEER_SEEN, Program};
use netpath_tests::{
    for_both_families,
    kernel::skip,
    packet::{ACK, Frame, RST, SYN, SYN_ACK, see},
    scene::{Context, Family, GATEWAY_MAC, NEXT, Pod, REDIRECT, Ran, Scene, Talk, run_program},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::connection::{Connection, FIN_ACK, PORT, RST_ACK};

for_both_families!(
    a_half_closed_connection_is_established,
    a_syn_on_a_closed_pair_opens_it_anew_with_its_binding,
    a_syn_on_a_live_pair_changes_no_binding,
    a_syn_that_is_answered_opens_a_live_pair_anew,
    both_directions_are_counted_exactly,
    two_cpus_with_one_new_flow_make_one_pair,
    two_cpus_never_share_a_port,
    a_pod_opens_no_more_than_its_limit,
    a_handshake_that_nobody_finishes_stays_unreplied,
    a_flow_of_an_earlier_pod_with_the_address_is_not_used,
);

fn a_half_closed_connection_is_established(f: Family) {
    let connection = Connection::new(f);
    connection.out(FIN_ACK, 2, 1001);
    connection.is("established", "after the pod's FIN");
    for n in 0..10 {
        connection.back(ACK, 1001 + n, 3);
        connection.out(ACK, 3, 1002 + n);
        connection.is("established", "the server goes on");
    }
    connection.back(FIN_ACK, 1011, 3);
    connection.is("closing", "after the server's FIN");
    connection.out(ACK, 3, 1012);
    connection.is("closing", "the last ACK");
}

fn a_syn_on_a_closed_pair_opens_it_anew_with_its_binding(f: Family) {
    let reset: fn(&Connection) = |connection| connection.back(RST, 1001, 0);
    for (name, end) in [("closed", Connection::close as fn(&Connection)), ("reset", reset)] {
        let connection = Connection::new(f);
        let before = connection.pair();
        end(&connection);
        assert_eq!(connection.out(SYN, 5_000_000, 0), PORT, "{name}: the same binding");
        let anew = connection.pair();
        assert_eq!((anew.key, anew.original.addr, anew.original.port), {
            (before.key, before.original.addr, before.original.port)
        });
        let reply = anew.reply.expect("both halves");
        assert_eq!(anew.original.peer_seen & PEER_SEEN, 0, "{name}: no answer yet: {anew:?}");
        assert_eq!(
            (reply.tcp_seen, reply.tcp_ack, reply.tcp_end),
            (0, 0, 0),
            "{name}: nothing of the old one: {anew:?}"
        );
        // The old connection's numbers are no measure for the new one.
        connection.back(SYN_ACK, 9000, 5_000_001);
        connection.is("unreplied", "an answer that nobody has acknowledged");
        assert_ne!(connection.pair().original.peer_seen & PEER_SEEN, 0, "{name}");
        connection.out(ACK, 5_000_001, 9001);
        connection.is("established", name);
        connection.back(RST, 1001, 0);
        connection.is("established", "an RST of the old connection");
        connection.back(RST, 9001, 0);
        connection.is("reset", "an RST of the new one");
    }
}

fn a_syn_on_a_live_pair_changes_no_binding(f: Family) {
    let connection = Connection::new(f);
    assert_eq!(connection.out(SYN, 77, 0), PORT, "a SYN that is sent again");
    connection.is("established", "a challenged SYN (RFC 5961, 4)");
    connection.out(ACK, 2, 1001);
    connection.is("established", "and it goes on");
}

/// The server has forgotten the old connection, and the pod comes again from the same port.
fn a_syn_that_is_answered_opens_a_live_pair_anew(f: Family) {
    for (isn, sends_again) in [(3_000_000_000, false), (3_000_000_000, true), (1500, false)] {
        const NEW: u32 = 2_000_000_000;
        let connection = Connection::new(f);
        // The server has closed, and the pod never heard of it.
        connection.back(FIN_ACK, 1001, 2);
        assert_eq!(connection.out(SYN, isn, 0), PORT, "the same binding");
        if sends_again {
            connection.out(SYN, isn, 0);
        }
        connection.back(SYN_ACK, NEW, isn);
        connection.is("established", "an answer to something else");
        connection.back(SYN_ACK, NEW, isn + 1);
        connection.is("unreplied", "an answer that nobody has acknowledged");
        connection.out(ACK, isn + 1, NEW + 1);
        connection.is("established", "the new connection");
        connection.back(RST, 1001, 0);
        connection.is("established", "an RST of the old connection");
        connection.out(FIN_ACK, isn + 1, NEW + 1);
        connection.is("established", "the old FIN is none of the new connection");
        connection.back(RST, NEW + 1, 0);
        connection.is("reset", "an RST of the new one");
    }
    const ISN: u32 = 3_000_000_000;
    let connection = Connection::new(f);
    connection.out(SYN, ISN, 0);
    connection.back(RST_ACK, 0, ISN);
    connection.is("established", "an RST that acknowledges something else");
    connection.back(RST_ACK, 0, ISN + 1);
    connection.is("reset", "who refuses the new connection has none of the old one");
}

fn both_directions_are_counted_exactly(f: Family) {
    let scene = Scene::new();
    for talk in Talk::ALL {
        for (server, client) in [(f.outside, f.node), (f.unmasked, f.a)] {
            let (mut out, mut back) = ((0, 0), (0, 0));
            for n in 0..20_usize {
                let question = talk.question((f.a, PORT), server).payload(vec![0; n * 61]);
                out = (out.0 + 1, out.1 + question.clone().packet().len() as u64);
                assert_eq!(scene.a_says(question).code, REDIRECT, "{talk:?}");
                for _ in 0..n % 3 {
                    let answer = talk.answer(server, (client, PORT)).payload(vec![0; n * 17]);
                    back = (back.0 + 1, back.1 + answer.clone().packet().len() as u64);
                    assert_eq!(scene.router_says(answer).code, REDIRECT, "{talk:?}");
                }
            }
            let pairs = scene.pairs();
            let pair =
                pairs.iter().find(|pair| pair.key.dst == server.into() && pair.key.proto == talk.number(&f));
            let pair = pair.unwrap_or_else(|| panic!("{talk:?} to {server}: {pairs:?}"));
            let reply = pair.reply.expect("both halves");
            assert_eq!((pair.original.packets, pair.original.bytes), out, "{talk:?} to {server}");
            assert_eq!((reply.packets, reply.bytes), back, "{talk:?} from {server}");
        }
    }
}

/// Runs `from_pod` on two CPUs, packet by packet at the same time; returns what each left.
fn on_two_cpus(scene: &Scene, sends: [(Pod, Vec<Vec<u8>>); 2]) -> [Vec<Ran>; 2] {
    let program = scene.datapath.program(Program::FromPod).expect("program");
    let barrier = Arc::new(Barrier::new(2));
    thread::scope(|scope| {
        let mut cpu = 0;
        let threads = sends.map(|(pod, packets)| {
            let (barrier, own) = (Arc::clone(&barrier), cpu);
            cpu += 1;
            scope.spawn(move || {
                pin(own);
                let context = Context { ifindex: pod.ifindex, ..Context::default() };
                let run = |packet: &Vec<u8>| {
                    barrier.wait();
                    run_program(program, packet, context).expect("run")
                };
                packets.iter().map(run).collect::<Vec<_>>()
            })
        });
        threads.map(|thread| thread.join().expect("thread"))
    })
}

/// The CPUs that this process may use.
fn cpus() -> Vec<usize> {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect()
}

/// Whether there are not two CPUs to race on; then the test is noted as skipped.
fn lacks_a_second_cpu() -> bool {
    let alone = cpus().len() < 2;
    if alone {
        skip("there is one CPU, and two are to race");
    }
    alone
}

/// Keeps the thread on one of the CPUs.
fn pin(which: usize) {
    let mut one = CpuSet::new();
    one.set(cpus()[which]).expect("CPU");
    sched_setaffinity(Pid::from_raw(0), &one).expect("affinity");
}

fn two_cpus_with_one_new_flow_make_one_pair(f: Family) {
    const FLOWS: u16 = 400;
    if lacks_a_second_cpu() {
        return;
    }
    for talk in Talk::PORTS {
        let scene = Scene::with_flows(4096);
        // Ports in the range and outside of it; masqueraded and not.
        let packet = |n: u16| {
            let server = if n % 4 == 3 { f.unmasked } else { f.outside };
            talk.question((f.a, if n.is_multiple_of(2) { PORT + n } else { 1000 + n }), server)
                .macs(scene.a.mac, GATEWAY_MAC)
                .bytes()
        };
        let packets: Vec<_> = (0..FLOWS).map(packet).collect();
        let [first, second] = on_two_cpus(&scene, [(scene.a, packets.clone()), (scene.a, packets)]);
        for (n, (first, second)) in first.iter().zip(&second).enumerate() {
            assert_eq!((first.code, second.code), (REDIRECT, REDIRECT), "{talk:?}, flow {n}");
            assert_eq!(see(&first.packet), see(&second.packet), "{talk:?}, flow {n}: one flow, one port");
        }
        let pairs = scene.pairs();
        assert_eq!(pairs.len(), usize::from(FLOWS), "{talk:?}");
        assert!(pairs.iter().all(|pair| pair.reply.is_some()), "{talk:?}: a half alone");
        assert_eq!(entries(&scene), 2 * usize::from(FLOWS), "{talk:?}: no half beside the pairs");
    }
}

fn entries(scene: &Scene) -> usize {
    use aya::maps::{HashMap, Map};
    use netpath_common::abi::{Flow, FlowKey};
    let flows = HashMap::<_, FlowKey, Flow>::try_from(Map::HashMap(scene.table("FLOWS"))).expect("FLOWS");
    flows.keys().filter(Result::is_ok).count()
}

fn two_cpus_never_share_a_port(f: Family) {
    const FLOWS: u16 = 500;
    if lacks_a_second_cpu() {
        return;
    }
    for talk in Talk::PORTS {
        let mut scene = Scene::with_flows(4096);
        // Nearly as many ports as flows: both CPUs look for the same few.
        scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1200));
        let packets = |pod: Pod| {
            let question = |n| talk.question((pod.address(&f), 33_000 + n), f.outside);
            let bytes = |n| question(n).macs(pod.mac, GATEWAY_MAC).bytes();
            (pod, (0..FLOWS).map(bytes).collect::<Vec<_>>())
        };
        let rans = on_two_cpus(&scene, [packets(scene.a), packets(scene.b)]);
        let left: Vec<_> = rans.iter().flatten().filter(|ran| ran.code == REDIRECT).collect();
        let ports: BTreeSet<_> = left.iter().map(|ran| see(&ran.packet).source_port).collect();
        assert_eq!(ports.len(), left.len(), "{talk:?}: a port that two flows have");
        let refused = scene.drops(DropReason::SnatExhausted) as usize;
        assert_eq!(left.len() + refused, 2 * usize::from(FLOWS), "{talk:?}");
        assert_eq!((scene.pairs().len(), entries(&scene)), (left.len(), 2 * left.len()), "{talk:?}");
    }
}

fn a_pod_opens_no_more_than_its_limit(f: Family) {
    const HOUR: u64 = 3_600_000_000_000;
    let scene = Scene::new();
    let open = |pod: Pod, talk: Talk, port, server| {
        scene.says(pod, talk.question((pod.address(&f), port), server)).code == REDIRECT
    };
    for talk in Talk::ALL {
        for server in [f.outside, f.unmasked] {
            let first = 40_000;
            scene.limit_flows(scene.a, 3, monotonic_ns() + HOUR);
            for n in 0..3 {
                assert!(open(scene.a, talk, first + n, server), "{talk:?} to {server}: flow {n}");
            }
            let more = talk.question((f.a, first + 3), server);
            scene.expect_drop("one more", DropReason::PodFlowLimit, |scene| scene.a_says(more.clone()));
            for n in 0..3 {
                assert!(open(scene.a, talk, first + n, server), "{talk:?} to {server}: live flow {n}");
            }
            assert!(open(scene.b, talk, first + 3, server), "{talk:?} to {server}: another pod");
            // Nobody has counted for long: the table alone is the limit. (The programs' clock is that of the last tick.)
            scene.limit_flows(scene.a, 0, monotonic_ns() - HOUR / 3600);
            assert!(open(scene.a, talk, first + 4, server), "{talk:?} to {server}: without an agent");
        }
    }
    assert_eq!(scene.pairs().len(), 8 * 5, "{:?}", scene.pairs());
}

/// A SYN is answered whoever forged it: only an acknowledged answer makes a flow that lives for hours.
fn a_handshake_that_nobody_finishes_stays_unreplied(f: Family) {
    let scene = Scene::new();
    let out = |flags| scene.a_says(Frame::tcp((f.a, PORT), (f.outside, 443), flags));
    let back = |flags| scene.router_says(Frame::tcp((f.outside, 443), (f.node, PORT), flags));
    let state = || scene.pairs()[0].state().name();
    out(SYN);
    assert_eq!((back(SYN_ACK).code, state()), (REDIRECT, "unreplied"));
    back(SYN_ACK);
    assert_eq!(state(), "unreplied", "sent again");
    out(ACK);
    assert_eq!(state(), "established");
}

/// A pod that is gone had the address: what is left of its flows is not the next pod's.
fn a_flow_of_an_earlier_pod_with_the_address_is_not_used(f: Family) {
    let mut scene = Scene::new();
    let binding = Talk::Udp.open(&scene, &f, PORT).seen.source_port;
    let a = scene.a;
    scene.set_pod_number(a, 77);
    let answer = scene.router_says(Talk::Udp.answer(f.outside, (f.node, binding)));
    assert_eq!(answer.code, NEXT, "the node's stack tells the peer");
    scene.a_says(Talk::Udp.question((f.a, PORT), f.outside));
    let pairs = scene.pairs();
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    assert_eq!((pairs[0].original.pod, pairs[0].original.packets), (77, 1), "{pairs:?}");
}
