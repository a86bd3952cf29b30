//! Programs of pods come by filters, at once, and go on by tcx links, one pod after the other (docs/UPGRADE.md).

use std::{fs, thread, time::Duration};

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, TcHandle},
};
use futures::future::join_all;
use netpath::{
    api::types::{Pod, PodAdd, Status},
    net::Netns,
};
use netpath_common::abi::Program;
use netpath_tests::{
    for_both_families,
    kernel::lacks,
    node::{Node, run_in},
    random::Random,
    scene::Family,
    side::{Echo, Side, dual},
    tidy::{self, PINS, settled},
    traffic::Traffic,
    wait::until,
};
use nix::mount::{MsFlags, mount};

use super::{restart::traffic, upgrade::nothing_is_lost};

for_both_families!(
    pods_move_to_links_and_no_packet_is_lost_or_counted_twice,
    xdp_pods_move_to_links_and_no_packet_is_lost_or_counted_twice,
    crash_in_the_middle_of_a_move_loses_no_packet,
);

/// Times that all pods are moved.
const MOVES: u32 = 3;
/// Kills of agents that move pods.
const KILLS: u32 = 4;
/// Pods that come at once.
const MANY: usize = 50;
const TO_THE_NODE: &str = "datagrams c to the node";

fn attached_by(attach: &str, mode: &str) -> String {
    format!("[flows]\ncapacity = 65536\n[datapath]\nattach = \"{attach}\"\nmode = \"{mode}\"")
}

/// Pods that have their link, as the pins tell.
fn linked() -> usize {
    let pins = fs::read_dir(format!("{PINS}/v2/links")).expect("pins");
    pins.filter(|pin| pin.as_ref().expect("pin").file_name().to_string_lossy().ends_with("-from_pod")).count()
}

fn status(node: &Node) -> Status {
    node.runtime.block_on(node.client.status()).expect("status")
}

/// How many of a program are attached by a kind.
fn count(status: &Status, program: &str, kind: &str) -> usize {
    status.programs.iter().filter(|one| one.name == program && one.attach == kind).count()
}

/// Packets that a pod has sent, as its counter tells.
fn sent(node: &Node, pod: &str) -> u64 {
    let pods = node.runtime.block_on(node.client.pods()).expect("pods");
    pods.iter().find(|one| one.name == pod).expect("pod").tx_packets
}

/// A node with all kinds of traffic, and pod `c` that only talks to the node: what goes to the stack meets both programs. On
/// clsact to begin with. Also tells of `c` as it was before.
fn under_traffic(side: &Side, mode: &str) -> (Node, Traffic, Pod) {
    let (node, a, b) = dual(&attached_by("clsact", mode));
    let c = node.pod("c");
    let before = Pod { tx_packets: sent(&node, "c"), ..c.pod.clone() };
    let own = Echo::start(&node.topology.node.netns, side.node);
    let mut traffic = traffic(&node, side, &a, &b);
    traffic.datagrams(TO_THE_NODE, &c.netns, own.address);
    traffic.moves("before any move");
    (node, traffic, before)
}

/// The next agent moves all pods, having found filters only.
fn move_all(node: &mut Node, traffic: &Traffic, mode: &str) {
    for attach in ["clsact", "auto"] {
        node.configure(&attached_by(attach, mode));
        node.stop();
        node.restart();
    }
    settled(node);
    traffic.moves("on links");
}

/// What `c` has sent was counted packet by packet.
fn all_is_counted(node: &Node, side: &Side, traffic: Traffic, c: &Pod) {
    let totals = nothing_is_lost(node, side, traffic);
    assert_eq!(
        sent(node, "c") - c.tx_packets,
        totals.by_sender[TO_THE_NODE],
        "packets that went to the stack"
    );
}

fn moves(family: &Family, mode: &str) {
    if lacks((6, 6), "tcx") {
        return;
    }
    let side = Side::of(family);
    let (mut node, traffic, c) = under_traffic(&side, mode);
    for _ in 0..MOVES {
        move_all(&mut node, &traffic, mode);
        let now = status(&node);
        let kinds =
            ["tcx", "clsact"].map(|kind| [count(&now, "from_pod", kind), count(&now, "to_pod", kind)]);
        assert_eq!(kinds, [[3, 0], [0, 3]], "{:?}", now.programs);
    }
    // Nothing is moved back.
    node.stop();
    node.restart();
    assert_eq!((status(&node).settling, linked()), (0, 3));
    all_is_counted(&node, &side, traffic, &c);
    tidy::check(&node, &["a", "b", "c"]);
}

fn pods_move_to_links_and_no_packet_is_lost_or_counted_twice(family: Family) {
    moves(&family, "tc");
}

fn xdp_pods_move_to_links_and_no_packet_is_lost_or_counted_twice(family: Family) {
    moves(&family, "xdp");
}

