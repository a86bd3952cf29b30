//! Against a table of the kernel's that no program knows.

use std::net::Ipv4Addr;

use netpath_common::{
    abi::PEER_SEEN,
    logic::{flow_state::Timeouts, tcp::ACK},
};

use aya::maps::{HashMap, IterableMap as _};

use super::*;

const SECOND: u64 = 1_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// A time to count from.
pub(crate) const NOW: u64 = 1 << 50;
pub(crate) const POD: u32 = 7;

/// A table of its own.
pub(crate) fn table(entries: u32) -> FlowTable {
    let map: HashMap<_, FlowKey, Flow> = HashMap::create(entries, 0).expect("a table needs root");
    FlowTable { table: Table::new(map.map()).unwrap() }
}

/// The halves of flow number `n`, translated to its own port, both seen at `NOW`.
pub(crate) fn pair(proto: u8, n: u32) -> FlowPair {
    let port = (n as u16).to_be();
    let key = FlowKey {
        src: Ipv4Addr::new(10, 61, 0, 2).into(),
        dst: Ipv4Addr::from(0xcb00_7100 + (n >> 16)).into(),
        sport: port,
        dport: 443_u16.to_be(),
        proto,
        pad: [0; 3],
    };
    let seen = Flow { last_seen: NOW, created: 1, packets: 1, pod: POD, ..Flow::EMPTY };
    let (addr, rewrite) = (Ipv4Addr::new(198, 18, 0, 2).into(), Rewrite::Source as u8);
    // An acknowledged answer, for TCP.
    let original = Flow { addr, port, rewrite, tcp_seen: ACK, peer_seen: PEER_SEEN, ..seen };
    let reply = Flow {
        addr: key.src,
        port: key.sport,
        rewrite: Rewrite::Destination as u8,
        direction: FlowDirection::Reply as u8,
        peer_seen: PEER_SEEN,
        ..seen
    };
    FlowPair { key, original, reply: Some(reply) }
}

/// The same without translation.
fn untranslated(proto: u8, n: u32) -> FlowPair {
    let FlowPair { key, original, reply } = pair(proto, n);
    let plain = |flow: Flow| Flow { rewrite: Rewrite::None as u8, addr: Default::default(), port: 0, ..flow };
    FlowPair { key, original: plain(original), reply: reply.map(plain) }
}

impl FlowTable {
    fn set(&mut self, key: &FlowKey, flow: &Flow) {
        self.table.insert(key, flow, 0).unwrap();
    }

    /// Inserts or replaces both halves.
    pub(crate) fn add(&mut self, pair: &FlowPair) {
        self.set(&pair.key, &pair.original);
        if let Some(reply) = &pair.reply {
            self.set(&pair.reply_key(), reply);
        }
    }

    fn entries(&self) -> usize {
        self.table.all().unwrap().len()
    }
}

#[test]
fn a_walk_reads_every_entry_once_with_any_room() {
    let mut flows = table(512);
    (0..256).for_each(|n| flows.add(&pair(UDP, n)));
    for mut walk in [Walk::new(), Walk::with_room_for(1), Walk::with_room_for(7)] {
        let mut keys = Vec::new();
        while flows.advance(&mut walk).unwrap() {
            keys.extend(walk.halves().map(|(key, flow)| (format!("{key:?}"), flow.packets)));
        }
        assert!(!flows.advance(&mut walk).unwrap(), "it stays at its end");
        assert_eq!(walk.halves().count(), 0);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 512);
        assert!(walk.slices > 1 && walk.longest_ns > 0);
    }
    assert_eq!(flows.pairs().unwrap().len(), 256);
    let empty = table(8);
    assert_eq!(empty.pairs().unwrap(), []);
}

#[test]
fn a_pair_expires_by_its_later_half() {
    let mut flows = table(64);
    let ago = |seconds| NOW - seconds * SECOND;
    let aged = |proto, n, original, reply| {
        let mut pair = pair(proto, n);
        pair.original.last_seen = ago(original);
        pair.reply.as_mut().unwrap().last_seen = ago(reply);
        pair
    };
    let stay =
        [aged(UDP, 1, 179, 500), aged(UDP, 2, 500, 179), aged(TCP, 3, 21_000, 21_000), aged(47, 4, 599, 599)];
    let mut unreplied = aged(UDP, 9, 61, 61);
    unreplied.original.peer_seen = 0;
    let go = [aged(UDP, 5, 181, 181), aged(TCP, 6, 21_601, 30_000), aged(1, 7, 31, 31), unreplied];
    stay.iter().chain(&go).for_each(|pair| flows.add(pair));
    let swept = flows.sweep_by(&Rules::at(NOW)).unwrap();
    assert_eq!((swept.kept, swept.expired, swept.translated, swept.orphans), (4, 4, 4, 0));
    assert_eq!(swept.of_pods, [(POD, 4)].into());
    assert!(stay.iter().all(|pair| flows.find(&pair.key).unwrap() == Some(*pair)));
    assert_eq!(flows.entries(), 8, "both halves went");
    let timeouts = Timeouts { tcp_established: SECOND, ..Timeouts::DEFAULT };
    assert_eq!(flows.sweep_by(&Rules { timeouts, ..Rules::at(NOW) }).unwrap().expired, 1);
}

