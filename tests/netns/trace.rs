//! `netpath trace`: what it says is what packets then get, and saying it changes nothing.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
};

use aya::{
    Pod as Plain,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use netpath::{
    api::{
        client::ClientError,
        types::{FailureCode, Protocol, Trace, TraceRequest, TracedStage, TracedWay},
    },
    net::Netns,
};
use netpath_common::abi::{
    COUNTER_SLOTS, Counter, Exhausted, ExhaustedKey, Flow, FlowKey, Fragment, FragmentKey, PIN_SCHEME,
    PodCounter, SNAT_TRY_ROWS, TrafficClass,
};
use netpath_tests::{
    for_both_families, kernel,
    node::{Node, run_in},
    scene::Family,
    side::{Echo, Side, connected, dual},
    wait,
};

for_both_families!(
    a_new_flow_to_outside_is_told_stage_by_stage,
    a_known_flow_is_told_with_its_translation_and_its_answer,
    pods_and_node_reach_each_other_in_the_trace,
    what_is_dropped_or_answered_in_the_trace_is_so_in_truth,
    a_hundred_traces_change_nothing_and_send_nothing,
);

/// A request between two ends.
#[expect(clippy::needless_pass_by_value, reason = "names and addresses, as they come")]
fn request(from: impl ToString, to: impl ToString) -> TraceRequest {
    TraceRequest { source: from.to_string(), destination: to.to_string(), ..TraceRequest::default() }
}

fn udp(from: impl ToString, to: impl ToString, ports: (u16, u16)) -> TraceRequest {
    TraceRequest {
        protocol: Some(Protocol(17)),
        source_port: Some(ports.0),
        destination_port: Some(ports.1),
        ..request(from, to)
    }
}

fn traced(node: &Node, request: &TraceRequest) -> Trace {
    node.runtime.block_on(node.client.trace(request)).unwrap_or_else(|error| panic!("{request:?}: {error}"))
}

/// Programs with their stages, as `from_pod: parse guard …`.
fn stages(way: &TracedWay) -> Vec<String> {
    let names = |stages: &[TracedStage]| {
        stages.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>().join(" ")
    };
    way.programs.iter().map(|one| format!("{}: {}", one.program, names(&one.stages))).collect()
}

fn stage<'a>(way: &'a TracedWay, name: &str) -> &'a TracedStage {
    let mut all = way.programs.iter().flat_map(|program| &program.stages);
    all.find(|stage| stage.stage == name).unwrap_or_else(|| panic!("no stage {name} in {way:#?}"))
}

fn a_new_flow_to_outside_is_told_stage_by_stage(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    let request = TraceRequest { destination_port: Some(443), ..request("a", side.outside) };
    let trace = traced(&node, &request);
    let way = &trace.forward;
    let expected = ["from_pod: parse guard route next_hop flow translation deliver", "to_uplink: deliver"];
    assert_eq!(stages(way), expected, "{way:#?}");
    assert_eq!((way.verdict.as_str(), way.packet.protocol.as_str()), ("sent", "tcp"));
    assert_eq!((way.packet.source, way.packet.destination_port), (side.node, 443));
    assert_eq!(stage(way, "route").masquerade, Some(true));
    let hop = stage(way, "next_hop");
    assert_eq!((hop.interface.as_deref(), hop.address), (Some("up0"), Some(side.router)));
    assert_eq!(hop.mtu, Some(1500));
    assert_eq!(stage(way, "flow").new, Some(true));
    let translation = stage(way, "translation");
    assert_eq!(translation.address, Some(side.node));
    assert_eq!(translation.port, Some(way.packet.source_port), "{way:#?}");
    assert!((32_768..=49_151).contains(&way.packet.source_port), "of the SNAT range: {way:#?}");
    assert!(trace.reply.is_none() && trace.no_reply.is_some());
    assert_eq!(way.programs[0].interface, a.pod.interface);
    // Its own port, if that is in the range and free.
    let own = TraceRequest { source_port: Some(40_123), ..request };
    assert_eq!(traced(&node, &own).forward.packet.source_port, 40_123);
}

