//! Pods of a limited bandwidth, measured with TCP streams and floods of datagrams.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use netpath::{
    api::types::{Bandwidth, PodAdd, PodSet},
    lab::checks::LabPod,
    model::{self, Mode},
    net::Netns,
};
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::Side,
    wait,
};

for_both_families!(
    both_directions_are_limited_and_other_pods_are_not,
    limits_hold_for_xdp_pods,
    a_pod_that_has_its_way_with_its_queue_is_limited_all_the_same,
    limits_change_while_a_pod_runs_and_outlive_a_restart,
);

/// What pods get and send, bits a second.
const IN: u64 = 40_000_000;
const OUT: u64 = 20_000_000;
/// Before the measurement the burst is used up.
const WARM_UP: Duration = Duration::from_millis(700);
const SPAN: Duration = Duration::from_millis(1500);

/// A node that has nothing to complain about, on kernels too that need a sysctl for it.
fn start() -> Node {
    let node = Node::start("");
    forward_ipv6(&node.topology.node.netns);
    node
}

fn limit(rate: u64) -> Option<Bandwidth> {
    Some(Bandwidth { rate, burst: None })
}

fn limited(node: &Node, name: &str) -> LabPod {
    let wanted = PodAdd {
        name: name.into(),
        ingress_bandwidth: limit(IN),
        egress_bandwidth: limit(OUT),
        ..PodAdd::default()
    };
    LabPod::open(node.add(&wanted)).expect("pod")
}

fn set(node: &Node, name: &str, ingress: Option<Bandwidth>, egress: Option<Bandwidth>) {
    let change = PodSet { ingress_bandwidth: ingress, egress_bandwidth: egress, ..PodSet::default() };
    node.runtime.block_on(node.client.pod_set(name, &change)).expect("pod set");
}

/// Bits a second that a stream brings, to `to` or, if `back`, from there to whoever has connected.
fn stream(from: &Netns, to: &Netns, address: IpAddr, back: bool) -> f64 {
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let client = from.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap().expect("connected");
    let (server, _) = listener.accept().unwrap();
    let (mut sender, mut receiver) = if back { (server, client) } else { (client, server) };
    // It ends when the receiver does.
    let sending = std::thread::spawn(move || while sender.write_all(&[7; 65_536]).is_ok() {});
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut read = |span| {
        let (begin, mut bytes) = (Instant::now(), 0_usize);
        while begin.elapsed() < span {
            bytes += receiver.read(&mut buffer).expect("it goes on");
        }
        bytes as f64 * 8.0 / begin.elapsed().as_secs_f64()
    };
    read(WARM_UP);
    let rate = read(SPAN);
    drop(receiver);
    sending.join().unwrap();
    rate
}

/// Bits a second that arrive of datagrams sent as fast as can be, with their headers.
fn flood(from: &Netns, to: &Netns, address: IpAddr, overhead: usize) -> f64 {
    const LENGTH: usize = 1200;
    let receiver = to.enter(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let target: SocketAddr = receiver.local_addr().unwrap();
    let sender = from
        .enter(|| UdpSocket::bind((if address.is_ipv6() { "::" } else { "0.0.0.0" }, 0)))
        .unwrap()
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let sending = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            // A full queue is told as an error.
            let _ = sender.send_to(&[7; LENGTH], target);
        }
    });
    let mut buffer = [0; 2048];
    let mut read = |span| {
        let (begin, mut packets) = (Instant::now(), 0_usize);
        while begin.elapsed() < span {
            receiver.recv(&mut buffer).expect("some pass");
            packets += 1;
        }
        (packets * (LENGTH + overhead)) as f64 * 8.0 / begin.elapsed().as_secs_f64()
    };
    read(WARM_UP);
    let rate = read(SPAN);
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    rate
}

#[track_caller]
fn assert_near(what: &str, rate: f64, limit: u64) {
    println!("{what}: {rate:.0} of {limit}");
    let share = rate / limit as f64;
    assert!((0.7..=1.1).contains(&share), "{what}: {rate:.0} bits a second of {limit}");
}

/// Whether the kernel limits what leaves by an interface.
fn has_queue(netns: &Netns, interface: &str) -> bool {
    run_in(netns, "tc", &["qdisc", "show", "dev", interface]).contains("qdisc tbf 6e70: root")
}

fn measured(node: &Node, side: &Side) {
    let (a, b) = (limited(node, "a"), node.pod("b"));
    let outside = &node.topology.outside.netns;
    assert_near("pod to limited pod", stream(&b.netns, &a.netns, side.address(&a), false), IN);
    assert_near("limited pod to pod", stream(&a.netns, &b.netns, side.address(&b), false), OUT);
    assert_near("limited pod to outside", stream(&a.netns, outside, side.outside, false), OUT);
    assert_near("outside to limited pod", stream(&a.netns, outside, side.outside, true), IN);
    let own = &node.topology.node.netns;
    assert_near("node to limited pod", stream(own, &a.netns, side.address(&a), false), IN);
    assert_near("limited pod to node", stream(&a.netns, own, side.node, false), OUT);
    let free = stream(&b.netns, outside, side.outside, false);
    assert!(free > 2.0 * IN as f64, "another pod: {free:.0}");
    // The queue alone keeps it: nothing is refused after it.
    assert_eq!(node.drops("RateLimited"), 0);
    let problems = || node.runtime.block_on(node.client.status()).expect("status").problems;
    wait::until("the node is well", || problems().is_empty());
}

