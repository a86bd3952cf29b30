//! Invariant 2: the agent can stop and crash, at any moment; no packet of a live flow is lost, and nothing is left half-made.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use netpath::{
    api::{client::Client, types::PodAdd},
    lab::checks::LabPod,
};
use netpath_tests::{
    for_both_families,
    node::Node,
    random::Random,
    scene::Family,
    side::{Echo, Side},
    tidy,
    traffic::{Totals, Traffic},
};

/// Rounds of `kill -9`, unless the environment asks for another number: a hundred take longer than CI may.
const KILLS: usize = 12;
/// Rounds of stop and start.
const STOPS: usize = 3;
/// The longest time an agent lives, as far as it is killed in the middle of what it does.
const LIFE: Duration = Duration::from_millis(700);
/// A block that can be filled, of 30 addresses; and room for the flows of all short connections of half a minute.
const BLOCKS: &str = "block = [\"10.61.0.0/27\", \"fd00:61::/64\"]\n[flows]\ncapacity = 65536";
const CAPACITY: usize = 30;
/// Pods that come and go.
const COMING: usize = 5;

/// Every kind of traffic of a family.
pub(super) fn traffic(node: &Node, side: &Side, a: &LabPod, b: &LabPod) -> Traffic {
    let outside = &node.topology.outside.netns;
    let (near, far) = (Echo::start(&a.netns, side.address(a)), Echo::start(outside, side.outside));
    let mut traffic = Traffic::default();
    traffic.pings("ping b to a", &b.netns, side.address(a));
    traffic.pings("ping a to outside", &a.netns, side.outside);
    traffic.datagrams("datagrams b to a", &b.netns, near.address);
    traffic.datagrams("datagrams b to outside", &b.netns, far.address);
    traffic.stream(&a.netns, outside, side.outside);
    traffic.stream(&b.netns, &a.netns, side.address(a));
    traffic.short_connections(&b.netns, outside, side.outside);
    traffic.moves("before anything happens");
    traffic
}

/// Adds and removes pods until it is told to stop; the agent may be gone at any moment.
fn come_and_go(client: &Client, stop: &AtomicBool, seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (mut random, mut done) = (Random::new(seed), 0);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("c{}", random.below(COMING));
        let outcome = if random.once_in(2) {
            let wanted = PodAdd { name, ..PodAdd::default() };
            runtime.block_on(client.pod_add(&wanted)).map(drop)
        } else if random.once_in(2) {
            runtime.block_on(client.pod_rm(&name))
        } else {
            runtime.block_on(client.pod_rm_early(&name))
        };
        match outcome {
            Ok(()) => done += 1,
            // No agent, or a pod that is there already or not: the next one.
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    done
}

/// Ends the churn even if a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

for_both_families!(
    crash_and_restart_of_the_agent_lose_no_packet,
    crash_and_restart_on_clsact_lose_no_packet,
    xdp_pods_lose_no_packet_by_crash_and_restart_of_the_agent,
);

fn crash_and_restart_of_the_agent_lose_no_packet(family: Family) {
    let kills = std::env::var("NETPATH_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    crash_and_restart(&family, BLOCKS, STOPS, kills);
}

fn crash_and_restart_on_clsact_lose_no_packet(family: Family) {
    crash_and_restart(&family, &format!("{BLOCKS}\n[datapath]\nattach = \"clsact\""), 1, KILLS / 3);
}

fn xdp_pods_lose_no_packet_by_crash_and_restart_of_the_agent(family: Family) {
    crash_and_restart(&family, &format!("{BLOCKS}\n[datapath]\nmode = \"xdp\""), 1, KILLS / 3);
}

fn crash_and_restart(family: &Family, configuration: &str, stops: usize, kills: usize) {
    let seed = Random::seed("NETPATH_SEED");
    println!("seed {seed}");
    let side = Side::of(family);
    let mut node = Node::start(configuration);
    let (a, b) = (node.pod("a"), node.pod("b"));
    let traffic = traffic(&node, &side, &a, &b);
    for _ in 0..stops {
        node.stop();
        traffic.moves("without an agent");
        node.restart();
        traffic.moves("with the next agent");
    }
    let mut random = Random::new(seed);
    let (stop, client) = (AtomicBool::new(false), node.client.clone());
    let changes = thread::scope(|threads| {
        let _stop = Stop(&stop);
        let churn = threads.spawn(|| come_and_go(&client, &stop, seed));
        for _ in 0..kills {
            // One in four at any moment of its start, the others while pods are added and removed.
            if !random.once_in(4) {
                node.wait_ready();
            }
            let end = Instant::now() + Duration::from_millis(random.below(LIFE.as_millis() as usize) as u64);
            thread::sleep(end - Instant::now());
            node.kill();
            node.spawn();
        }
        node.wait_ready();
        traffic.moves("with the last agent");
        stop.store(true, Ordering::Relaxed);
        churn.join().expect("churn")
    });
    node.stop();
    node.restart();
    let totals = traffic.finish();
    let Totals { sent, lost, connections, reset, streamed, .. } = totals;
    println!("{changes} pods added or removed, {streamed} bytes streamed");
    println!("drops: {:?}", node.runtime.block_on(node.client.drops()).expect("drops"));
    println!("sent {sent} lost {lost}, connections {connections} reset {reset}, kills {kills}, seed {seed}");
    tidy::check(&node, &["a", "b"]);
    no_address_is_leaked(&node);
    assert_eq!((lost, reset), (0, 0), "seed {seed}");
    assert!(changes > 0, "no pod was added or removed");
}

/// Fills the block: every address that no pod of the list has can be had.
fn no_address_is_leaked(node: &Node) {
    let mut pods = node.runtime.block_on(node.client.pods()).expect("pods").len();
    let error = loop {
        let wanted = PodAdd { name: format!("fill{pods}"), ..PodAdd::default() };
        match node.runtime.block_on(node.client.pod_add(&wanted)) {
            Ok(_) => pods += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(pods, CAPACITY, "{error}");
}
