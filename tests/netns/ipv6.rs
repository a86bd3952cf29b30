//! IPv6 beside IPv4, and alone.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Instant,
};

use netpath::{
    api::types::PodAdd,
    lab::topology::{NODE_V6, OUTSIDE_V6},
    model::GATEWAY_V6,
    net::Netns,
};
use netpath_tests::{
    kernel,
    node::{Node, PATIENCE, run_in},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Packets of a traffic class so far.
fn traffic(node: &Node, class: &str) -> u64 {
    let status = node.runtime.block_on(node.client.status()).expect("status");
    status.traffic.iter().find(|traffic| traffic.class == class).expect("a class").packets
}

fn ping(netns: &Netns, arguments: &[&str], to: Ipv6Addr) -> String {
    run_in(netns, "ping", &[&["-n", "-W", "2"], arguments, &[&to.to_string()]].concat())
}

#[test]
fn ipv6_to_outside_takes_the_fast_path() {
    let node = Node::start("");
    let pod = node.pod("a");
    let before = (traffic(&node, "translated"), traffic(&node, "to-stack"));
    let out = ping(&pod.netns, &["-c", "20", "-i", "0.01"], OUTSIDE_V6);
    assert!(out.contains(" 0% packet loss"), "{out}");
    assert!(out.contains("ttl=62"), "node and router are two hops: {out}");
    let grown = (traffic(&node, "translated") - before.0, traffic(&node, "to-stack") - before.1);
    assert_eq!(grown, (20, 0), "the kernel's FIB answers for IPv6");
}

#[test]
fn ipv6_errors_reach_the_pod() {
    let node = Node::start("");
    kernel::forward_ipv6(&node.topology.node.netns);
    let a = node.pod("a");
    let gone = ping(&a.netns, &["-c", "1"], "fd00:61::dead".parse().unwrap());
    assert!(gone.contains("nreachable"), "{gone}");
    let late = ping(&a.netns, &["-c", "1", "-t", "1"], OUTSIDE_V6);
    assert!(late.contains("Time exceeded"), "the node is a hop: {late}");
    run_in(&a.netns, "ip", &["address", "add", "fd00:61::77/128", "dev", "eth0", "nodad"]);
    let forged = ping(&a.netns, &["-c", "1", "-I", "fd00:61::77"], OUTSIDE_V6);
    assert!(forged.contains("100% packet loss"), "{forged}");
    assert!(node.drops("SpoofedSource") >= 1);
}

#[test]
fn ipv6_alone() {
    let node = Node::start("block = \"fd00:61::/64\"");
    kernel::forward_ipv6(&node.topology.node.netns);
    let add = |name: &str| {
        let pod = node.add(&PodAdd { name: name.into(), ..PodAdd::default() });
        (pod.addresses, Netns::open(pod.netns.as_ref()).expect("namespace"))
    };
    let ((_, a), (addresses, _b)) = (add("a"), add("b"));
    let b = Ipv6Addr::new(0xfd00, 0x61, 0, 0, 0, 0, 0, 2);
    assert_eq!(addresses, [IpAddr::V6(b)]);
    for to in [b, OUTSIDE_V6, NODE_V6, GATEWAY_V6] {
        let arguments: &[&str] = if to == GATEWAY_V6 { &["-c", "1", "-I", "eth0"] } else { &["-c", "1"] };
        let out = ping(&a, arguments, to);
        assert!(out.contains(" 0% packet loss"), "{to}: {out}");
    }
    assert_eq!(run_in(&a, "ip", &["-4", "address", "show", "eth0"]), "", "no IPv4 in the pod");
    let status = node.runtime.block_on(node.client.status()).unwrap();
    assert_eq!(status.problems, Vec::<String>::new());
}

#[test]
fn an_uplink_without_ipv6_is_a_problem_only_for_ipv6_networks() {
    for (block, problems) in [("10.61.0.0/24", 0), ("fd00:61::/64", 1)] {
        let check = move || {
            let (topology, runtime) = Node::without_agent();
            let flush = ["-6", "address", "flush", "dev", "up0", "scope", "global"];
            run_in(&topology.node.netns, "ip", &flush);
            let mut node = Node::with_agent(topology, runtime, &format!("block = \"{block}\""));
            node.wait_ready();
            let status = node.runtime.block_on(node.client.status()).unwrap();
            assert_eq!(status.problems.len(), problems, "{:?}", status.problems);
            for problem in status.problems {
                let words = "it has no IPv6 address: pods cannot reach outside by it over IPv6";
                assert!(problem.contains(words), "{problem}");
            }
        };
        std::thread::scope(|threads| threads.spawn(check).join().expect(block));
    }
}

/// Routers advertise themselves every few minutes; the kernel must not forget the route meanwhile.
#[test]
fn an_ipv6_default_route_from_an_advertisement_survives_pods() {
    let node = Node::start("");
    let learnt =
        || run_in(&node.topology.node.netns, "ip", &["-6", "route", "show", "default", "proto", "ra"]);
    assert_eq!(learnt(), "");
    node.topology.router.netns.enter(advertise).expect("namespace").expect("advertised");
    let deadline = Instant::now() + PATIENCE;
    while learnt().is_empty() {
        assert!(Instant::now() < deadline, "the node learns a route");
        netpath_tests::wait::rest();
    }
    node.pod("a");
    assert!(learnt().contains("default via fe80"), "{}", learnt());
}

/// A router advertisement (RFC 4861, 4.2) with a lifetime of 1,800 seconds to all nodes behind the router's leg.
fn advertise() -> io::Result<usize> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(nix::net::if_::if_nametoindex("to-node")?)?;
    let mut message = [0; 16];
    (message[0], message[4]) = (134, 64);
    message[6..8].copy_from_slice(&1800_u16.to_be_bytes());
    let all_nodes = SocketAddr::from((Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0));
    socket.send_to(&message, &all_nodes.into())
}

#[test]
fn ipv6_flows_of_two_pods_with_one_port_stay_apart() {
    let node = Node::start("");
    let server = node.topology.outside.netns.enter(|| UdpSocket::bind((OUTSIDE_V6, 5000))).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = Vec::new();
    for name in ["a", "b"] {
        let pod = node.pod(name);
        let socket = pod.netns.enter(|| UdpSocket::bind(("::", 40_000))).unwrap().expect("socket");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(name.as_bytes(), server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        let (length, peer) = server.recv_from(&mut buffer).expect("arrived");
        assert_eq!((&buffer[..length], peer.ip()), (name.as_bytes(), NODE_V6.into()));
        seen.push((socket, peer));
    }
    assert_ne!(seen[0].1, seen[1].1);
    for (socket, peer) in seen {
        server.send_to(peer.to_string().as_bytes(), peer).unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("answered");
        assert_eq!(buffer[..length], *peer.to_string().as_bytes());
    }
}
