//! Invariant 2, from one build to another: every packet meets programs and tables that know its flow. `cargo xtask next` makes
//! the other builds.

use std::{path::Path, thread, time::Duration};

use aya::maps::{Array, Map, MapData};
use netpath::api::types::Flow;
use netpath_common::abi::Move;
use netpath_tests::{
    for_both_families,
    node::{Node, binary, log, run_in},
    random::Random,
    scene::Family,
    side::{Side, dual},
    tidy,
    traffic::{Totals, Traffic},
    wait,
};

use super::restart::traffic;

for_both_families!(
    upgrade_to_a_changed_build_and_downgrade_lose_no_packet,
    upgrade_across_layouts_loses_no_packet_and_downgrade_is_refused,
    crash_in_the_middle_of_an_upgrade_loses_no_packet,
    crash_while_flows_move_is_finished_by_any_later_build,
    upgrade_to_another_size_of_the_flow_table_loses_no_packet,
    upgrade_and_downgrade_on_clsact_lose_no_packet,
    restart_with_another_kind_of_attachment_loses_no_packet,
);

/// Room for the flows of all short connections of half a minute.
const CAPACITY: u32 = 65_536;
/// Kills of agents that begin a move of the flows.
const KILLS: u32 = 6;
/// What outlives the whole test: the sender of these, see `traffic`.
const LASTING: &str = "datagrams b to outside";

fn capacity(entries: u32) -> String {
    attached_by("auto", entries)
}

fn attached_by(attach: &str, entries: u32) -> String {
    format!("[flows]\ncapacity = {entries}\n[datapath]\nattach = \"{attach}\"")
}

/// Another build.
fn build(node: &mut Node, name: &str) {
    node.binary = binary().with_file_name(name);
    assert!(node.binary.exists(), "{} is missing: run 'cargo xtask next'", node.binary.display());
}

/// Flows that live as long as the test: those of both senders to outside, and the stream's.
fn lasting(node: &Node) -> Vec<Flow> {
    let mut found = Vec::new();
    wait::until("flows with many packets", || {
        let flows = node.runtime.block_on(node.client.flows(None)).expect("flows");
        // Of a short connection there are some packets in each direction.
        found = flows.into_iter().filter(|flow| flow.packets > 20 && flow.state != "closing").collect();
        found.len() >= 3
    });
    found
}

/// Every flow of `before` is the same flow still: its translation, its age, its counters.
fn are_kept(before: &[Flow], node: &Node, when: &str) {
    let now = node.runtime.block_on(node.client.flows(None)).expect("flows");
    // The node itself says nothing to outside: its flows would be what was translated twice.
    let of_the_node: Vec<&Flow> = now.iter().filter(|flow| flow.pod == "0").collect();
    assert!(of_the_node.is_empty(), "{when}: {of_the_node:?}");
    for was in before {
        let of = |flow: &Flow| {
            let ports = (flow.source_port, flow.destination_port, flow.translated_port);
            (
                flow.protocol.clone(),
                flow.source,
                flow.destination,
                flow.translated_source,
                ports,
                flow.pod.clone(),
            )
        };
        let same: Vec<&Flow> = now.iter().filter(|flow| of(flow) == of(was)).collect();
        assert_eq!(same.len(), 1, "{when}: {was:?} became {same:?}");
        let is = same[0];
        assert!(
            is.age_s >= was.age_s && is.packets > was.packets && is.reply_packets > was.reply_packets,
            "{when}: {was:?} became {is:?}"
        );
    }
}

/// Ends the traffic: nothing was lost, and the flow of a sender has counted every one of its packets.
pub(super) fn nothing_is_lost(node: &Node, side: &Side, traffic: Traffic) -> Totals {
    let totals = traffic.finish();
    let Totals { sent, lost, connections, reset, ref by_sender, .. } = totals;
    println!("sent {sent} lost {lost}, connections {connections} reset {reset}");
    assert_eq!((lost, reset), (0, 0), "{totals:?}");
    let flows = node.runtime.block_on(node.client.flows(Some("b"))).expect("flows");
    let to_outside = |flow: &&Flow| flow.protocol == "udp" && flow.destination == side.outside;
    let counted: Vec<(u64, u64)> =
        flows.iter().filter(to_outside).map(|flow| (flow.packets, flow.reply_packets)).collect();
    assert_eq!(counted, [(by_sender[LASTING], by_sender[LASTING])], "counted to the packet");
    totals
}

