//! Published ports with real clients: from outside, from other pods, from the pod itself.

mod changes;
mod firewall;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use netpath::{
    api::types::{PodAdd, Published, TraceRequest},
    lab::checks::LabPod,
    model::Mode,
    net::Netns,
};
use netpath_common::abi::{HAIRPIN_V4, HAIRPIN_V6};
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE},
    offload,
    scene::Family,
    side::{Side, connected},
    wait,
};

for_both_families!(
    tcp_and_udp_reach_the_pod_from_everywhere,
    xdp_pods_are_reached_as_well,
    large_datagrams_and_streams_pass_both_ways,
    a_trace_tells_where_a_published_port_leads,
    connections_outlive_a_restart_and_new_ones_need_no_agent,
    a_pod_that_replaces_another_gets_the_next_datagram,
    a_closed_port_answers_and_does_not_hang,
);

const PORT: u16 = 8080;
const POD_PORT: u16 = 80;
const SILENT: Duration = Duration::from_millis(300);

/// A node that has nothing to complain about, on kernels too that need a sysctl for it.
fn start() -> Node {
    let node = Node::start("");
    forward_ipv6(&node.topology.node.netns);
    node
}

/// A pod that publishes, with a server behind it.
fn server(node: &Node, side: &Side, name: &str, publish: &[&str]) -> LabPod {
    let publish = publish.iter().map(ToString::to_string).collect();
    let pod =
        LabPod::open(node.add(&PodAdd { name: name.into(), publish, ..PodAdd::default() })).expect("pod");
    serve(&pod.netns, side, name);
    pod
}

/// Answers on TCP by HTTP, and on UDP each datagram, with its name and whom it sees; on threads of their own. What follows
/// the first datagram's first byte is sent back.
fn serve(netns: &Netns, side: &Side, name: &str) {
    let (any, name) = (side.any(), name.to_owned());
    let sockets =
        || Ok::<_, std::io::Error>((TcpListener::bind((any, POD_PORT))?, UdpSocket::bind((any, POD_PORT))?));
    let (tcp, udp) = netns.enter(sockets).expect("namespace").expect("server");
    let own = name.clone();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let name = own.clone();
            std::thread::spawn(move || {
                let (mut buffer, peer) = ([0; 4096], stream.peer_addr().expect("peer"));
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let http = buffer.starts_with(b"GET ");
                    let text = format!(
                        "HTTP/1.0 200 OK\r\nContent-Length: 64\r\n\r\n{:<64}",
                        format!("{name} {peer}")
                    );
                    // A client that has gone tells the test itself.
                    let _ = stream.write_all(if http { text.as_bytes() } else { &buffer[..length] });
                }
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = match buffer[0] {
                b'?' => udp.send_to(format!("{name} {peer}").as_bytes(), peer),
                _ => udp.send_to(&buffer[..length], peer),
            };
        }
    });
}

/// Whom a server sees that is asked over TCP, as it says: its name, the client's address.
fn curl(from: &Netns, to: SocketAddr) -> (String, IpAddr) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--globoff", "--max-time", "10", &format!("http://{to}/")]);
    let output = from.enter(|| curl.output()).expect("namespace").expect("curl");
    assert!(output.status.success(), "{to}: {output:?}");
    said(&String::from_utf8_lossy(&output.stdout))
}

fn said(text: &str) -> (String, IpAddr) {
    let (name, peer) = text.trim().split_once(' ').unwrap_or_else(|| panic!("a server said {text:?}"));
    let peer = peer.parse::<SocketAddr>().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    (name.to_owned(), peer.ip())
}

/// The same over UDP by a socket that is connected, so that only the published address may answer.
fn ask(socket: &UdpSocket) -> Option<(String, IpAddr)> {
    // Refused by an ICMP error is silence as well.
    socket.send(b"?").ok();
    let mut answer = [0; 128];
    socket.recv(&mut answer).ok().map(|length| said(&String::from_utf8_lossy(&answer[..length])))
}

fn hairpin(side: &Side) -> IpAddr {
    if side.v6 { HAIRPIN_V6.to_ip() } else { HAIRPIN_V4.to_ip() }
}

fn published(node: &Node) -> Vec<Published> {
    node.runtime.block_on(node.client.published()).expect("published")
}

fn problems(node: &Node) -> String {
    node.runtime.block_on(node.client.status()).expect("status").problems.join("\n")
}

