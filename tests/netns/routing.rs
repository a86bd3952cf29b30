//! The node's own routing holds for pods: what it refuses, by which uplink it sends, from which address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use netpath::{
    lab::{
        checks::LabPod,
        topology::{End, Topology, wire},
    },
    net::Netns,
};
use netpath_tests::{
    for_both_families,
    kernel::lacks,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::Side,
    wait::until,
};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

for_both_families!(
    unreachable_and_prohibited_routes_are_told,
    a_blackhole_is_silent_and_nothing_leaks,
    a_rule_by_source_chooses_the_second_uplink,
    multipath_spreads_flows_and_keeps_each_on_its_way,
    one_of_two_uplinks_that_is_renamed_stays_one,
    an_uplink_that_is_made_again_leaks_nothing_before_the_agent_sees_it,
);

/// A second uplink `up1` to the router, which reaches the node by it as well.
struct Second {
    node: IpAddr,
    router: IpAddr,
}

impl Second {
    /// Makes its link.
    fn wire(&self, topology: &Topology, runtime: &Runtime) {
        let length = if self.node.is_ipv6() { 64 } else { 30 };
        let net = |address| [ipnet::IpNet::new(address, length).expect("prefix")];
        let up1 = End { space: &topology.node, link: "up1", addresses: &net(self.node) };
        let to_node = End { space: &topology.router, link: "to-node1", addresses: &net(self.router) };
        runtime.block_on(wire(up1, to_node, None)).expect("second uplink");
    }

    /// Sends what comes from a pod by it.
    fn lead(&self, node: &Node, pod: &LabPod, side: &Side) {
        let (netns, router) = (&node.topology.node.netns, self.router.to_string());
        ip(netns, &[side.flag(), "route", "add", "default", "via", &router, "dev", "up1", "table", "77"]);
        ip(netns, &[side.flag(), "rule", "add", "from", &side.address(pod).to_string(), "lookup", "77"]);
    }
}

const SECOND: &str = "uplinks = [\"up0\", \"up1\"]";

fn ip(netns: &Netns, arguments: &[&str]) {
    assert_eq!(run_in(netns, "ip", arguments), "", "ip {arguments:?}");
}

/// The topology with a second uplink, then the agent.
fn with_two_uplinks(side: &Side) -> (Node, Second) {
    let (topology, runtime) = Node::without_agent();
    let second = if side.v6 {
        Second { node: "2001:db8:2::2".parse().unwrap(), router: "2001:db8:2::1".parse().unwrap() }
    } else {
        Second { node: "198.18.2.2".parse().unwrap(), router: "198.18.2.1".parse().unwrap() }
    };
    second.wire(&topology, &runtime);
    let mut node = Node::with_agent(topology, runtime, SECOND);
    node.wait_ready();
    (node, second)
}

/// Whom outside sees when a pod sends a datagram from this port.
fn seen(pod: &Netns, side: &Side, server: &UdpSocket, port: u16) -> SocketAddr {
    let socket = pod.enter(|| UdpSocket::bind((side.any(), port))).expect("namespace").expect("socket");
    let to = server.local_addr().expect("address");
    socket.send_to(b"?", to).expect("sent");
    let (_, peer) = server.recv_from(&mut [0; 8]).expect("arrived");
    // And the answer comes back, by whichever way.
    server.send_to(b"!", peer).expect("answered");
    socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    socket.recv(&mut [0; 8]).expect("answer");
    peer
}

fn server(node: &Node, side: &Side) -> UdpSocket {
    let server = node.topology.outside.netns.enter(|| UdpSocket::bind((side.outside, 0)));
    let server = server.expect("namespace").expect("server");
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    server
}

pub(super) fn unreachable_and_prohibited_routes_are_told(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let a = node.pod("a");
    let netns = &node.topology.node.netns;
    let [first, second] =
        if side.v6 { ["2001:db8:a::", "2001:db8:b::"] } else { ["203.0.113.0", "192.0.2.0"] };
    let length = if side.v6 { "/64" } else { "/24" };
    for (kind, prefix) in [("unreachable", first), ("prohibit", second)] {
        ip(netns, &[side.flag(), "route", "add", kind, &format!("{prefix}{length}")]);
        let to =
            if side.v6 { format!("{prefix}7") } else { prefix.replace(".0", ".7").replacen(".7.", ".0.", 1) };
        let said = run_in(&a.netns, "ping", &["-c", "1", "-W", "3", &to]);
        let told = said.contains("nreachable") || said.contains("filtered") || said.contains("prohibited");
        assert!(told && said.contains("From "), "{kind} {to}:\n{said}");
    }
}

fn a_blackhole_is_silent_and_nothing_leaks(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let a = node.pod("a");
    let outside = side.outside.to_string();
    ip(&node.topology.node.netns, &[side.flag(), "route", "add", "blackhole", &outside]);
    let said = run_in(&a.netns, "ping", &["-c", "1", "-W", "1", &outside]);
    assert!(said.contains("0 received"), "{said}");
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    assert!(flows.is_empty(), "no binding for what does not leave: {flows:?}");
}

