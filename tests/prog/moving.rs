//! Flows on their way from one table to another, while the new one is full.

use aya::maps::{Array, HashMap, Map, MapData};
use netpath::datapath::monotonic_ns;
use netpath_common::abi::{DropReason, Flow, FlowDirection, FlowKey, Move, Rewrite};
use netpath_tests::{
    for_both_families,
    packet::see,
    scene::{DROP, Family, REDIRECT, Scene, Talk, addr},
};

for_both_families!(
    what_nobody_answered_makes_room_for_flows_that_move,
    flows_go_on_while_there_is_no_room_to_move_them,
);

const SECOND: u64 = 1_000_000_000;
const ENTRIES: u32 = 1536;
const FIRST: u16 = 40_000;

/// A scene with answered flows from these ports, whose programs have a second table to move them to.
fn scene(f: &Family, ports: &[u16]) -> Scene {
    let mut scene = Scene::new();
    for &port in ports {
        scene.a_says(Talk::Udp.question((f.a, port), f.outside));
        assert_eq!(scene.router_says(Talk::Udp.answer(f.outside, (f.node, port))).code, REDIRECT);
    }
    scene.datapath = scene.load_again(ENTRIES);
    assert!(scene.datapath.is_moving());
    scene.flows = scene.datapath.readings().flow_table().expect("flow table");
    scene
}

fn own(scene: &Scene) -> HashMap<MapData, FlowKey, Flow> {
    HashMap::try_from(Map::HashMap(scene.table("FLOWS"))).expect("FLOWS")
}

/// Fills the new table up, with flows of pod B that began so long ago.
fn fill(scene: &Scene, f: &Family, age: u64, peer_seen: u8) {
    let (mut table, then) = (own(scene), monotonic_ns() - age);
    for n in 0..ENTRIES as u16 / 2 {
        let key = FlowKey {
            src: addr(f.b),
            dst: addr(f.outside),
            sport: (1000 + n).to_be(),
            dport: 53_u16.to_be(),
            proto: 17,
            pad: [0; 3],
        };
        let port = (20_000 + n).to_be();
        let half =
            Flow { last_seen: then, created: then, packets: 1, peer_seen, pod: scene.b.id, ..Flow::EMPTY };
        let original = Flow { addr: addr(f.node), port, rewrite: Rewrite::Source as u8, ..half };
        let reply_key = FlowKey { src: key.dst, dst: addr(f.node), sport: key.dport, dport: port, ..key };
        let direction = FlowDirection::Reply as u8;
        let rewrite = Rewrite::Destination as u8;
        let reply = Flow { addr: key.src, port: key.sport, rewrite, direction, ..half };
        table.insert(key, original, 0).expect("room");
        table.insert(reply_key, reply, 0).expect("room");
    }
    assert!(table.insert(FlowKey::default(), Flow::EMPTY, 0).is_err(), "the table is full");
}

fn set_state(scene: &Scene, state: Move) {
    let table = Array::<_, u32>::try_from(Map::Array(scene.table("FLOWS_MOVE")));
    table.expect("FLOWS_MOVE").set(0, state as u32, 0).expect("state");
}

/// Answered flows of pod A in the new table, by their ports.
fn moved(scene: &Scene) -> Vec<u16> {
    let pairs = scene.pairs();
    let of_a = pairs.iter().filter(|pair| pair.original.pod == scene.a.id && pair.reply.is_some());
    let mut ports: Vec<_> = of_a.map(|pair| u16::from_be(pair.key.sport)).collect();
    ports.sort_unstable();
    ports
}

fn what_nobody_answered_makes_room_for_flows_that_move(f: Family) {
    let ports: Vec<u16> = (FIRST..FIRST + 20).collect();
    let mut scene = scene(&f, &ports);
    fill(&scene, &f, 5 * SECOND, 0);
    assert_eq!(scene.datapath.move_flows().expect("room is made"), 2 * 20);
    assert_eq!(moved(&scene), ports, "all of them, whole");
}

fn flows_go_on_while_there_is_no_room_to_move_them(f: Family) {
    let mut scene = scene(&f, &[FIRST]);
    fill(&scene, &f, 0, netpath_common::abi::PEER_SEEN);
    set_state(&scene, Move::Pull);
    let question = |port| scene.a_says(Talk::Udp.question((f.a, port), f.outside));
    for round in 0..3 {
        let ran = scene.expect_no_drop("a question", |_| question(FIRST));
        assert_eq!((ran.code, see(&ran.packet).source), (REDIRECT, f.node), "round {round}");
        assert_eq!(see(&ran.packet).source_port, FIRST, "round {round}");
        let answer = Talk::Udp.answer(f.outside, (f.node, FIRST));
        let ran = scene.expect_no_drop("its answer", |scene| scene.router_says(answer));
        assert_eq!((ran.code, see(&ran.packet).destination), (REDIRECT, f.a), "round {round}");
    }
    assert_eq!(moved(&scene), [0; 0], "it is where it was");
    let before = scene.all_drops();
    let refused = question(FIRST + 1);
    assert_eq!(refused.code, DROP);
    scene.assert_dropped("a new flow", &refused, &before, DropReason::FlowTableFull);
    // Room: the flow moves with its counts.
    let of_b: Vec<_> = own(&scene).keys().flatten().collect();
    let mut table = own(&scene);
    of_b.iter().for_each(|key| table.remove(key).expect("of pod B"));
    scene.datapath.move_flows().expect("moved");
    let pairs = scene.pairs();
    assert_eq!((moved(&scene), pairs[0].original.packets), (vec![FIRST], 4), "{pairs:?}");
}