fn reached(node: &Node, side: &Side) {
    let a = server(node, side, "a", &["8080:80", "8080:80/udp"]);
    let b = node.pod("b");
    let to = SocketAddr::new(side.node, PORT);
    let outside = &node.topology.outside.netns;
    for (from, seen) in [(outside, side.outside), (&b.netns, side.address(&b)), (&a.netns, hairpin(side))] {
        for _ in 0..2 {
            assert_eq!(curl(from, to), ("a".to_owned(), seen), "TCP");
        }
        let socket = connected(from, side, to);
        for _ in 0..3 {
            assert_eq!(ask(&socket), Some(("a".to_owned(), seen)), "UDP");
        }
    }
    let rows = published(node);
    let row = |protocol: &str| rows.iter().find(|row| row.protocol == protocol).expect("a row").clone();
    let expected = Published {
        address: "*".into(),
        port: PORT,
        ports: 1,
        protocol: "udp".into(),
        pod: "a".into(),
        pod_port: POD_PORT,
        connections: 3,
    };
    assert_eq!(row("udp"), expected, "{rows:?}");
    assert!(row("tcp").connections >= 6, "{rows:?}");
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    let by = flows.iter().filter(|flow| flow.destination_port == PORT);
    assert!(by.clone().count() >= 9, "{flows:?}");
    let translated = by.map(|flow| (flow.translated_destination, flow.translated_destination_port));
    assert!(translated.clone().all(|to| to == (Some(side.address(&a)), Some(POD_PORT))), "{flows:?}");
    assert_eq!(problems(node), "");
    assert_eq!(node.drops("InboundDenied") + node.drops("SpoofedSource") + node.drops("RouteDrop"), 0);
}

fn tcp_and_udp_reach_the_pod_from_everywhere(family: Family) {
    let node = start();
    reached(&node, &Side::of(&family));
}

fn xdp_pods_are_reached_as_well(family: Family) {
    Node::pods_in(Mode::Xdp);
    let node = start();
    reached(&node, &Side::of(&family));
}

fn large_datagrams_and_streams_pass_both_ways(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let a = server(&node, &side, "a", &["8080:80/udp", "8080:80"]);
    let b = node.pod("b");
    let content: Vec<u8> = (0..16_000_u32).map(|n| (n % 251) as u8).collect();
    for from in [&node.topology.outside.netns, &b.netns, &a.netns] {
        let socket = connected(from, &side, SocketAddr::new(side.node, PORT));
        socket.send(&content).expect("sent");
        let mut answer = vec![0; 20_000];
        let length = socket.recv(&mut answer).expect("an answer");
        assert!(answer[..length] == content, "{length} bytes");
    }
    // With the checksums left to the device, and complete.
    for offloads in [true, false] {
        for pod in [&a, &b] {
            offload::switch(&pod.netns, "eth0", &["tx"], offloads);
        }
        for from in [&node.topology.outside.netns, &b.netns, &a.netns] {
            stream(from, SocketAddr::new(side.node, PORT));
        }
    }
}

/// Megabytes there and back.
fn stream(from: &Netns, to: SocketAddr) {
    let stream = from.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    let content: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = content.clone();
    let mut writer = stream.try_clone().expect("socket");
    let writing = std::thread::spawn(move || writer.write_all(&sent).expect("written"));
    let mut back = vec![0; content.len()];
    (&stream).read_exact(&mut back).expect("echoed");
    writing.join().expect("written");
    assert!(back == content, "what came back is something else");
}

