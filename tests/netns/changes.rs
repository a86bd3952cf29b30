//! What changes while flows live: the node's address, the configuration.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use netpath::net::Netns;
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::Side,
    wait::until,
};

for_both_families!(
    flows_move_to_the_nodes_new_address,
    masquerade_is_toggled_at_run_time,
    an_excluded_prefix_sees_the_pods_own_address,
    a_pool_spreads_pods_and_follows_the_configuration,
    a_pods_flow_limit_is_its_own,
    timeouts_end_what_is_silent_and_keep_what_talks,
);

fn bound(netns: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((address, port))).expect("namespace").expect("socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    socket
}

/// Sends a datagram and says whom the server saw.
fn seen(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"?", server.local_addr().expect("address")).expect("sent");
    server.recv_from(&mut [0; 8]).expect("arrived").1
}

/// The outside server; with a way back to pods if their own address is to be seen.
fn server(node: &Node, side: &Side) -> UdpSocket {
    bound(&node.topology.outside.netns, side.outside, 0)
}

pub(super) fn flows_move_to_the_nodes_new_address(family: Family) {
    let side = Side::of(&family);
    let (mut old, mut new, mut router) = ("198.18.0.2/30", "198.18.0.6/29", "198.18.0.1");
    if side.v6 {
        (old, new, router) = ("2001:db8:18::2/64", "2001:db8:18::6/64", "2001:db8:18::1");
    }
    let node = Node::start("");
    let pod = node.pod("a");
    let (server, client) = (server(&node, &side), bound(&pod.netns, side.any(), 40_000));
    assert_eq!(seen(&client, &server), SocketAddr::new(side.node, 40_000));
    let netns = &node.topology.node.netns;
    if !side.v6 {
        run_in(&node.topology.router.netns, "ip", &["addr", "add", "198.18.0.1/29", "dev", "to-node"]);
    }
    run_in(netns, "ip", &["addr", "add", new, "dev", "up0", "nodad"]);
    run_in(netns, "ip", &["addr", "del", old, "dev", "up0"]);
    run_in(netns, "ip", &[side.flag(), "route", "replace", "default", "via", router, "dev", "up0"]);
    let new: IpAddr = new.split('/').next().unwrap().parse().unwrap();
    until("the live flow leaves with the new address", || {
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        server.recv_from(&mut [0; 8]).is_ok_and(|(_, peer)| peer == SocketAddr::new(new, 40_000))
    });
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    assert!(flows.iter().all(|flow| flow.translated_source == Some(new)), "{flows:?}");
}

/// Outside learns a way to the pods, and the router too: only then an answer to a pod's own address comes back.
fn way_back(node: &Node, side: &Side) {
    let (block, by_router, by_node) = if side.v6 {
        ("fd00:61::/64", "2001:db8:18:1::1", "2001:db8:18::2")
    } else {
        ("10.61.0.0/24", "198.18.1.1", "198.18.0.2")
    };
    run_in(&node.topology.outside.netns, "ip", &["route", "add", block, "via", by_router]);
    run_in(&node.topology.router.netns, "ip", &["route", "add", block, "via", by_node]);
}

pub(super) fn masquerade_is_toggled_at_run_time(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let pod = node.pod("a");
    way_back(&node, &side);
    let own = side.address(&pod);
    let server = server(&node, &side);
    // A port of its own for each: one that came round again would have the flow of before.
    let mut ports = 42_000..;
    let mut fresh = || seen(&bound(&pod.netns, side.any(), ports.next().expect("a port")), &server).ip();
    let live = bound(&pod.netns, side.any(), 40_001);
    assert_eq!(seen(&live, &server).ip(), side.node);
    node.reconfigure("masquerade = false");
    until("new flows keep the pod's address", || fresh() == own);
    assert_eq!(seen(&live, &server).ip(), side.node, "a live flow stays as it is");
    // Whoever was asked by the pod's own address may answer it.
    let asked = bound(&pod.netns, side.any(), 40_002);
    let peer = seen(&asked, &server);
    server.send_to(b"!", peer).expect("sent");
    asked.recv(&mut [0; 8]).expect("the answer to the pod's own address");
    node.reconfigure("");
    until("flows are translated again", || fresh() == side.node);
    assert_eq!(
        seen(&asked, &server).ip(),
        side.node,
        "the untranslated one too: nothing leaves with a pod's address"
    );
}

pub(super) fn an_excluded_prefix_sees_the_pods_own_address(family: Family) {
    let side = Side::of(&family);
    let node = Node::start(&format!("no_masquerade = [\"{}\"]", ipnet::IpNet::from(side.outside)));
    let pod = node.pod("a");
    let to_outside = seen(&bound(&pod.netns, side.any(), 0), &server(&node, &side)).ip();
    assert_eq!(to_outside, side.address(&pod));
    let router = bound(&node.topology.router.netns, side.router, 0);
    assert_eq!(seen(&bound(&pod.netns, side.any(), 0), &router).ip(), side.node, "others do not");
}