pub(super) fn a_rule_by_source_chooses_the_second_uplink(family: Family) {
    let side = Side::of(&family);
    let (node, second) = with_two_uplinks(&side);
    let (a, b) = (node.pod("a"), node.pod("b"));
    second.lead(&node, &b, &side);
    let server = server(&node, &side);
    assert_eq!(seen(&a.netns, &side, &server, 40_000).ip(), side.node, "by the main table");
    assert_eq!(seen(&b.netns, &side, &server, 40_001).ip(), second.node, "by the rule's table");
}

fn multipath_spreads_flows_and_keeps_each_on_its_way(family: Family) {
    let side = Side::of(&family);
    let (node, second) = with_two_uplinks(&side);
    let a = node.pod("a");
    let netns = &node.topology.node.netns;
    // By ports as well: all flows here have one pair of addresses.
    let family = if side.v6 { "ipv6" } else { "ipv4" };
    let policy = format!("net.{family}.fib_multipath_hash_policy");
    netns.enter(|| netpath::net::sysctl::write(&policy, "1")).expect("namespace").expect("sysctl");
    let (first, other) = (side.router.to_string(), second.router.to_string());
    let mut arguments = vec![side.flag(), "route", "replace", "default"];
    arguments.extend(["nexthop", "via", &first, "dev", "up0", "nexthop", "via", &other, "dev", "up1"]);
    ip(netns, &arguments);
    let server = server(&node, &side);
    let mut used = BTreeSet::new();
    for port in 40_000..40_024 {
        let way = seen(&a.netns, &side, &server, port);
        assert_eq!(seen(&a.netns, &side, &server, port), way, "port {port} keeps its way and its binding");
        used.insert(way.ip());
    }
    assert_eq!(used, BTreeSet::from([side.node, second.node]), "both ways are used");
}

fn one_of_two_uplinks_that_is_renamed_stays_one(family: Family) {
    if lacks((6, 2), "renaming an interface that is up") {
        return;
    }
    let side = Side::of(&family);
    let (node, second) = with_two_uplinks(&side);
    let pod = node.pod("a");
    second.lead(&node, &pod, &side);
    let server = server(&node, &side);
    let before = seen(&pod.netns, &side, &server, 40_000);
    ip(&node.topology.node.netns, &["link", "set", "up1", "name", "wan1"]);
    until("its name is missed", || {
        let status = node.runtime.block_on(node.client.status()).expect("status");
        status.problems.iter().any(|problem| problem.starts_with("uplink up1: there is no such interface"))
    });
    assert_eq!(seen(&pod.netns, &side, &server, 40_000), before, "the live flow");
    assert_eq!(seen(&pod.netns, &side, &server, 40_001).ip(), second.node, "a new one");
    let programs = node.runtime.block_on(node.client.status()).expect("status").programs;
    assert_eq!(programs.iter().filter(|program| program.interface == "wan1").count(), 2, "{programs:?}");
}

fn an_uplink_that_is_made_again_leaks_nothing_before_the_agent_sees_it(family: Family) {
    let side = Side::of(&family);
    let (node, second) = with_two_uplinks(&side);
    let pod = node.pod("a");
    second.lead(&node, &pod, &side);
    let server = server(&node, &side);
    assert_eq!(seen(&pod.netns, &side, &server, 40_000).ip(), second.node);
    node.signal(Signal::SIGSTOP);
    let netns = &node.topology.node.netns;
    ip(netns, &["link", "del", "up1"]);
    second.wire(&node.topology, &node.runtime);
    let router = second.router.to_string();
    ip(netns, &[side.flag(), "route", "add", "default", "via", &router, "dev", "up1", "table", "77"]);
    let socket = pod.netns.enter(|| UdpSocket::bind((side.any(), 0))).expect("namespace").expect("socket");
    for _ in 0..10 {
        socket.send_to(b"?", server.local_addr().expect("address")).expect("sent");
    }
    server.set_read_timeout(Some(Duration::from_millis(300))).expect("time-out");
    let leaked = server.recv_from(&mut [0; 8]);
    assert!(leaked.is_err(), "it left before there was a program: {leaked:?}");
    node.signal(Signal::SIGCONT);
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("time-out");
    // Both programs: what leaves is waited for by one, its answer by the other.
    until("the agent has seen it", || {
        socket.send_to(b"?", server.local_addr().expect("address")).expect("sent");
        let arrived = server.recv_from(&mut [0; 8]).ok().filter(|(_, peer)| peer.ip() == second.node);
        let answered = arrived.is_some_and(|(_, peer)| server.send_to(b"!", peer).is_ok());
        answered && socket.recv(&mut [0; 8]).is_ok()
    });
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    assert_eq!(seen(&pod.netns, &side, &server, 40_001).ip(), second.node);
    assert!(node.drops("NotReady") >= 10, "what did not leave is counted");
}