/// Makes of a pod's interface on a link what an agent leaves that is killed before it removes the filter.
fn stand_behind(netns: &Netns, interface: &str) {
    let link = tidy::attached(netns, interface).into_iter().find(|(_, program, _)| program == "from_pod");
    let (_, _, id) = link.expect("from_pod");
    let pin = format!("{PINS}/once");
    assert_eq!(run_in(netns, "bpftool", &["prog", "pin", "id", &id.to_string(), &pin]), "");
    // Of an instance's filters the handles differ by the program's number.
    let filters = run_in(netns, "tc", &["filter", "show", "dev", interface, "egress"]);
    let handle = filters.split(' ').skip_while(|word| *word != "handle").nth(1).expect("to_pod's filter");
    let handle = u32::from_str_radix(handle.trim_start_matches("0x"), 16).expect("a number");
    let handle = TcHandle::from(handle - Program::ToPod as u32 + Program::FromPod as u32);
    let place = TcAttachOptions::Netlink(NlOptions { priority: 1, handle, classid: None });
    let attach = || {
        let mut program = SchedClassifier::from_pin(&pin).expect("program");
        let link = program.attach_with_options(interface, TcAttachType::Ingress, place).expect("attached");
        // Dropped, it would detach.
        std::mem::forget(program.take_link(link).expect("link"));
    };
    netns.enter(attach).expect("namespace");
    fs::remove_file(pin).expect("pin");
    let kinds = tidy::attached(netns, interface);
    let kinds = kinds.iter().filter(|(_, program, _)| program == "from_pod").map(|(kind, ..)| *kind);
    assert_eq!(kinds.collect::<Vec<_>>(), ["tcx", "clsact"]);
}

fn crash_in_the_middle_of_a_move_loses_no_packet(family: Family) {
    if lacks((6, 6), "tcx") {
        return;
    }
    let seed = Random::seed("NETPATH_SEED");
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let side = Side::of(&family);
    let (mut node, traffic, c) = under_traffic(&side, "tc");
    let netns = node.topology.node.netns.clone();
    let interface = node.pod("d").pod.interface;
    for _ in 0..KILLS {
        node.configure(&attached_by("clsact", "tc"));
        node.stop();
        node.restart();
        node.configure(&attached_by("auto", "tc"));
        node.stop();
        node.restart();
        until("a pod has its link", || linked() > 0);
        thread::sleep(Duration::from_millis(random.below(80) as u64));
        node.kill();
        println!("killed with {} linked, and {:?}", linked(), tidy::attached(&netns, &interface));
        traffic.moves("without an agent");
        // The next one goes on with it, or undoes it at once.
        if random.once_in(2) {
            node.restart();
            settled(&node);
        } else {
            node.configure(&attached_by("clsact", "tc"));
            node.restart();
        }
    }
    node.configure(&attached_by("auto", "tc"));
    node.stop();
    node.restart();
    settled(&node);
    // Both at once are there too shortly to be met by chance.
    node.kill();
    stand_behind(&netns, &c.interface);
    traffic.moves("by both, without an agent");
    node.restart();
    all_is_counted(&node, &side, traffic, &c);
    tidy::check(&node, &["a", "b", "c", "d"]);
}

/// Whoever adds pods waits for no link, and all have one soon.
#[test]
fn many_pods_at_once_all_move() {
    if lacks((6, 6), "tcx") {
        return;
    }
    let mut node = Node::start("");
    // Answers how many waited for a link then.
    let add = async |name: String| {
        let wanted = PodAdd { name, ..PodAdd::default() };
        node.client.pod_add(&wanted).await.expect("pod");
        node.client.status().await.expect("status").settling
    };
    let names = |prefix: &str| (0..MANY).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>();
    let settling = node.runtime.block_on(join_all(names("a").into_iter().map(add)));
    assert!(settling.iter().any(|settling| *settling > 0), "somebody has waited for a link: {settling:?}");
    let now = settled(&node);
    assert_eq!((count(&now, "from_pod", "tcx"), count(&now, "to_pod", "clsact")), (MANY, MANY));
    assert_eq!((count(&now, "from_uplink", "tcx"), count(&now, "to_uplink", "tcx")), (1, 1));
    // As many again, which go while they are moved.
    node.runtime.block_on(join_all(names("b").into_iter().map(add)));
    until("some are moved", || linked() > MANY);
    let remove = async |name: String| node.client.pod_rm(&name).await.expect("removed");
    node.runtime.block_on(join_all(names("b").into_iter().map(remove)));
    let now = settled(&node);
    assert_eq!((count(&now, "from_pod", "tcx"), linked(), now.problems), (MANY, MANY, Vec::new()));
    node.stop();
    node.restart();
    assert_eq!((status(&node).settling, count(&status(&node), "from_pod", "tcx")), (0, MANY));
    tidy::check(&node, &["a0"]);
}

/// A pod that cannot have its link keeps its filter, and `status` says why.
#[test]
fn a_pod_that_cannot_be_moved_works_and_is_told() {
    if lacks((6, 6), "tcx") {
        return;
    }
    let node = Node::start("");
    let read_only = |flag| {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flag;
        mount(None::<&str>, "/sys/fs/bpf", None::<&str>, flags, None::<&str>).expect("remount");
    };
    let pod = node.pod("a");
    read_only(MsFlags::MS_RDONLY);
    until("it is told", || {
        status(&node).problems.iter().any(|problem| problem.starts_with("programs of pod a: moving"))
    });
    println!("{:?}", status(&node).problems);
    let side = Side::of(&Family::V4);
    let answer =
        run_in(&node.topology.node.netns, "ping", &["-c1", "-W5", "-q", &side.address(&pod).to_string()]);
    assert!(answer.contains(" 0% packet loss"), "{answer}");
    read_only(MsFlags::empty());
    settled(&node);
    // A full pass may have come by meanwhile, and met other pins that it could not touch.
    until("all is well", || status(&node).problems.is_empty());
    tidy::check(&node, &["a"]);
}