/// One restart into another build or configuration, under traffic.
fn step(node: &mut Node, traffic: &Traffic, when: &str) {
    traffic.moves(&format!("before {when}"));
    let before = lasting(node);
    node.stop();
    node.restart();
    traffic.moves(when);
    are_kept(&before, node, when);
    tidy::check(node, &["a", "b"]);
    println!("{when}: {} flows kept", before.len());
}

fn upgrade_to_a_changed_build_and_downgrade_lose_no_packet(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    for name in ["netpath-changed", "netpath", "netpath-changed"] {
        build(&mut node, name);
        step(&mut node, &traffic, &format!("with {name}"));
        node.pod(&format!("of-{}", node.runtime.block_on(node.client.pods()).expect("pods").len()));
    }
    assert!(!log().contains("flows moved"), "their layout is the same");
    nothing_is_lost(&node, &side, traffic);
}

fn upgrade_across_layouts_loses_no_packet_and_downgrade_is_refused(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    build(&mut node, "netpath-grown");
    step(&mut node, &traffic, "with netpath-grown");
    assert!(log().contains("flows moved"), "{}", log());
    build(&mut node, "netpath-changed");
    node.stop();
    let said = node.refused(&[]);
    for words in ["v2/maps/FLOWS", "records of 128 bytes", "later build", "--forget-flows", "is lost"] {
        assert!(said.contains(words), "no '{words}' in: {said}");
    }
    traffic.moves("after a refused downgrade");
    build(&mut node, "netpath-grown");
    node.restart();
    traffic.moves("with the later build again");
    nothing_is_lost(&node, &side, traffic);
    // Forced, it ends the flows, and new ones work.
    node.stop();
    build(&mut node, "netpath");
    node.spawn_with(&["--forget-flows"]);
    node.wait_ready();
    assert!(log().contains("all flows are forgotten"), "{}", log());
    tidy::check(&node, &["a", "b"]);
    super::restart::traffic(&node, &side, &a, &b);
}

/// Each start has flows to move, into another size of table or another layout, and is killed somewhere in it.
fn crash_in_the_middle_of_an_upgrade_loses_no_packet(family: Family) {
    let seed = Random::seed("NETPATH_SEED");
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    let before = lasting(&node);
    node.stop();
    for kill in 1..=KILLS {
        if kill > KILLS / 2 {
            build(&mut node, "netpath-grown");
        }
        node.configure(&capacity(CAPACITY + kill * 1024));
        node.spawn();
        thread::sleep(Duration::from_millis(random.below(1500) as u64));
        node.kill();
        println!("killed, with these tables: {:?}", flow_tables());
        traffic.moves("without an agent");
    }
    node.restart();
    assert_eq!(flow_tables(), ["FLOWS"]);
    are_kept(&before, &node, "after all");
    tidy::check(&node, &["a", "b"]);
    nothing_is_lost(&node, &side, traffic);
}

/// An agent dies while its flows move into a table of another size; what comes next has yet another layout.
fn crash_while_flows_move_is_finished_by_any_later_build(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    let before = lasting(&node);
    node.stop();
    let mut entries = CAPACITY;
    // The move takes some milliseconds: not every kill meets it.
    wait::until("an agent that died while flows moved", || {
        entries += 1024;
        node.configure(&capacity(entries));
        node.spawn();
        wait::until("a move", || {
            how_far_flows_moved().is_some_and(|state| state != Move::Stay as u32)
                || node.runtime.block_on(node.client.status()).is_ok()
        });
        node.kill();
        how_far_flows_moved() == Some(Move::Pull as u32)
    });
    traffic.moves("without an agent");
    build(&mut node, "netpath-grown");
    node.restart();
    assert!(log().contains("that an earlier agent had not come to"), "{}", log());
    assert_eq!(flow_tables(), ["FLOWS"]);
    are_kept(&before, &node, "after all");
    tidy::check(&node, &["a", "b"]);
    nothing_is_lost(&node, &side, traffic);
}

