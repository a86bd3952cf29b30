//! What users notice of delivery: every hop shows, what nobody takes is answered, multicast is refused.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use netpath::net::Netns;
use netpath_tests::{
    for_both_families, kernel,
    node::run_in,
    scene::Family,
    side::{Side, connected, dual, sink},
};

/// Long enough for any answer, short enough to fail soon.
const WAIT: Duration = Duration::from_secs(3);
/// A port that nobody listens on.
const CLOSED: u16 = 4;

for_both_families!(
    traceroute_shows_every_hop,
    tracepath_finds_the_way_and_its_mtu,
    a_closed_port_is_refused_at_once,
    a_dead_pod_and_an_unknown_destination_are_unreachable,
    multicast_is_refused_and_counted,
    removal_of_a_pod_resets_its_peers,
    a_clean_run_drops_nothing,
);

pub(super) fn traceroute_shows_every_hop(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    kernel::forward_ipv6(&node.topology.node.netns);
    let outside = side.outside.to_string();
    // UDP to high ports, ICMP echo, TCP SYN: the errors come back for each.
    for method in [&["-q", "1"][..], &["-q", "1", "-I"], &["-q", "1", "-T", "-p", "9"]] {
        let arguments = [&[side.flag(), "-n", "-w", "2"], method, &[&outside]].concat();
        let said = run_in(&a.netns, "traceroute", &arguments);
        let hops: Vec<_> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        let expected = [side.node, side.router, side.outside].map(|hop| hop.to_string());
        assert_eq!(hops, expected, "{method:?}:\n{said}");
    }
}

pub(super) fn tracepath_finds_the_way_and_its_mtu(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    kernel::forward_ipv6(&node.topology.node.netns);
    // The router's way on is narrower than the pod's link.
    run_in(&node.topology.router.netns, "ip", &["link", "set", "to-outside", "mtu", "1400"]);
    let said = run_in(&a.netns, "tracepath", &[side.flag(), "-n", &side.outside.to_string()]);
    assert!(said.contains("pmtu 1400"), "{said}");
    assert!(said.contains("reached"), "{said}");
    for hop in [side.node, side.router, side.outside] {
        assert!(said.contains(&format!(" {hop} ")), "{hop} is missing:\n{said}");
    }
}

/// How a TCP connection and a datagram are refused.
fn refusals(netns: &Netns, side: &Side, to: IpAddr) -> (ErrorKind, ErrorKind) {
    let closed = SocketAddr::new(to, CLOSED);
    let tcp = netns.enter(|| TcpStream::connect_timeout(&closed, WAIT)).expect("namespace");
    let socket = connected(netns, side, closed);
    socket.send(b"?").expect("send");
    let udp = socket.recv(&mut [0; 8]);
    (tcp.expect_err("a connection").kind(), udp.expect_err("an answer").kind())
}

pub(super) fn a_closed_port_is_refused_at_once(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let refused = (ErrorKind::ConnectionRefused, ErrorKind::ConnectionRefused);
    for (name, to) in [("outside", side.outside), ("node", side.node), ("pod", side.address(&b))] {
        assert_eq!(refusals(&a.netns, &side, to), refused, "pod to {name}");
    }
    let from_node = refusals(&node.topology.node.netns, &side, side.address(&a));
    assert_eq!(from_node, refused, "node to pod");
    assert_eq!(node.drops("ProtocolNotTranslated"), 0, "no error was lost");
}

pub(super) fn a_dead_pod_and_an_unknown_destination_are_unreachable(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let gone = side.address(&b);
    node.runtime.block_on(node.client.pod_rm("b")).expect("removed");
    for (name, to) in [("a removed pod", gone), ("an address nobody has", side.nobody)] {
        let said = run_in(&a.netns, "ping", &["-c", "1", "-W", "3", &to.to_string()]);
        assert!(said.contains("nreachable"), "{name}:\n{said}");
    }
    // The router has no way there and says so, about a translated packet.
    let nowhere = if side.v6 { "2001:db8:dead::1" } else { "203.0.113.1" };
    let said = run_in(&a.netns, "ping", &["-c", "1", "-W", "3", nowhere]);
    assert!(said.contains(&format!("From {}", side.router)) && said.contains("nreachable"), "{said}");
}

pub(super) fn multicast_is_refused_and_counted(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    // 198.18.0.3 is the broadcast address of the node's own subnet: the stack would take it for itself.
    let groups = if side.v6 { &["ff05::1:3"][..] } else { &["224.0.1.1", "198.18.0.3"] };
    let socket = a.netns.enter(|| UdpSocket::bind((side.any(), 0))).expect("namespace").expect("socket");
    for group in groups {
        let before = node.drops("Multicast");
        socket.send_to(b"?", (*group, 5353)).expect("sent");
        assert_eq!(node.drops("Multicast"), before + 1, "{group}");
    }
}

pub(super) fn removal_of_a_pod_resets_its_peers(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    let outside = &node.topology.outside.netns;
    let listener = outside.enter(|| std::net::TcpListener::bind((side.outside, 0))).expect("namespace");
    let listener = listener.expect("listener");
    let to = listener.local_addr().expect("address");
    let client =
        a.netns.enter(|| TcpStream::connect_timeout(&to, WAIT)).expect("namespace").expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    // The pod's own stack must not say goodbye: the socket stays open past the test.
    std::mem::forget(client);
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    server.set_read_timeout(Some(WAIT)).expect("time-out");
    std::io::Write::write_all(&mut &server, b"still there?").expect("sent");
    let error = std::io::Read::read(&mut &server, &mut [0; 8]).expect_err("an answer of the removed pod");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

pub(super) fn a_clean_run_drops_nothing(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let to = sink(&b.netns, side.address(&b));
    drop(a.netns.enter(|| TcpStream::connect_timeout(&to, WAIT)).expect("namespace").expect("connected"));
    run_in(&a.netns, "ping", &["-c", "2", "-i", "0.01", &side.outside.to_string()]);
    let drops = node.runtime.block_on(node.client.drops()).expect("drops");
    assert!(drops.iter().all(|drop| drop.packets == 0), "{drops:?}");
}