fn a_trace_tells_where_a_published_port_leads(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let a = server(&node, &side, "a", &["8080:80"]);
    let b = node.pod("b");
    let own = side.address(&a);
    for (from, seen) in
        [(side.outside, side.outside), (side.address(&b), side.address(&b)), (own, hairpin(&side))]
    {
        let request = TraceRequest {
            source: from.to_string(),
            destination: side.node.to_string(),
            source_port: Some(5000),
            destination_port: Some(PORT),
            ..TraceRequest::default()
        };
        let trace = node.runtime.block_on(node.client.trace(&request)).expect("trace");
        let way = &trace.forward;
        assert_eq!((way.verdict.as_str(), way.packet.source), ("delivered", seen), "{way:#?}");
        assert_eq!((way.packet.destination, way.packet.destination_port), (own, POD_PORT), "{way:#?}");
        let stages: Vec<_> = way.programs.iter().flat_map(|one| &one.stages).collect();
        let translated = stages.iter().find(|stage| stage.stage == "translation").expect("a translation");
        let led = (translated.address, translated.port, translated.pod.as_deref());
        assert_eq!(led, (Some(own), Some(POD_PORT), Some("a")), "{way:#?}");
    }
    assert_eq!(node.runtime.block_on(node.client.flows(None)).expect("flows"), [], "nothing was sent");
    // Once there is a connection, its answers are told as well.
    let mut client =
        node.topology.outside.netns.enter(|| TcpStream::connect((side.node, PORT))).unwrap().unwrap();
    echoes(&mut client, b"hello");
    let request = TraceRequest {
        source: side.outside.to_string(),
        destination: side.node.to_string(),
        source_port: Some(client.local_addr().expect("address").port()),
        destination_port: Some(PORT),
        ..TraceRequest::default()
    };
    let trace = node.runtime.block_on(node.client.trace(&request)).expect("trace");
    let reply = trace.reply.unwrap_or_else(|| panic!("no answer: {:#?}", trace.forward));
    assert_eq!((reply.verdict.as_str(), reply.packet.source), ("sent", side.node), "{reply:#?}");
    assert_eq!(reply.packet.source_port, PORT, "{reply:#?}");
}

/// A connection that echoes what is written.
fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("written");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("echoed");
    assert_eq!(answer, text);
}

fn connections_outlive_a_restart_and_new_ones_need_no_agent(family: Family) {
    let (mut node, side) = (start(), Side::of(&family));
    let _a = server(&node, &side, "a", &["8080:80", "8080:80/udp"]);
    let b = node.pod("b");
    let to = SocketAddr::new(side.node, PORT);
    let open = |from: &Netns| {
        let stream = from.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        (stream, connected(from, &side, to))
    };
    let mut all = [open(&node.topology.outside.netns), open(&b.netns)];
    let check = |all: &mut [(TcpStream, UdpSocket)]| {
        for (tcp, udp) in all {
            echoes(tcp, b"still there");
            assert!(ask(udp).is_some());
        }
    };
    check(&mut all);
    node.kill();
    check(&mut all);
    assert_eq!(curl(&node.topology.outside.netns, to).0, "a", "without an agent");
    node.restart();
    check(&mut all);
    node.stop();
    node.restart();
    check(&mut all);
    assert_eq!(curl(&node.topology.outside.netns, to), ("a".to_owned(), side.outside));
    assert_eq!(published(&node).len(), 2, "as the state has it");
}

fn a_pod_that_replaces_another_gets_the_next_datagram(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let first = server(&node, &side, "first", &["8080:80/udp"]);
    let other = node.pod("other");
    let to = SocketAddr::new(side.node, PORT);
    let clients = [&node.topology.outside.netns, &other.netns].map(|from| connected(from, &side, to));
    for client in &clients {
        assert_eq!(ask(client).expect("an answer").0, "first");
    }
    node.runtime.block_on(node.client.pod_rm("first")).expect("pod rm");
    drop(first);
    for client in &clients {
        client.set_read_timeout(Some(SILENT)).expect("time-out");
        assert_eq!(ask(client), None, "nobody is there");
        client.set_read_timeout(Some(PATIENCE)).expect("time-out");
    }
    let _second = server(&node, &side, "second", &["8080:80/udp"]);
    for client in &clients {
        // What the node itself said of the last one is told first.
        wait::until("an answer", || ask(client).is_some_and(|(name, _)| name == "second"));
    }
}

fn a_closed_port_answers_and_does_not_hang(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let wanted = ["8080:81", "8080:81/udp"].map(String::from).to_vec();
    let pod = node.add(&PodAdd { name: "a".into(), publish: wanted, ..PodAdd::default() });
    let (a, b) = (LabPod::open(pod).expect("pod"), node.pod("b"));
    let to = SocketAddr::new(side.node, PORT);
    for (name, from) in [("outside", &node.topology.outside.netns), ("b", &b.netns), ("itself", &a.netns)] {
        let error =
            from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{name}, TCP");
        let socket = connected(from, &side, to);
        socket.send(b"?").expect("sent");
        let error = socket.recv(&mut [0; 8]).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{name}, UDP");
    }
}