/// What FLOWS_MOVE says, if it is there.
fn how_far_flows_moved() -> Option<u32> {
    let data = MapData::from_pin(Path::new(tidy::PINS).join("v2/maps/FLOWS_MOVE")).ok()?;
    let state: Array<_, u32> = Map::Array(data).try_into().expect("FLOWS_MOVE");
    Some(state.get(&0, 0).expect("its entry"))
}

fn flow_tables() -> Vec<String> {
    let maps = Path::new(tidy::PINS).join("v2/maps");
    let mut names: Vec<String> = std::fs::read_dir(maps)
        .expect("pins")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("FLOWS"))
        .collect();
    names.sort();
    names
}

fn upgrade_to_another_size_of_the_flow_table_loses_no_packet(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    // The last is too small for the flows that there are: the table stays as it is.
    for (entries, becomes) in [(131_072, 131_072), (32_768, 32_768), (64, 32_768)] {
        node.configure(&capacity(entries));
        step(&mut node, &traffic, &format!("with {entries} entries"));
        let status = node.runtime.block_on(node.client.status()).expect("status");
        assert_eq!(status.flow_capacity, becomes / 2);
    }
    nothing_is_lost(&node, &side, traffic);
}

/// Down from a build with a program more, and up to one with another layout of flows.
fn upgrade_and_downgrade_on_clsact_lose_no_packet(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&attached_by("clsact", CAPACITY));
    let traffic = traffic(&node, &side, &a, &b);
    for name in ["netpath-changed", "netpath", "netpath-grown"] {
        build(&mut node, name);
        step(&mut node, &traffic, &format!("with {name}"));
    }
    assert!(log().contains("flows moved"), "{}", log());
    nothing_is_lost(&node, &side, traffic);
}

/// From tcx to clsact and back, each once with flows to move and once without, once in another build, and again and again by
/// agents that are killed somewhere in their start.
fn restart_with_another_kind_of_attachment_loses_no_packet(family: Family) {
    if netpath_tests::kernel::lacks((6, 6), "tcx") {
        return;
    }
    let seed = Random::seed("NETPATH_SEED");
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let side = Side::of(&family);
    let (mut node, a, b) = dual(&capacity(CAPACITY));
    // To add the qdisc loses what leaves at that moment, with or without netpath: the kernel stops the interface for it.
    assert_eq!(run_in(&node.topology.node.netns, "tc", &["qdisc", "add", "dev", "up0", "clsact"]), "");
    let traffic = traffic(&node, &side, &a, &b);
    for (attach, entries, name) in [
        ("clsact", CAPACITY, "netpath"),
        ("tcx", CAPACITY, "netpath-changed"),
        ("clsact", 2 * CAPACITY, "netpath"),
        ("tcx", CAPACITY, "netpath"),
    ] {
        node.configure(&attached_by(attach, entries));
        build(&mut node, name);
        step(&mut node, &traffic, &format!("with {name}, {attach} and {entries} entries"));
    }
    let before = lasting(&node);
    node.stop();
    for kill in 1..=KILLS {
        node.configure(&attached_by(if kill % 2 == 1 { "clsact" } else { "tcx" }, CAPACITY));
        let netns = node.topology.node.netns.clone();
        let was = tidy::attached(&netns, "up0");
        node.spawn();
        wait::until("it has begun", || tidy::attached(&netns, "up0") != was);
        thread::sleep(Duration::from_millis(random.below(30) as u64));
        node.kill();
        println!("killed, with {:?}", tidy::attached(&netns, "up0"));
        traffic.moves("without an agent");
    }
    node.restart();
    are_kept(&before, &node, "after all");
    tidy::check(&node, &["a", "b"]);
    nothing_is_lost(&node, &side, traffic);
}
