//! The node's own sockets share its address with the pods' flows, and never notice.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use netpath::{api::types::FlowFilter, net::Netns};
use netpath_tests::{
    for_both_families,
    kernel::lacks,
    node::{Node, PATIENCE, add_address, run_in},
    scene::Family,
    side::{Side, sink},
    wait::until,
};

for_both_families!(
    the_hosts_connections_go_on_while_pods_exhaust_the_range,
    host_and_pod_with_one_port_to_one_server_both_get_their_answers,
    an_address_of_the_node_on_another_interface_is_the_nodes_as_well,
    a_port_of_an_earlier_range_is_the_pods_until_its_flow_ends,
    a_port_of_an_earlier_range_is_the_pods_after_a_restart_too,
    a_listener_of_the_host_keeps_its_port,
    host_and_pod_ping_with_one_identifier,
);

fn bound(netns: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((address, port))).expect("namespace").expect("socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    socket
}

/// Sends `word` and says whom the server saw.
fn ask(socket: &UdpSocket, server: &UdpSocket, word: &[u8]) -> SocketAddr {
    socket.send_to(word, server.local_addr().expect("address")).expect("sent");
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).expect("arrived");
    assert_eq!(&buffer[..length], word);
    peer
}

pub(super) fn the_hosts_connections_go_on_while_pods_exhaust_the_range(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("[snat]\nports = \"40000-40003\"");
    let pod = node.pod("a");
    let (host, outside) = (&node.topology.node.netns, &node.topology.outside.netns);
    let server = bound(outside, side.outside, 0);
    for port in 1000..1004 {
        ask(&bound(&pod.netns, side.any(), port), &server, b"pod");
    }
    let refused = bound(&pod.netns, side.any(), 1004);
    refused.send_to(b"?", server.local_addr().unwrap()).expect("sent");
    assert_eq!(node.drops("SnatExhausted"), 1);
    // UDP to the very destination, TCP, and echo.
    let own = bound(host, side.node, 0);
    let peer = ask(&own, &server, b"host");
    assert_eq!(peer, own.local_addr().unwrap(), "the host's own port");
    server.send_to(b"answer", peer).expect("sent");
    assert_eq!(own.recv(&mut [0; 16]).expect("answer"), 6);
    let to = sink(outside, side.outside);
    drop(host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap().expect("connected"));
    let said = run_in(host, "ping", &["-c", "2", "-i", "0.05", "-W", "2", &side.outside.to_string()]);
    assert!(said.contains("2 received"), "{said}");
}

pub(super) fn host_and_pod_with_one_port_to_one_server_both_get_their_answers(family: Family) {
    let side = Side::of(&family);
    both_get_their_answers(&Node::start("[snat]\nports = \"40000-40099\""), &side, side.node);
}

/// A route's `src` may stand on `lo`, as it does on nodes that speak BGP.
fn an_address_of_the_node_on_another_interface_is_the_nodes_as_well(family: Family) {
    if lacks((6, 7), "the FIB's source address (dab4e1f06cab)") {
        return;
    }
    let side = Side::of(&family);
    let (topology, runtime) = Node::without_agent();
    let own = if side.v6 { "2001:db8:99::1" } else { "198.18.99.1" };
    let (router, uplink) = (side.router.to_string(), side.node.to_string());
    add_address(&topology.node.netns, own.parse().expect("address"), "lo");
    let arguments = [side.flag(), "route", "replace", "default", "via", &router, "dev", "up0", "src", own];
    assert_eq!(run_in(&topology.node.netns, "ip", &arguments), "");
    run_in(&topology.router.netns, "ip", &["route", "add", own, "via", &uplink]);
    let mut node = Node::with_agent(topology, runtime, "[snat]\nports = \"40000-40099\"");
    node.wait_ready();
    both_get_their_answers(&node, &side, own.parse().expect("address"));
}

fn a_port_of_an_earlier_range_is_the_pods_until_its_flow_ends(family: Family) {
    an_earlier_range(&Side::of(&family), |_| ());
}

fn a_port_of_an_earlier_range_is_the_pods_after_a_restart_too(family: Family) {
    an_earlier_range(&Side::of(&family), |node| {
        node.kill();
        node.restart();
    });
}