fn both_directions_are_limited_and_other_pods_are_not(family: Family) {
    measured(&start(), &Side::of(&family));
}

fn limits_hold_for_xdp_pods(family: Family) {
    Node::pods_in(Mode::Xdp);
    measured(&start(), &Side::of(&family));
}

fn a_pod_that_has_its_way_with_its_queue_is_limited_all_the_same(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let (a, b) = (limited(&node, "a"), node.pod("b"));
    let tc = |words: &str| assert_eq!(run_in(&a.netns, "tc", &words.split(' ').collect::<Vec<_>>()), "");
    tc("qdisc del dev eth0 root");
    wait::until("the queue comes back", || has_queue(&a.netns, "eth0"));
    // One of its own is the pod's to have.
    tc("qdisc replace dev eth0 root handle 7: pfifo limit 1000");
    let rate = flood(&a.netns, &b.netns, side.address(&b), side.header() + 8 + 14);
    assert_near("a flood", rate, OUT);
    let dropped = node.drops("RateLimited");
    assert!(dropped > 0, "none was refused");
    let rate = stream(&a.netns, &b.netns, side.address(&b), false);
    println!("a stream: {rate:.0} of {OUT}");
    // A stream that waits for what it has lost saves up, and what it has saved goes at once.
    let saved =
        model::Bandwidth::new(OUT, None).expect("a limit").tolerance() as f64 / SPAN.as_nanos() as f64;
    assert!(rate < (1.1 + saved) * OUT as f64, "a stream: {rate:.0}");
    assert!(!has_queue(&a.netns, "eth0"));
    tc("qdisc del dev eth0 root");
    wait::until("the queue is there again", || has_queue(&a.netns, "eth0"));
    // And on the node's side, where only the node's own root can.
    let host = a.pod.interface.as_str();
    run_in(&node.topology.node.netns, "tc", &["qdisc", "replace", "dev", host, "root", "pfifo"]);
    run_in(&node.topology.node.netns, "tc", &["qdisc", "del", "dev", host, "root"]);
    wait::until("the host end's comes back", || has_queue(&node.topology.node.netns, host));
}

fn limits_change_while_a_pod_runs_and_outlive_a_restart(family: Family) {
    let (mut node, side) = (start(), Side::of(&family));
    let (a, b) = (node.pod("a"), node.pod("b"));
    let (host, own) = (a.pod.interface.clone(), node.topology.node.netns.clone());
    let queues = |a: &LabPod| (has_queue(&own, &host), has_queue(&a.netns, "eth0"));
    let get = || stream(&b.netns, &a.netns, side.address(&a), false);
    let send = || stream(&a.netns, &b.netns, side.address(&b), false);
    assert_eq!(queues(&a), (false, false));
    set(&node, "a", limit(IN), None);
    assert_eq!(queues(&a), (true, false));
    assert_near("ingress", get(), IN);
    set(&node, "a", limit(2 * IN), limit(OUT));
    assert_near("twice that", get(), 2 * IN);
    node.kill();
    assert_near("egress without an agent", send(), OUT);
    assert_eq!(run_in(&own, "tc", &["qdisc", "del", "dev", &host, "root"]), "");
    node.restart();
    wait::until("the queue is there again", || queues(&a) == (true, true));
    assert_near("ingress after a restart", get(), 2 * IN);
    let pod = node.runtime.block_on(node.client.pod("a")).expect("pod");
    assert_eq!(pod.egress_bandwidth.map(|limit| limit.rate), Some(OUT));
    let none = Some(Bandwidth::default());
    set(&node, "a", none, none);
    assert_eq!(queues(&a), (false, false));
    let free = (get(), send());
    assert!(free.0 > 4.0 * IN as f64 && free.1 > 4.0 * OUT as f64, "{free:?}");
    assert_eq!(node.drops("RateLimited"), 0);
    for (limit, words) in
        [((0, None), "bits a second"), ((1000, Some(100)), "burst"), ((u64::MAX, None), "bits")]
    {
        let wanted = PodAdd {
            name: "c".into(),
            egress_bandwidth: Some(Bandwidth { rate: limit.0, burst: limit.1 }),
            ..PodAdd::default()
        };
        let error = node.runtime.block_on(node.client.pod_add(&wanted)).expect_err("refused").to_string();
        assert!(error.contains("'c'") && error.contains(words), "{error}");
    }
    let said = |arguments: &[&str]| {
        let output = node.netpath(arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (status, text) = said(&["pod", "set", "a", "--ingress-bandwidth", "10M:64Ki"]);
    assert!(status == Some(0) && text.contains("ingress     10Mbit/s, 64.0 KiB at once"), "{text}");
    assert!(said(&["pod", "ls"]).1.contains("in 10M"), "{}", said(&["pod", "ls"]).1);
    assert_eq!(said(&["pod", "set", "a", "--egress-bandwidth", "0"]).0, Some(2));
    let (status, text) = said(&["pod", "set", "a", "--ingress-bandwidth", "none"]);
    assert!(status == Some(0) && text.contains("ingress     no limit"), "{text}");
}