fn a_known_flow_is_told_with_its_translation_and_its_answer(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    let server = Echo::start(&node.topology.outside.netns, side.outside).address;
    let socket = connected(&a.netns, &side, server);
    socket.send(b"?").expect("sent");
    socket.recv(&mut [0; 8]).expect("an answer");
    let own = socket.local_addr().expect("address");
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    let flow = flows.iter().find(|flow| flow.source_port == own.port()).expect("the flow");
    let translated = (flow.translated_source.expect("an address"), flow.translated_port.expect("a port"));

    let trace = traced(&node, &udp("a", server.ip(), (own.port(), server.port())));
    let way = &trace.forward;
    assert_eq!((way.packet.source, way.packet.source_port), translated, "{way:#?}");
    assert_eq!(stage(way, "flow").new, Some(false), "{way:#?}");
    assert_eq!(stage(way, "flow").pod.as_deref(), Some("a"));
    let reply = trace.reply.expect("the flow is known, so its answer is");
    assert_eq!(stages(&reply), ["from_uplink: parse flow translation deliver"], "{reply:#?}");
    assert_eq!(reply.verdict, "delivered");
    assert_eq!((reply.packet.destination, reply.packet.destination_port), (own.ip(), own.port()));
    // The same answer, asked for by itself, and then what the pod would say to it.
    let back = udp(server.ip(), translated.0, (server.port(), translated.1));
    let trace = traced(&node, &back);
    assert_eq!(trace.forward, reply);
    let again = trace.reply.expect("the pod's next packet");
    assert_eq!((again.packet.source, again.packet.source_port), translated, "{again:#?}");
}

fn pods_and_node_reach_each_other_in_the_trace(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let (at_a, at_b) = (side.address(&a), side.address(&b));
    let rows = [
        (request("a", at_b), "from_pod: parse guard endpoint deliver", "delivered"),
        (request(at_a, "b"), "from_pod: parse guard endpoint deliver", "delivered"),
        (request("a", side.node), "from_pod: parse guard route deliver", "stack"),
        (request("node", at_a), "to_pod: parse endpoint deliver", "delivered"),
        (request(side.node, "a"), "to_pod: parse endpoint deliver", "delivered"),
        (request("node", side.outside), "to_uplink: parse deliver", "sent"),
        (request(side.outside, "node"), "from_uplink: parse deliver", "stack"),
    ];
    for (request, expected, verdict) in rows {
        // A name alone may stand for either family.
        let trace = traced(&node, &request);
        let way = &trace.forward;
        println!("{request:?}: {}", way.detail);
        if way.packet.source.is_ipv6() == side.v6 {
            assert_eq!((stages(way), way.verdict.as_str()), (vec![expected.to_owned()], verdict), "{way:#?}");
        }
    }
    let trace = traced(&node, &request(at_a, at_b));
    let reply = trace.reply.expect("what b answers");
    assert_eq!((reply.verdict.as_str(), reply.packet.destination), ("delivered", at_a));
    let from_node = traced(&node, &request(side.node, at_a));
    let reply = from_node.reply.expect("what a answers the node");
    assert_eq!((reply.verdict.as_str(), reply.packet.destination), ("stack", side.node), "{reply:#?}");
}

/// Sends a datagram with a source address that the pod may not have.
fn spoof(netns: &Netns, side: &Side, source: &str, to: IpAddr) {
    let (prefix, nodad) = if side.v6 { ("128", &["nodad"][..]) } else { ("32", &[][..]) };
    let own = format!("{source}/{prefix}");
    run_in(netns, "ip", &[&["addr", "add", &own, "dev", "eth0"], nodad].concat());
    let socket = netns.enter(|| std::net::UdpSocket::bind((source, 0))).expect("namespace").expect("socket");
    socket.send_to(b"?", (to, 9)).expect("sent");
    // The pod's kernel may prefer it to the pod's own.
    run_in(netns, "ip", &["addr", "del", &own, "dev", "eth0"]);
}

