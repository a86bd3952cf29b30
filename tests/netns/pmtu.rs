//! Path MTU: a narrower hop is told to the pod's sockets, which then use it.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use netpath_tests::{
    for_both_families, kernel,
    node::run_in,
    scene::Family,
    side::{Echo, Side, connected, dual},
};

const NARROW: usize = 1400;

for_both_families!(
    ping_is_told_the_narrow_hops_mtu,
    a_connection_recovers_from_a_narrow_hop_at_once,
    a_datagram_is_told_too,
    a_route_mtu_of_the_node_holds,
);

/// Makes the router's way to outside narrower than the node's uplink.
fn narrow(node: &netpath_tests::node::Node) {
    let mtu = NARROW.to_string();
    run_in(&node.topology.router.netns, "ip", &["link", "set", "to-outside", "mtu", &mtu]);
}

/// `ping` with "do not fragment" and so large a packet.
fn ping(netns: &netpath::net::Netns, side: &Side, packet: usize) -> String {
    let payload = (packet - side.header() - 8).to_string();
    run_in(netns, "ping", &["-c", "1", "-W", "2", "-M", "do", "-s", &payload, &side.outside.to_string()])
}

pub(super) fn ping_is_told_the_narrow_hops_mtu(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    narrow(&node);
    let said = ping(&a.netns, &side, 1500);
    assert!(said.contains(&format!("From {}", side.router)), "{said}");
    assert!(said.contains("mtu=1400") || said.contains("mtu = 1400"), "{said}");
    let said = ping(&a.netns, &side, NARROW);
    assert!(said.contains("1 received"), "as large as the hop: {said}");
    // Larger than the pod's own link: its own stack says no.
    let said = ping(&a.netns, &side, 1501);
    assert!(said.contains("0 received") || said.contains("oo l"), "{said}");
}

pub(super) fn a_connection_recovers_from_a_narrow_hop_at_once(family: Family) {
    const BYTES: usize = 4_000_000;
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    // No clamping of the MSS by what the peer says: its own link stays wide.
    narrow(&node);
    let listener = node.topology.outside.netns.enter(|| TcpListener::bind((side.outside, 0)));
    let listener = listener.expect("namespace").expect("listener");
    let to = listener.local_addr().expect("address");
    let sender = a.netns.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
    let (mut receiver, _) = listener.accept().expect("accepted");
    let sent = std::thread::spawn(move || (&sender).write_all(&vec![7; BYTES]).map(drop));
    let got = std::io::copy(&mut receiver, &mut std::io::sink()).expect("received");
    sent.join().expect("thread").expect("sent");
    assert_eq!(got as usize, BYTES);
    // Without the error it takes the black hole detection, which begins after three time-outs (`tcp_retries1`).
    let told = run_in(&a.netns, "nstat", &["-asz", "TcpExtTCPTimeouts"]);
    let timeouts = told.split_whitespace().skip_while(|word| *word != "TcpExtTCPTimeouts").nth(1);
    assert!(timeouts.is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count < 3)), "{told}");
    let known = run_in(&a.netns, "ip", &[side.flag(), "route", "get", &side.outside.to_string()]);
    assert!(known.contains("mtu 1400"), "the pod has learnt it: {known}");
}

pub(super) fn a_datagram_is_told_too(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    narrow(&node);
    // The answer need not be told: outside knows its own link.
    run_in(&node.topology.outside.netns, "ip", &["link", "set", "eth0", "mtu", &NARROW.to_string()]);
    let echo = Echo::start(&node.topology.outside.netns, side.outside);
    let socket = connected(&a.netns, &side, echo.address);
    // The first is lost and tells; then the pod's stack cuts the datagram, and it arrives in pieces.
    let payload = vec![3; 1450];
    let _ = socket.send(&payload);
    let mut buffer = vec![0; 2000];
    let deadline = Instant::now() + Duration::from_secs(5);
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    while Instant::now() < deadline {
        let _ = socket.send(&payload);
        if socket.recv(&mut buffer).is_ok_and(|length| length == payload.len()) {
            return;
        }
    }
    panic!("no datagram of 1,450 bytes came back through a hop of 1,400");
}

/// A locked MTU on the node's route: the packet is too big for the way, though not for the interface.
pub(super) fn a_route_mtu_of_the_node_holds(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    kernel::forward_ipv6(&node.topology.node.netns);
    let (outside, router) = (side.outside.to_string(), side.router.to_string());
    let arguments =
        [side.flag(), "route", "add", &outside, "via", &router, "dev", "up0", "mtu", "lock", "1300"];
    let said = run_in(&node.topology.node.netns, "ip", &arguments);
    assert_eq!(said, "");
    let said = ping(&a.netns, &side, 1400);
    assert!(said.contains("mtu=1300") || said.contains("mtu = 1300"), "{said}");
    let said = ping(&a.netns, &side, 1300);
    assert!(said.contains("1 received"), "{said}");
}
