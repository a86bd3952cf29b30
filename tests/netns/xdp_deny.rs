//! The deny list: `netpath deny`, and what it does to packets.

use std::{
    net::{IpAddr, UdpSocket},
    process::Output,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{LpmTrie, Map, MapData},
    programs::{Xdp, XdpMode},
};
use netpath::net::Netns;
use netpath_common::abi::{Addr, PIN_SCHEME};
use netpath_tests::{
    for_both_families,
    node::{Node, run_in},
    scene::Family,
    side::{Echo, Side, connected},
    wait::until,
};
use serde_json::Value;

for_both_families!(
    xdp_deny_list_drops_at_the_uplink_and_counts_exactly,
    xdp_deny_list_outlives_restarts_and_crashes,
);

fn netpath(node: &Node, line: &str) -> Output {
    node.netpath(&line.split(' ').collect::<Vec<_>>())
}

/// Runs a line that has to succeed; returns what it printed.
fn done(node: &Node, line: &str) -> String {
    let output = netpath(node, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a line that has to fail with a status; returns what it said.
fn refused(node: &Node, status: i32, line: &str) -> String {
    let output = netpath(node, line);
    assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// The list as (prefix, packets, bytes).
fn list(node: &Node) -> Vec<(String, u64, u64)> {
    let list: Value = serde_json::from_str(&done(node, "deny ls -o json")).expect("JSON");
    let number = |one: &Value, key: &str| one[key].as_u64().expect("a number");
    let row = |one: &Value| {
        let prefix = one["prefix"].as_str().expect("a text").to_owned();
        (prefix, number(one, "packets"), number(one, "bytes"))
    };
    list.as_array().expect("a list").iter().map(row).collect()
}

/// How `xdp_uplink` is attached to an uplink, as `status` tells it.
fn attached(node: &Node, uplink: &str) -> Option<String> {
    let status = node.runtime.block_on(node.client.status()).expect("status");
    let mut programs = status.programs.into_iter();
    let ours = programs.find(|program| program.name == "xdp_uplink" && program.interface == uplink);
    ours.map(|program| program.attach)
}

/// Whether the kernel has an XDP program on an interface.
fn has_xdp(netns: &Netns, interface: &str) -> bool {
    run_in(netns, "ip", &["link", "show", interface]).contains("xdp")
}

fn socket(netns: &Netns, address: IpAddr) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((address, 0))).expect("namespace").expect("socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
    socket
}

static QUESTION: AtomicU64 = AtomicU64::new(0);

/// Whether an echo comes back; what is lost is asked for again.
fn answers(client: &UdpSocket, patience: u32) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
    (0..patience).any(|_| {
        // A late answer to an earlier question says nothing of now.
        let question = QUESTION.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        client.send(&question).expect("sent");
        let mut answer = [0; 8];
        while client.recv(&mut answer).is_ok() {
            if answer == question {
                return true;
            }
        }
        false
    })
}

fn xdp_deny_list_drops_at_the_uplink_and_counts_exactly(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let (pod, netns) = (node.pod("a"), &node.topology.node.netns);
    let echo = Echo::start(&node.topology.outside.netns, side.outside);
    let client = connected(&pod.netns, &side, echo.address);
    let (sender, receiver) = (socket(&node.topology.outside.netns, side.outside), socket(netns, side.node));
    let to = receiver.local_addr().expect("address");
    let passes = || sender.send_to(b"?", to).is_ok() && receiver.recv_from(&mut [0; 8]).is_ok();
    assert!(answers(&client, 20) && passes(), "it works to begin with");
    assert!(!has_xdp(netns, "up0") && attached(&node, "up0").is_none(), "nothing is denied");

    let prefix = format!("{}/{}", side.outside, if side.v6 { 128 } else { 32 });
    assert_eq!(done(&node, &format!("deny add {}", side.outside)), format!("{prefix} is denied\n"));
    assert_eq!(attached(&node, "up0").as_deref(), Some("xdp-driver"));
    // The next packet meets it, and every packet is counted: 14 bytes of Ethernet, IP, 8 of UDP, 1 of payload.
    let before = list(&node)[0].1;
    for _ in 0..100 {
        sender.send_to(b"?", to).expect("sent");
    }
    let length = 14 + side.header() as u64 + 8 + 1;
    until("they are counted", || list(&node)[0].1 >= before + 100);
    let denied = list(&node);
    assert_eq!(denied, [(prefix.clone(), before + 100, (before + 100) * length)]);
    assert!(receiver.recv_from(&mut [0; 8]).is_err(), "none came through");
    assert_eq!(node.drops("Denied"), before + 100);
    assert!(!answers(&client, 3), "an answer to a pod's flow is denied as well");

    let traced = done(&node, &format!("trace {} a --proto udp --dport 53 -o json", side.outside));
    let traced: Value = serde_json::from_str(&traced).expect("JSON");
    let programs = traced["forward"]["programs"].as_array().expect("programs").len();
    assert_eq!((&traced["forward"]["reason"], programs), (&"Denied".into(), 1), "{traced}");
    let traced = done(&node, &format!("trace {} a --proto udp --dport 53 -o json", side.router));
    let traced: Value = serde_json::from_str(&traced).expect("JSON");
    let programs: Vec<_> = traced["forward"]["programs"].as_array().expect("programs").iter().collect();
    let names: Vec<_> = programs.iter().map(|program| &program["program"]).collect();
    assert_eq!(names, ["xdp_uplink", "from_uplink"], "{traced}");

    // Who is not denied notices nothing.
    let router = socket(&node.topology.router.netns, side.router);
    router.send_to(b"?", to).expect("sent");
    assert_eq!(receiver.recv_from(&mut [0; 8]).expect("the router's").1.ip(), side.router);

    assert_eq!(done(&node, &format!("deny rm {prefix}")), format!("{prefix} is let in again\n"));
    assert!(answers(&client, 20) && passes(), "the same flow goes on");
    assert!(!has_xdp(netns, "up0"), "its program is gone");
    assert_eq!((list(&node), attached(&node, "up0")), (Vec::new(), None));
    assert!(node.drops("Denied") > before + 100, "what was dropped stays counted");
}

fn xdp_deny_list_outlives_restarts_and_crashes(family: Family) {
    let side = Side::of(&family);
    let mut node = Node::start("");
    let pod = node.pod("a");
    let outside = node.topology.outside.netns.clone();
    let echo = Echo::start(&outside, side.outside);
    let client = connected(&pod.netns, &side, echo.address);
    let netns = node.topology.node.netns.clone();
    let receiver = socket(&netns, side.node);
    let to = receiver.local_addr().expect("address");
    let sender = socket(&outside, side.outside);
    let comes = || {
        sender.send_to(b"?", to).expect("sent");
        receiver.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(answers(&client, 20) && comes());
    done(&node, &format!("deny add {}", side.outside));
    assert!(!comes());
    let id = |node: &Node| {
        let status = node.runtime.block_on(node.client.status()).expect("status");
        status.programs.iter().find(|program| program.name == "xdp_uplink").map(|program| program.id)
    };
    let (mut last, mut sent) = (id(&node), 1);
    for crash in [true, false] {
        if crash {
            node.kill();
        } else {
            node.stop();
        }
        assert!(has_xdp(&netns, "up0") && !comes(), "denied without an agent (crash: {crash})");
        node.restart();
        assert!(!comes(), "denied by the next agent (crash: {crash})");
        sent += 2;
        assert!(list(&node)[0].1 >= sent, "it goes on counting: {:?}, {sent} sent", list(&node));
        let now = id(&node);
        assert!(now.is_some() && now != last, "its own program is in the link: {last:?}, {now:?}");
        last = now;
    }
    // Its pin is all that holds the link.
    let pins = run_in(&netns, "sh", &["-c", "rm /sys/fs/bpf/netpath/default/v*/links/*-xdp_uplink"]);
    assert_eq!(pins, "");
    until("it is attached again", || has_xdp(&netns, "up0") && attached(&node, "up0").is_some());
    assert!(!comes());
    // And its table is looked at, too.
    let mut table = table();
    let keys: Vec<_> = table.keys().collect::<Result<_, _>>().expect("keys");
    assert_eq!(keys.len(), 2, "the prefix, and that the rest of IPv4 is let in");
    keys.iter().for_each(|key| table.remove(key).expect("removed"));
    assert!(comes(), "nothing denies it");
    until("it is denied again", || !comes());
    done(&node, &format!("deny rm {}", side.outside));
    assert!(answers(&client, 20), "the flow is still there");
    assert_eq!(node.runtime.block_on(node.client.status()).expect("status").problems, [""; 0]);
}

/// The table that the agent and its program use.
fn table() -> LpmTrie<MapData, Addr, u32> {
    let path = format!("/sys/fs/bpf/netpath/default/v{PIN_SCHEME}/maps/DENY");
    Map::LpmTrie(MapData::from_pin(path).expect("a pinned table")).try_into().expect("DENY")
}

/// A node with two uplinks: of them a bridge, which takes XDP programs on socket buffers alone; behind it, somebody to deny.
fn with_a_bridge() -> Node {
    let (topology, runtime) = Node::without_agent();
    let made = "ip link add br9 type bridge && ip link add port9 type veth peer name eth9 netns router \
        && ip link set port9 master br9 && ip address add 198.18.9.1/24 dev br9 && ip link set br9 up \
        && ip link set port9 up && ip -n router address add 198.18.9.2/24 dev eth9 && ip -n router link set eth9 up";
    assert_eq!(run_in(&topology.node.netns, "sh", &["-c", made]), "");
    let mut node = Node::with_agent(topology, runtime, "uplinks = [\"up0\", \"br9\"]");
    node.wait_ready();
    node
}

#[test]
fn xdp_deny_list_works_without_a_driver_and_beside_other_programs() {
    let node = with_a_bridge();
    let netns = &node.topology.node.netns;
    let receiver = socket(netns, "198.18.9.1".parse().expect("address"));
    let sender = socket(&node.topology.router.netns, "198.18.9.2".parse().expect("address"));
    let comes = || {
        sender.send_to(b"?", receiver.local_addr().expect("address")).expect("sent");
        receiver.recv_from(&mut [0; 8]).is_ok()
    };
    until("the bridge forwards", comes);

    // Somebody else's program stays where it is, and the list as it was.
    let mut other = other_program();
    let program: &mut Xdp = other.program_mut("xdp_uplink").expect("program").try_into().expect("XDP");
    let link = netns.enter(|| program.attach("br9", XdpMode::Skb)).expect("namespace").expect("attached");
    let said = refused(&node, 1, "deny add 198.18.9.2");
    assert!(said.contains("br9") && said.contains("another XDP program"), "{said}");
    assert_eq!(list(&node), []);
    assert!(comes() && !has_xdp(netns, "up0"), "nothing is denied, by no uplink");
    program.detach(link).expect("detached");

    done(&node, "deny add 198.18.9.2 203.0.113.0/24");
    assert!(!comes());
    assert_eq!(attached(&node, "br9").as_deref(), Some("xdp-generic"));
    assert_eq!(attached(&node, "up0").as_deref(), Some("xdp-driver"));
    assert!(list(&node)[0].1 > 0, "{:?}", list(&node));

    // What is there already is no error, and what is wrong changes nothing.
    done(&node, "deny add 203.0.113.0/24");
    for (status, line, words) in [
        (2, "deny add 198.51.100.1 0.0.0.0/0", "everybody"),
        (2, "deny add 198.51.100.1 10.0.0.1/8", "10.0.0.0/8"),
        (1, "deny rm 198.51.100.1", "not on the deny list"),
        (1, "deny rm 203.0.113.0/25", "not on the deny list"),
    ] {
        let said = refused(&node, status, line);
        assert!(said.contains(words), "{line}: {said}");
    }
    let prefixes: Vec<String> = list(&node).into_iter().map(|(prefix, ..)| prefix).collect();
    assert_eq!(prefixes, ["198.18.9.2/32", "203.0.113.0/24"]);
    done(&node, "deny rm 203.0.113.0/24");
    assert!(!comes(), "the other one stays");
}

/// Another's program, by a link of its own.
fn other_program() -> Ebpf {
    let mut other = Ebpf::load(netpath::datapath::ELF).expect("object");
    let program: &mut Xdp = other.program_mut("xdp_uplink").expect("program").try_into().expect("XDP");
    program.load().expect("loaded");
    other
}

#[test]
fn xdp_deny_list_changes_although_an_uplink_has_lost_its_program() {
    let node = with_a_bridge();
    let (netns, outside) = (&node.topology.node.netns, &node.topology.outside.netns);
    done(&node, "deny add 198.18.9.2");
    let pin = format!("rm -f /sys/fs/bpf/netpath/default/v*/links/{}-xdp_uplink", index(netns, "br9"));
    let mut other = other_program();
    let program: &mut Xdp = other.program_mut("xdp_uplink").expect("program").try_into().expect("XDP");
    until("its place is taken", || {
        run_in(netns, "sh", &["-c", &pin]);
        netns.enter(|| program.attach("br9", XdpMode::Skb)).expect("namespace").is_ok()
    });
    let side = Side::of(&Family::V4);
    let echo = Echo::start(netns, side.node);
    let client = connected(outside, &side, echo.address);
    assert!(answers(&client, 20));
    done(&node, &format!("deny add {}", side.outside));
    assert!(!answers(&client, 3));
    done(&node, "deny rm 198.18.9.2");
    assert_eq!(list(&node)[0].0, format!("{}/32", side.outside));
    done(&node, &format!("deny rm {}", side.outside));
    assert!(answers(&client, 20));
}

fn index(netns: &Netns, link: &str) -> String {
    let line = run_in(netns, "ip", &["-o", "link", "show", link]);
    line.split(':').next().expect("an index").to_owned()
}