/// The range changes while a pod's flow has a port of the old one.
fn an_earlier_range(side: &Side, meanwhile: impl FnOnce(&mut Node)) {
    const BOTH_RANGES: &str = "40000-40099,50000-50099";
    let mut node = Node::start("[snat]\nports = \"40000-40099\"");
    let pod = node.pod("a");
    let reserved = |node: &Node| {
        let list = run_in(&node.topology.node.netns, "cat", &["/proc/sys/net/ipv4/ip_local_reserved_ports"]);
        list.trim().to_owned()
    };
    let server = bound(&node.topology.outside.netns, side.outside, 0);
    let theirs = bound(&pod.netns, side.any(), PORT);
    assert_eq!(ask(&theirs, &server, b"pod"), SocketAddr::new(side.node, PORT));
    node.reconfigure("[snat]\nports = \"50000-50099\"");
    until("both ranges are reserved", || reserved(&node) == BOTH_RANGES);
    meanwhile(&mut node);
    let fresh = ask(&bound(&pod.netns, side.any(), 1000), &server, b"new");
    assert!((50_000..50_100).contains(&fresh.port()), "{fresh} is of the new range");
    answer_both(&node, &theirs, &server, side.node);
    assert_eq!(reserved(&node), BOTH_RANGES);
    let all = FlowFilter { all: true, ..FlowFilter::default() };
    node.runtime.block_on(node.client.flush_flows(&all)).expect("flushed");
    until("the old range is given back", || reserved(&node) == "50000-50099");
}

/// The source port of the pod and of the host.
const PORT: u16 = 40_010;

fn both_get_their_answers(node: &Node, side: &Side, address: IpAddr) {
    let pod = node.pod("a");
    let server = bound(&node.topology.outside.netns, side.outside, 0);
    let theirs = bound(&pod.netns, side.any(), PORT);
    answer_both(node, &theirs, &server, address);
}

/// A pod's client has [`PORT`] there and outside; now the host opens the same.
fn answer_both(node: &Node, theirs: &UdpSocket, server: &UdpSocket, address: IpAddr) {
    let pod_seen = ask(theirs, server, b"pod");
    assert_eq!(pod_seen, SocketAddr::new(address, PORT), "the pod was first, and keeps its port");
    let own = bound(&node.topology.node.netns, address, PORT);
    let host_seen = ask(&own, server, b"host");
    assert_eq!(host_seen.ip(), address);
    assert_ne!(host_seen.port(), PORT, "the host gets another");
    for (seen, word) in [(pod_seen, b"pod!"), (host_seen, b"host")] {
        server.send_to(word, seen).expect("sent");
    }
    for (socket, word) in [(theirs, b"pod!"), (&own, b"host")] {
        let mut buffer = [0; 4];
        let (_, from) = socket.recv_from(&mut buffer).expect("answer");
        assert_eq!((&buffer, from), (word, server.local_addr().unwrap()));
    }
    assert_eq!(ask(theirs, server, b"again"), pod_seen, "the pod's binding is what it was");
}

fn a_listener_of_the_host_keeps_its_port(family: Family) {
    const PORT: u16 = 40_020;
    let side = Side::of(&family);
    let node = Node::start("[snat]\nports = \"40000-40099\"");
    let pod = node.pod("a");
    let (host, outside) = (&node.topology.node.netns, &node.topology.outside.netns);
    let listener = host.enter(|| TcpListener::bind((side.any(), PORT))).unwrap().expect("listener");
    let service = bound(host, side.any(), PORT);
    let server = bound(outside, side.outside, 0);
    let seen = ask(&bound(&pod.netns, side.any(), PORT), &server, b"pod");
    assert_ne!(seen.port(), PORT, "the host's UDP service has it");
    // A client whose address and port a pod's flow could have had.
    let to = SocketAddr::new(side.node, PORT);
    server.send_to(b"question", to).expect("sent");
    let (_, client) = service.recv_from(&mut [0; 16]).expect("the service is asked");
    assert_eq!(client, server.local_addr().unwrap());
    let connected = outside.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap();
    connected.expect("the host's listener answers");
    listener.accept().expect("accepted");
}

pub(super) fn host_and_pod_ping_with_one_identifier(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("[snat]\nports = \"40000-40099\"");
    let pod = node.pod("a");
    let to = side.outside.to_string();
    let arguments = ["-e", "40030", "-c", "5", "-i", "0.2", "-W", "2", &to];
    let said = std::thread::scope(|scope| {
        let pod = scope.spawn(|| run_in(&pod.netns, "ping", &arguments));
        let host = scope.spawn(|| run_in(&node.topology.node.netns, "ping", &arguments));
        [pod.join().expect("pod's ping"), host.join().expect("host's ping")]
    });
    for said in said {
        assert!(said.contains("5 received") && !said.contains("DUP"), "{said}");
    }
}