fn what_is_dropped_or_answered_in_the_trace_is_so_in_truth(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    kernel::forward_ipv6(&node.topology.node.netns);
    let verdict = |request: &TraceRequest, verdict: &str, reason: Option<&str>| {
        let way = traced(&node, request).forward;
        assert_eq!((way.verdict.as_str(), way.reason.as_deref()), (verdict, reason), "{request:?}: {way:#?}");
        assert_eq!(way.advice.is_some(), reason.is_some());
        way
    };
    let not_its_own = if side.v6 { "fd00:61::77" } else { "10.61.0.77" };
    let claimed = Some(not_its_own.parse().expect("address"));
    let way = verdict(
        &TraceRequest { source_address: claimed, ..request("a", side.outside) },
        "dropped",
        Some("SpoofedSource"),
    );
    assert!(stage(&way, "guard").decision.contains("not"), "{way:#?}");
    let before = node.drops("SpoofedSource");
    spoof(&a.netns, &side, not_its_own, side.outside);
    assert_eq!(node.drops("SpoofedSource"), before + 1);

    verdict(&request(side.outside, side.address(&a)), "dropped", Some("InboundDenied"));
    let group = if side.v6 { "ff05::1:3" } else { "224.0.1.1" };
    verdict(
        &TraceRequest { source_address: Some(side.address(&a)), ..request("a", group) },
        "dropped",
        Some("Multicast"),
    );
    verdict(
        &TraceRequest { protocol: Some(Protocol(47)), ..request("a", side.outside) },
        "dropped",
        Some("ProtocolNotTranslated"),
    );
    // To the host stack, which answers.
    let outside = side.outside.to_string();
    let ping = |arguments: &[&str]| run_in(&a.netns, "ping", &[&["-c", "1", "-W", "3"], arguments].concat());
    let way = verdict(&TraceRequest { ttl: Some(1), ..request("a", side.outside) }, "stack", None);
    assert!(way.detail.contains("time exceeded"), "{way:#?}");
    let said = ping(&["-t", "1", &outside]);
    assert!(said.contains("exceeded"), "{said}");
    let way = verdict(&TraceRequest { size: Some(1501), ..request("a", side.outside) }, "stack", None);
    assert_eq!(stage(&way, "next_hop").mtu, Some(1500), "{way:#?}");
    let way = verdict(&request("a", side.nobody), "stack", None);
    assert!(stage(&way, "route").decision.contains("without a pod"), "{way:#?}");
    let said = ping(&[&side.nobody.to_string()]);
    assert!(said.contains("nreachable"), "{said}");
}

