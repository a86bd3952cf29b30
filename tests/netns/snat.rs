//! Translation on the wire.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use netpath::{api::types::PodAdd, lab::checks::LabPod, net::Netns};
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    offload,
    scene::Family,
    side::Side,
};

const WAIT: Duration = Duration::from_millis(300);

for_both_families!(
    exhaustion_of_a_tiny_range_is_counted_exactly_and_never_leaks,
    no_pod_address_is_seen_on_the_wire,
    a_tcp_stream_through_snat_keeps_its_segments_whole,
);

/// Sends from a pod to outside and says whom outside saw, if the datagram arrived.
fn ask(pod: &Netns, server: &UdpSocket, source_port: u16) -> Option<SocketAddr> {
    let to = server.local_addr().expect("server");
    let any = if to.is_ipv6() { "::" } else { "0.0.0.0" };
    let socket = pod.enter(|| UdpSocket::bind((any, source_port))).expect("namespace").expect("socket");
    socket.send_to(b"?", to).expect("send");
    server.recv_from(&mut [0; 8]).ok().map(|(_, peer)| peer)
}

pub(super) fn exhaustion_of_a_tiny_range_is_counted_exactly_and_never_leaks(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("[snat]\nports = \"40000-40003\"");
    forward_ipv6(&node.topology.node.netns);
    let pod = node.pod("a");
    let server =
        node.topology.outside.netns.enter(|| UdpSocket::bind((side.outside, 5000))).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ports: Vec<u16> =
        (0..4).map(|n| ask(&pod.netns, &server, 1000 + n).expect("translated").port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [40_000, 40_001, 40_002, 40_003], "every port of the range");
    server.set_read_timeout(Some(WAIT)).unwrap();
    for n in 0..3 {
        assert_eq!(ask(&pod.netns, &server, 2000 + n), None, "nothing leaves untranslated");
    }
    assert_eq!(node.drops("SnatExhausted"), 3);
    let status = node.runtime.block_on(node.client.status()).unwrap();
    assert_eq!(status.snat.exhausted, 3, "the operator sees it");
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&pod.netns, &server, 1000).is_some(), "live flows go on");
    assert!(node.runtime.block_on(node.client.status()).unwrap().problems.is_empty());
}

#[test]
fn the_hosts_ephemeral_ports_stay_out_of_the_range() {
    let node = Node::start("[snat]\nports = \"40000-40999\"");
    let reserved = run_in(&node.topology.node.netns, "cat", &["/proc/sys/net/ipv4/ip_local_reserved_ports"]);
    assert_eq!(reserved.trim(), "40000-40999");
}

/// Invariant 1, by a capture on the router: whatever takes the host stack (last hop, fragments) is translated or stays.
pub(super) fn no_pod_address_is_seen_on_the_wire(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    // Larger packets than the uplink carries: what may be fragmented is fragmented and forwarded by the host stack.
    let wanted = PodAdd { name: "a".into(), mtu: Some(2000), ..PodAdd::default() };
    let pod = LabPod::open(node.add(&wanted)).expect("pod");
    let router = &node.topology.router.netns;
    let mut capture = Command::new("tcpdump");
    capture.args(["-i", "to-node", "-n", "-l", "--immediate-mode", if side.v6 { "ip6" } else { "ip" }]);
    capture.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut capture = router.enter(|| capture.spawn()).unwrap().expect("tcpdump");
    let mut said = BufReader::new(capture.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("listening on")), "tcpdump listens");
    let outside = side.outside.to_string();
    for arguments in [
        vec!["-c", "2", "-i", "0.01", "-W", "1", &outside],
        vec!["-c", "1", "-t", "1", "-W", "1", &outside],
        vec!["-c", "1", "-s", "4000", "-W", "1", &outside],
        vec!["-c", "1", "-M", "do", "-s", "1473", "-W", "1", &outside],
        vec!["-c", "1", "-M", "dont", "-s", "1800", "-W", "1", &outside],
    ] {
        println!("{}", run_in(&pod.netns, "ping", &arguments));
    }
    // A last packet that is known to pass and known by its size: what was before it has been seen.
    run_in(&pod.netns, "ping", &["-c", "1", "-s", "1000", "-W", "1", &outside]);
    let mut seen = String::new();
    for line in BufReader::new(capture.stdout.take().unwrap()).lines().map_while(Result::ok) {
        seen.push_str(&line);
        seen.push('\n');
        if line.contains("length 1008") {
            break;
        }
    }
    capture.kill().unwrap();
    capture.wait().unwrap();
    assert!(seen.contains(&format!("{} > {outside}: ICMP", side.node)), "{seen}");
    assert!(!seen.contains(&side.address(&pod).to_string()), "a pod's address left the node:\n{seen}");
}

fn a_tcp_stream_through_snat_keeps_its_segments_whole(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let pod = node.pod("a");
    for offloads in [true, false] {
        offload::switch(&pod.netns, "eth0", &["tx"], offloads);
        let listener =
            node.topology.outside.netns.enter(|| TcpListener::bind((side.outside, 0))).unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        let sender = pod.netns.enter(|| TcpStream::connect(to)).unwrap().expect("connected");
        let (mut receiver, _) = listener.accept().unwrap();
        let sent = std::thread::spawn(move || {
            std::io::Write::write_all(&mut &sender, &vec![7; 50_000_000]).expect("sent");
        });
        let got = std::io::copy(&mut receiver, &mut std::io::sink()).expect("received");
        sent.join().unwrap();
        assert_eq!(got, 50_000_000, "tx checksums left to the device: {offloads}");
    }
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).unwrap();
    // With GSO a train of up to 64 kB is one packet here; cut up in software it would be 1,448 bytes each. (Without
    // checksum offload the pod's own stack has no GSO: that flow's packets are small.)
    let average = flows.iter().map(|flow| flow.bytes / flow.packets).max().expect("flows");
    assert!(average > 10_000, "{average} bytes a packet: {flows:?}");
}