pub(super) fn a_pool_spreads_pods_and_follows_the_configuration(family: Family) {
    let side = Side::of(&family);
    let pool = if side.v6 { ["2001:db8:18::a", "2001:db8:18::b"] } else { ["198.18.3.1", "198.18.3.2"] };
    let (topology, runtime) = Node::without_agent();
    forward_ipv6(&topology.node.netns);
    let router = side.node.to_string();
    for address in pool {
        run_in(&topology.node.netns, "ip", &["addr", "add", address, "dev", "up0"]);
        run_in(&topology.router.netns, "ip", &["route", "add", address, "via", &router]);
    }
    let configured = format!("[snat]\naddresses = [\"{}\", \"{}\"]", pool[0], pool[1]);
    let mut node = Node::with_agent(topology, runtime, &configured);
    node.wait_ready();
    let pool = pool.map(|address| address.parse::<IpAddr>().unwrap());
    let server = server(&node, &side);
    let mut used: Vec<IpAddr> = ["a", "b"]
        .map(|name| {
            let pod = node.pod(name);
            let ways = [0, 0, 0].map(|_| seen(&bound(&pod.netns, side.any(), 0), &server).ip());
            assert!(ways.iter().all(|way| *way == ways[0]), "a pod keeps to one address: {ways:?}");
            ways[0]
        })
        .to_vec();
    used.sort();
    assert_eq!(used, pool, "pods are spread");
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    node.reconfigure(&format!("[snat]\naddresses = [\"{}\"]", used[1]));
    let pods = ["c", "d"].map(|name| node.pod(name));
    until("the pool is one address", || {
        pods.iter().all(|pod| seen(&bound(&pod.netns, side.any(), 0), &server).ip() == used[1])
    });
}

/// Below Linux 6.17 the node's stack does nothing for pods over IPv6 unless all interfaces forward. What `status` says of
/// that is true on any kernel.
#[test]
fn a_node_that_cannot_answer_pods_over_ipv6_says_so() {
    const ALL: &str = "net.ipv6.conf.all.forwarding";
    let outside = Side::of(&Family::V6).outside.to_string();
    let node = Node::start("");
    let pod = node.pod("a");
    let told = || {
        let status = node.runtime.block_on(node.client.status()).expect("status");
        status.problems.iter().any(|problem| problem.starts_with(ALL))
    };
    let answered = || {
        let said = run_in(&pod.netns, "ping", &["-6", "-c", "1", "-t", "1", "-W", "1", &outside]);
        said.contains("Time exceeded")
    };
    until("the node answers, or status tells why not", || answered() != told());
    run_in(&node.topology.node.netns, "sysctl", &["-w", &format!("{ALL}=1")]);
    until("the node answers, and status tells of no problem", || answered() && !told());
}

fn a_pods_flow_limit_is_its_own(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("[flows]\ncapacity = 16384\nper_pod = 10");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let server = server(&node, &side);
    let first = bound(&a.netns, side.any(), 0);
    seen(&first, &server);
    for _ in 0..30 {
        let socket = bound(&a.netns, side.any(), 0);
        socket.send_to(b"?", server.local_addr().unwrap()).expect("sent");
    }
    let refused = node.drops("PodFlowLimit");
    assert!((1..=21).contains(&refused), "{refused} of 31 flows refused with a limit of 10");
    while server.set_read_timeout(Some(std::time::Duration::from_millis(50))).is_ok() {
        if server.recv_from(&mut [0; 8]).is_err() {
            break;
        }
    }
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    seen(&first, &server);
    seen(&bound(&b.netns, side.any(), 0), &server);
}

fn timeouts_end_what_is_silent_and_keep_what_talks(family: Family) {
    let side = Side::of(&family);
    let node = Node::start(
        "[flows]\ncapacity = 16384\n[flows.timeouts]\nudp_unreplied = \"2s\"\nudp_replied = \"30s\"",
    );
    let pod = node.pod("a");
    let server = server(&node, &side);
    let (silent, talks) = (bound(&pod.netns, side.any(), 41_000), bound(&pod.netns, side.any(), 41_001));
    seen(&silent, &server);
    let peer = seen(&talks, &server);
    server.send_to(b"!", peer).expect("sent");
    talks.recv(&mut [0; 8]).expect("answer");
    until("the silent flow is gone", || {
        let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
        assert!(flows.iter().any(|flow| flow.source_port == 41_001), "the answered one stays: {flows:?}");
        flows.iter().all(|flow| flow.source_port != 41_000)
    });
}