#[test]
fn a_packet_that_comes_just_then_saves_the_pair() {
    type Change = fn(&mut FlowPair);
    let changes: [Change; 5] = [
        |pair| pair.original.peer_seen ^= PEER_SEEN,
        |pair| pair.original.packets += 1,
        |pair| pair.original.last_seen += SECOND,
        |pair| pair.reply.as_mut().unwrap().packets += 1,
        |pair| pair.reply.as_mut().unwrap().created += 1,
    ];
    for change in changes {
        let mut flows = table(8);
        let read = pair(TCP, 1);
        let mut now = read;
        change(&mut now);
        flows.add(&now);
        assert!(!flows.retire(&read).unwrap());
        assert_eq!(flows.find(&read.key).unwrap(), Some(now), "as it was, the packet counted");
        assert!(flows.retire(&now).unwrap());
        assert_eq!(flows.entries(), 0);
        assert!(flows.retire(&now).unwrap(), "gone already");
    }
}

#[test]
fn what_comes_up_while_a_pair_is_taken_out_stands() {
    let mut flows = table(8);
    let old = pair(UDP, 1);
    // The flow made anew with another port, after the old original was taken.
    let mut anew = pair(UDP, 1);
    (anew.original.port, anew.original.created) = (9_u16.to_be(), 2);
    flows.add(&anew);
    assert!(!flows.retire(&old).unwrap());
    assert_eq!(flows.find(&anew.key).unwrap(), Some(anew));
    // An untranslated one takes the reply half that it finds.
    let plain = untranslated(UDP, 2);
    let newer = Flow { created: 5, ..plain.original };
    flows.set(&plain.key, &newer);
    let reply = plain.reply.unwrap();
    flows.set(&plain.reply_key(), &reply);
    assert!(!flows.drop_orphan(&plain.reply_key(), &reply).unwrap(), "not alone");
    assert!(!flows.retire(&plain).unwrap());
    assert_eq!(flows.find(&plain.key).unwrap().unwrap().reply, Some(reply));
    // It is gone by the time that its reply half is looked at.
    flows.remove(&plain.key).unwrap();
    let moved = Flow { packets: 9, ..reply };
    flows.set(&plain.reply_key(), &moved);
    assert!(!flows.drop_orphan(&plain.reply_key(), &reply).unwrap(), "it has had a packet");
    assert!(flows.drop_orphan(&plain.reply_key(), &moved).unwrap());
    assert!(!flows.drop_orphan(&plain.reply_key(), &moved).unwrap());
    assert_eq!(flows.entries(), 2);
}

#[test]
fn a_reply_half_alone_goes_within_two_minutes() {
    let mut flows = table(64);
    let pairs: Vec<_> = (0..24).map(|n| pair(TCP, n)).collect();
    pairs.iter().for_each(|pair| flows.add(pair));
    assert!(pairs[..12].iter().all(|pair| flows.remove(&pair.key).unwrap()));
    let mut orphans = 0;
    for turn in 0..=24 {
        let swept = flows.sweep_by(&Rules::at(NOW + turn * 5 * SECOND)).unwrap();
        assert!(turn > 12 || swept.orphans == 0, "an original may come yet");
        orphans += swept.orphans;
    }
    assert_eq!((orphans, flows.entries()), (12, 24));
}