/// Every entry of the tables that the attached programs write, but for what the link says by itself.
fn written() -> BTreeMap<&'static str, String> {
    fn open(name: &str) -> MapData {
        let path = format!("/sys/fs/bpf/netpath/default/v{PIN_SCHEME}/maps/{name}");
        MapData::from_pin(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
    fn hash<K: Plain + std::fmt::Debug, V: Plain + std::fmt::Debug>(map: Map) -> String {
        let map = HashMap::<_, K, V>::try_from(map).expect("a hash");
        let mut all: Vec<_> = map.iter().map(|entry| format!("{:?}", entry.expect("entry"))).collect();
        all.sort();
        all.join("\n")
    }
    fn per_cpu<V: Plain + std::fmt::Debug>(name: &str, rows: impl Iterator<Item = u32>) -> String {
        let map = PerCpuArray::<_, V>::try_from(Map::PerCpuArray(open(name))).expect("an array");
        rows.map(|row| format!("{row} {:?}", map.get(&row, 0).expect("row"))).collect::<Vec<_>>().join("\n")
    }
    let opened = Array::<_, u64>::try_from(Map::Array(open("POD_OPENED"))).expect("an array");
    let rows = (0..COUNTER_SLOTS).filter(|row| *row != TrafficClass::Neighbour as u32);
    BTreeMap::from([
        ("FLOWS", hash::<FlowKey, Flow>(Map::HashMap(open("FLOWS")))),
        ("FRAGMENTS", hash::<FragmentKey, Fragment>(Map::LruHashMap(open("FRAGMENTS")))),
        ("EXHAUSTED", hash::<ExhaustedKey, Exhausted>(Map::LruHashMap(open("EXHAUSTED")))),
        ("COUNTERS", per_cpu::<Counter>("COUNTERS", rows)),
        ("POD_COUNTERS", per_cpu::<PodCounter>("POD_COUNTERS", 0..16)),
        ("SNAT_TRIES", per_cpu::<u64>("SNAT_TRIES", 0..SNAT_TRY_ROWS)),
        ("POD_OPENED", format!("{:?}", (0..16).map(|slot| opened.get(&slot, 0)).collect::<Vec<_>>())),
    ])
}

/// What tcpdump sees of a family's TCP, UDP, SCTP and echoes until a datagram to port 9 that ends it.
struct Watch {
    child: Child,
}

impl Watch {
    fn start(netns: &Netns, interface: &str, side: &Side) -> Self {
        let icmp = if side.v6 { "icmp6[0] = 128 or icmp6[0] = 129" } else { "icmp" };
        let filter = format!("tcp or udp or sctp or {icmp}");
        let mut command = Command::new("tcpdump");
        command.args(["-i", interface, "-n", "-l", "--immediate-mode", &filter]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = netns.enter(|| command.spawn()).expect("namespace").expect("tcpdump");
        let mut said = BufReader::new(child.stderr.take().expect("stderr")).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("listening on")), "tcpdump listens on {interface}");
        Self { child }
    }

    /// The lines before the one that ends it.
    fn seen(mut self) -> Vec<String> {
        let lines = BufReader::new(self.child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
        let seen = lines.take_while(|line| !line.contains(".9: UDP")).collect();
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        seen
    }
}

fn a_hundred_traces_change_nothing_and_send_nothing(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let server = Echo::start(&node.topology.outside.netns, side.outside).address;
    let socket = connected(&a.netns, &side, server);
    socket.send(b"?").expect("sent");
    socket.recv(&mut [0; 8]).expect("an answer");
    let port = socket.local_addr().expect("address").port();
    let not_its_own = Some(if side.v6 { "fd00:61::77" } else { "10.61.0.77" }.parse().expect("address"));
    let requests = [
        udp("a", server.ip(), (port, server.port())),
        udp(side.outside, side.node, (server.port(), port)),
        TraceRequest { destination_port: Some(443), ..request("a", side.outside) },
        TraceRequest { protocol: Some(Protocol(132)), ..request("b", side.outside) },
        request("a", side.address(&b)),
        request("a", side.outside),
        request("node", side.address(&a)),
        request(side.outside, side.address(&a)),
        TraceRequest { source_address: not_its_own, ..request("a", side.outside) },
        TraceRequest { ttl: Some(1), ..request("a", side.outside) },
    ];
    let watches = [
        Watch::start(&node.topology.router.netns, "to-node", &side),
        Watch::start(&a.netns, "eth0", &side),
        Watch::start(&b.netns, "eth0", &side),
    ];
    let mut events = node.runtime.block_on(node.client.events()).expect("events");
    let before = written();
    for _ in 0..10 {
        for request in &requests {
            traced(&node, request);
        }
    }
    let after = written();
    for (table, then) in &before {
        assert_eq!(*then, after[table], "{table}");
    }
    // Something known to be seen at each place ends the watching there.
    let send = |netns: &Netns, to: IpAddr| {
        connected(netns, &side, SocketAddr::new(to, 9)).send(b"last").expect("sent");
    };
    send(&b.netns, side.address(&a));
    send(&a.netns, side.address(&b));
    send(&a.netns, side.outside);
    for (place, watch) in ["wire", "pod a", "pod b"].into_iter().zip(watches) {
        let seen = watch.seen();
        assert!(seen.is_empty(), "{place}:\n{}", seen.join("\n"));
    }
    let event = node.runtime.block_on(events.next()).expect("an event").expect("an event");
    assert_eq!(
        (event.kind.as_str(), event.destination_port),
        ("flow", 9),
        "the first one that is told: {event:?}"
    );
}

#[test]
fn what_cannot_be_traced_says_why() {
    let node = Node::start("");
    let a = node.pod("a");
    let rows = [
        (request("nobody", "a"), FailureCode::Invalid, "'nobody' is neither a pod"),
        (request("a", "outside"), FailureCode::Invalid, "'outside' is neither a pod"),
        (request("10.61.0.9", "2001:db8::1"), FailureCode::Invalid, "one address is IPv6, the other IPv4"),
        (request("node", "198.18.0.2"), FailureCode::Invalid, "meets no program"),
        (
            TraceRequest { size: Some(9), ..request("a", "192.0.2.1") },
            FailureCode::Invalid,
            "size of 9 bytes",
        ),
        (
            TraceRequest { uplink: Some("eth9".into()), ..request("192.0.2.1", "a") },
            FailureCode::Invalid,
            "there are: up0",
        ),
    ];
    let refused = |request: &TraceRequest| match node.runtime.block_on(node.client.trace(request)) {
        Err(ClientError::Refused(failure)) => Some((failure.code, failure.message)),
        Err(other) => panic!("{request:?}: {other}"),
        Ok(_) => None,
    };
    for (request, code, words) in rows {
        let (found, message) = refused(&request).unwrap_or_else(|| panic!("{request:?} is traced"));
        assert_eq!(found, code, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    // The agent sets it up again at once.
    wait::until("a pod that is down is told so", || {
        run_in(&node.topology.node.netns, "ip", &["link", "set", &a.pod.interface, "down"]);
        let told = refused(&request("192.0.2.1", "a"));
        told.is_some_and(|(code, message)| code == FailureCode::Conflict && message.contains("is down"))
    });
    wait::until("it is up again", || refused(&request("192.0.2.1", "a")).is_none());
}

#[test]
fn the_command_prints_stages_or_json() {
    let (node, _, _) = dual("");
    let output = node.netpath(&["trace", "a", "b", "--proto", "udp", "--dport", "53"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    for words in ["/from_pod\n", "  guard        10.61.0.1 is a's", "delivered to b as udp", "its answer:"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let output = node.netpath(&["trace", "a", "198.18.1.2", "--dport", "443", "-o", "json"]);
    let trace: Trace = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(trace.forward.verdict, "sent");
    let output = node.netpath(&["trace", "a", "nobody"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