/// They stand in no program's notes: nobody but the sweep can make room of them.
#[test]
fn a_crowded_table_gets_room_of_what_nobody_answered() {
    let mut flows = table(200);
    let mut unanswered = |n, idle| {
        let mut pair = pair(if n % 2 == 0 { TCP } else { UDP }, n);
        (pair.original.peer_seen, pair.original.tcp_seen) = (0, 0);
        let seen = NOW - idle * SECOND;
        (pair.original.last_seen, pair.reply.as_mut().unwrap().last_seen) = (seen, seen);
        flows.add(&pair);
        pair
    };
    let young: Vec<_> = (0..4).map(|n| unanswered(n, 1)).collect();
    let old: Vec<_> = (4..44).map(|n| unanswered(n, 10 + u64::from(n))).collect();
    let mut assured: Vec<_> = (44..90).map(|n| pair(TCP, n)).collect();
    assured.iter_mut().for_each(|pair| pair.original.last_seen = NOW - 9 * SECOND);
    assured.iter().for_each(|pair| flows.add(pair));
    let swept = flows.sweep_by(&Rules::at(NOW)).unwrap();
    assert_eq!((swept.entries, swept.relieved, swept.kept), (180, 0, 90), "nine tenths are not crowded");
    let more: Vec<_> = (90..97).map(|n| pair(UDP, n)).collect();
    more.iter().for_each(|pair| flows.add(pair));
    let swept = flows.sweep_by(&Rules::at(NOW)).unwrap();
    assert_eq!((swept.entries, swept.relieved, swept.expired), (194, 8, 0));
    assert_eq!((swept.kept, swept.translated, &swept.of_pods), (89, 89, &[(POD, 89)].into()));
    assert_eq!(flows.entries(), 178, "below nine tenths, and both halves went");
    let there = |pair: &FlowPair| flows.find(&pair.key).unwrap().is_some();
    assert!(young.iter().chain(&assured).chain(&more).all(there));
    assert_eq!(old.iter().filter(|pair| there(pair)).count(), 32);
    assert!(old[..32].iter().all(there), "the longest idle went");
}

#[test]
fn ports_outside_of_the_range_are_told() {
    let mut flows = table(64);
    for (proto, port) in [(UDP, 20_007), (TCP, 20_003), (1, 20_005), (TCP, 40_000), (132, 7)] {
        let mut pair = pair(proto, u32::from(port));
        pair.original.port = u16::to_be(port);
        flows.add(&pair);
    }
    flows.add(&untranslated(UDP, 9));
    let mut strays = |snat_ports| flows.sweep_by(&Rules { snat_ports, ..Rules::at(NOW) }).unwrap().strays;
    assert_eq!(strays(40_000..=40_000), Some(20_003..=20_007));
    assert_eq!(strays(20_000..=20_009), Some(40_000..=40_000));
    assert_eq!(strays(20_005..=20_005), Some(20_003..=40_000));
    assert_eq!(strays(1024..=u16::MAX), None, "SCTP's are not chosen from the range");
}

#[test]
fn removing_goes_by_what_is_asked() {
    let mut flows = table(64);
    for n in 0..20 {
        let mut pair = pair(TCP, n);
        pair.original.pod = n % 2;
        flows.add(&pair);
    }
    assert_eq!(flows.remove_of(1).unwrap(), 10);
    assert_eq!((flows.pairs().unwrap().len(), flows.entries()), (10, 20));
    assert_eq!(flows.remove_if(|key, _| key.sport == 4_u16.to_be()).unwrap(), 1);
    assert_eq!(flows.remove_if(|_, _| true).unwrap(), 9);
    assert_eq!(flows.entries(), 0);
}

/// No test of time: it prints what DESIGN.md budgets if it is asked to. In a release build:
/// `NETPATH_MEASURE=1 cargo test --release -p netpath --lib -- --nocapture cost_of_a_sweep`
#[test]
fn cost_of_a_sweep() {
    if std::env::var_os("NETPATH_MEASURE").is_none() {
        return;
    }
    let print = |what: &str, flows: &mut FlowTable, now| {
        let swept = flows.sweep_by(&Rules::at(now)).unwrap();
        println!(
            "{what:<46} {:>7} kept {:>7} expired  {:>6.1} ms in all, longest of {:>5} slices {:>6.1} µs",
            swept.kept,
            swept.expired,
            swept.cpu_ns as f64 / 1e6,
            swept.slices,
            swept.longest_ns as f64 / 1e3,
        );
    };
    for (flows, capacity) in [
        (5000, 10_000),
        (50_000, 100_000),
        (500_000, 1_000_000),
        (100_000, 262_144),
        (1000, 1_000_000),
        (0, 1_000_000),
    ] {
        let mut table = table(capacity);
        (0..flows).for_each(|n| table.add(&pair(if n % 5 == 0 { UDP } else { TCP }, n)));
        println!("{flows} flows, room for {capacity} entries:");
        for round in 1..=5 {
            print(&format!("  all young, round {round}"), &mut table, NOW + SECOND);
        }
        print("  all TCP idle for an hour", &mut table, NOW + 170 * SECOND);
        print("  UDP expires", &mut table, NOW + 181 * SECOND);
        print("  the rest expires", &mut table, NOW + 30_000 * SECOND);
    }
}
