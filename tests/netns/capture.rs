//! `netpath capture`: both sides of the translation, both directions, and nobody else's packets.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    thread::JoinHandle,
};

use etherparse::{IpSlice, SlicedPacket, TransportSlice};
use netpath::net::Netns;
use netpath_tests::{
    for_both_families,
    node::{Node, binary, run_in},
    scene::Family,
    side::{Echo, Side, connected, dual},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{
        enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
        interface_description::InterfaceDescriptionOption,
    },
};

for_both_families!(
    a_file_has_both_sides_of_the_translation_and_nobody_elses_packets,
    lines_are_filtered_by_either_side_and_counted,
    errors_about_a_flow_and_datagrams_in_parts_are_the_pods,
);

const FILE: &str = "/mnt/capture.pcapng";

/// A capture under way.
struct Capturing {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Capturing {
    /// Starts it in the node's namespace, and waits until it listens.
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg("capture").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            node.topology.node.netns.enter(|| command.spawn()).expect("namespace").expect("netpath");
        let mut said = BufReader::new(child.stderr.take().expect("stderr"));
        let mut line = String::new();
        while !line.contains("capturing on") {
            line.clear();
            assert_ne!(said.read_line(&mut line).expect("stderr"), 0, "it has ended: {:?}", child.wait());
        }
        Self { child, said }
    }

    /// Ends it as Ctrl-C does; returns what it printed and said.
    fn end(self) -> (Vec<u8>, String) {
        kill(Pid::from_raw(self.child.id().try_into().expect("process id")), Signal::SIGINT).expect("SIGINT");
        self.wait()
    }

    /// What it prints, until there is all that is wanted.
    fn printed(&mut self, has_all: impl Fn(&str) -> bool) -> String {
        let (mut text, mut more) = (String::new(), [0; 4096]);
        let stdout = self.child.stdout.as_mut().expect("stdout");
        while !has_all(&text) {
            let length = stdout.read(&mut more).expect("stdout");
            assert_ne!(length, 0, "it has ended: {text}");
            text += std::str::from_utf8(&more[..length]).expect("text");
        }
        text
    }

    /// Waits for its end.
    fn wait(mut self) -> (Vec<u8>, String) {
        let (mut printed, mut said) = (Vec::new(), String::new());
        self.child.stdout.take().expect("stdout").read_to_end(&mut printed).expect("stdout");
        self.said.read_to_string(&mut said).expect("stderr");
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "{status}: {said}");
        (printed, said)
    }
}

/// A packet of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    point: String,
    outgoing: bool,
    what: &'static str,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// All packets of a capture that are TCP, UDP or echoes, and how many there are in all.
fn seen(file: impl Read) -> (Vec<Seen>, usize) {
    let mut reader = PcapNgReader::new(file).expect("pcapng");
    let (mut points, mut seen, mut all) = (Vec::new(), Vec::new(), 0);
    while let Some(block) = reader.next_block() {
        match block.expect("block") {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                points.push(name.expect("a point has a name"));
            }
            Block::EnhancedPacket(packet) => {
                all += 1;
                seen.extend(read(&points, &packet));
            }
            other => panic!("{other:?}"),
        }
    }
    (seen, all)
}

fn read(points: &[String], packet: &EnhancedPacketBlock<'_>) -> Option<Seen> {
    let direction = packet.options.iter().find_map(|option| match option {
        EnhancedPacketOption::Flags(flags) => Some(flags & 3),
        _ => None,
    });
    let ip = IpSlice::from_slice(packet.data.get(14..)?).ok()?;
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    let echo = |kind: u8, word: [u8; 4]| {
        let what = match kind {
            8 | 128 => "question",
            0 | 129 => "answer",
            _ => return None,
        };
        let id = u16::from_be_bytes([word[0], word[1]]);
        Some((what, id, id))
    };
    let (what, sport, dport) = match SlicedPacket::from_ethernet(&packet.data).expect("a packet").transport? {
        TransportSlice::Tcp(tcp) => ("tcp", tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => ("udp", udp.source_port(), udp.destination_port()),
        TransportSlice::Icmpv4(icmp) => echo(icmp.type_u8(), icmp.bytes5to8())?,
        TransportSlice::Icmpv6(icmp) => echo(icmp.type_u8(), icmp.bytes5to8())?,
        TransportSlice::Igmp(_) => return None,
    };
    Some(Seen {
        point: points[packet.interface_id as usize].clone(),
        outgoing: direction.expect("a packet has a direction") == 2,
        what,
        source: (source, sport),
        destination: (destination, dport),
    })
}

/// Takes one connection, and says what it hears.
fn parrot(netns: &Netns, address: IpAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = netns.enter(|| TcpListener::bind((address, 0))).expect("namespace").expect("listener");
    let at = listener.local_addr().expect("address");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connection");
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).expect("heard");
        stream.write_all(&heard).expect("said");
    });
    (at, answering)
}

/// A TCP exchange; returns the client's own end.
fn exchange(from: &Netns, server: &Netns, address: IpAddr) -> (SocketAddr, SocketAddr) {
    let (to, answering) = parrot(server, address);
    let mut stream = from.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
    let own = stream.local_addr().expect("address");
    stream.write_all(b"hello").expect("said");
    stream.read_exact(&mut [0; 5]).expect("heard");
    answering.join().expect("the server");
    (own, to)
}

fn ping(netns: &Netns, to: IpAddr) {
    let said = run_in(netns, "ping", &["-c", "1", "-W", "5", &to.to_string()]);
    assert!(said.contains(" 0% packet loss"), "{said}");
}

fn a_file_has_both_sides_of_the_translation_and_nobody_elses_packets(family: Family) {
    let side = Side::of(&family);
    let (node, a, b) = dual("");
    let (outside, at_a, at_b) = (&node.topology.outside.netns, side.address(&a), side.address(&b));
    let capture = Capturing::start(&node, &["a", "-w", FILE]);
    ping(&a.netns, side.outside);
    ping(&a.netns, at_b);
    let (own, to) = exchange(&a.netns, outside, side.outside);
    let (own_to_b, to_b) = exchange(&a.netns, &b.netns, at_b);
    // Others' packets pass the same uplink.
    ping(&b.netns, side.outside);
    ping(&node.topology.node.netns, side.outside);
    exchange(&b.netns, outside, side.outside);
    let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
    let (_, said) = capture.end();

    let (seen, all) = seen(File::open(FILE).expect("file"));
    assert!(said.contains(&format!("{all} packets captured, 0 lost")), "{said}");
    let has = |point: &str, outgoing, what, source: (IpAddr, u16), destination: (IpAddr, u16)| {
        let wanted = Seen { point: point.into(), outgoing, what, source, destination };
        assert!(seen.contains(&wanted), "{wanted:?} is missing in {seen:#?}");
    };
    let mut checked = 0;
    for flow in flows.iter().filter(|flow| flow.destination == side.outside) {
        let (pod, far) = ((flow.source, flow.source_port), (flow.destination, flow.destination_port));
        let wire = (flow.translated_source.expect("translated"), flow.translated_port.expect("translated"));
        let is_echo = flow.protocol.starts_with("icmp");
        let (question, answer) = if is_echo { ("question", "answer") } else { ("tcp", "tcp") };
        // An echo's identifier stands for both ports.
        let far_as = |own: u16| if is_echo { (far.0, own) } else { far };
        has("a/eth0", true, question, pod, far_as(pod.1));
        has("up0", true, question, wire, far_as(wire.1));
        has("up0", false, answer, far_as(wire.1), wire);
        has("a/eth0", false, answer, far_as(pod.1), pod);
        checked += 1;
    }
    assert_eq!(checked, 2, "an echo and a connection: {flows:#?}");
    for (from, to) in [(own, to), (own_to_b, to_b)] {
        has("a/eth0", true, "tcp", (from.ip(), from.port()), (to.ip(), to.port()));
        has("a/eth0", false, "tcp", (to.ip(), to.port()), (from.ip(), from.port()));
    }
    let between = |seen: &&Seen| seen.destination.0 == at_b && seen.source.0 == at_a;
    assert!(seen.iter().filter(between).any(|seen| seen.what == "question"), "{seen:#?}");
    assert!(seen.iter().filter(between).all(|seen| seen.point == "a/eth0"), "{seen:#?}");
    // Of the wire, only what belongs to a's flows.
    for seen in seen.iter().filter(|seen| seen.point == "up0") {
        let own = if seen.outgoing { seen.source } else { seen.destination };
        let is_as = flows.iter().any(|flow| flow.translated_source.zip(flow.translated_port) == Some(own));
        assert!(is_as, "{seen:?} is nobody's of {flows:#?}");
    }
    let read = run_in(&node.topology.node.netns, "tcpdump", &["-n", "-r", FILE]);
    let lines = read.lines().filter(|line| line.contains(" > ")).count();
    assert!(lines >= seen.len(), "tcpdump reads {lines} of {all}:\n{read}");
}

fn lines_are_filtered_by_either_side_and_counted(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    let server = Echo::start(&node.topology.outside.netns, side.outside).address;
    let socket = connected(&a.netns, &side, server);
    let own = socket.local_addr().expect("address").port().to_string();
    // The wire has another port than the pod, most likely; four packets are one question and its answer.
    let capture =
        Capturing::start(&node, &["a", "--proto", "udp", "--port", &own, "--count", "4", "-o", "json"]);
    ping(&a.netns, side.outside);
    socket.send(b"?").expect("sent");
    socket.recv(&mut [0; 8]).expect("an answer");
    let (printed, said) = capture.wait();
    assert!(said.contains("4 packets captured"), "{said}");
    let lines: Vec<serde_json::Value> = String::from_utf8(printed)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let ways =
        lines.iter().map(|line| format!("{} {}", line["interface"], line["direction"]).replace('"', ""));
    let ways: Vec<_> = ways.collect();
    for way in ["a/eth0 out", "up0 out", "up0 in", "a/eth0 in"] {
        assert!(ways.iter().any(|one| one == way), "{way} is missing in {lines:#?}");
    }
    let on_wire = lines.iter().find(|line| line["interface"] == "up0" && line["direction"] == "out");
    let on_wire = on_wire.expect("a line");
    assert_eq!(on_wire["packet"]["source"], side.node.to_string(), "{on_wire}");
    assert_eq!(on_wire["in_pod"]["source"], side.address(&a).to_string(), "{on_wire}");
    assert_eq!(on_wire["in_pod"]["source_port"].to_string(), own, "{on_wire}");

    let capture =
        Capturing::start(&node, &["a", "-w", "-", "--snaplen", "64", "--count", "2", "--interface", "up0"]);
    let to = side.outside.to_string();
    run_in(&a.netns, "ping", &["-c", "1", "-W", "5", "-s", "1000", &to]);
    let (printed, _) = capture.wait();
    let mut reader = PcapNgReader::new(&printed[..]).expect("pcapng");
    let mut packets = 0;
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("block") {
            assert_eq!(packet.data.len(), 64);
            assert_eq!(packet.original_len as usize, 14 + side.header() + 1008);
            packets += 1;
        }
    }
    assert_eq!(packets, 2);
}

fn errors_about_a_flow_and_datagrams_in_parts_are_the_pods(family: Family) {
    let side = Side::of(&family);
    let (node, a, _) = dual("");
    let outside = side.outside.to_string();
    let capture = Capturing::start(&node, &["a", "--interface", "up0", "-o", "json"]);
    // The router answers the second hop's end, and the node sends what is too large in parts.
    let said = run_in(&a.netns, "ping", &["-c", "1", "-t", "2", "-W", "5", &outside]);
    assert!(said.contains("xceeded"), "{said}");
    let said = run_in(&a.netns, "ping", &["-c", "1", "-s", "2000", "-W", "5", &outside]);
    assert!(said.contains(" 0% packet loss"), "{said}");
    let (printed, _) = capture.end();
    let printed = String::from_utf8(printed).expect("text");
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let from = |address: IpAddr, direction: &str| {
        let of = |line: &&serde_json::Value| {
            line["direction"] == direction && line["packet"]["source"] == address.to_string()
        };
        lines.iter().filter(of).count()
    };
    assert_eq!(from(side.router, "in"), 1, "the error:\n{printed}");
    // The question that it is about, and two parts of the other.
    assert_eq!(from(side.node, "out"), 3, "{printed}");
    assert_eq!(from(side.outside, "in"), 2, "two parts of the answer:\n{printed}");
}

#[test]
fn a_capture_outlives_the_agent_and_ends_with_its_pod() {
    let side = Side::of(&Family::V4);
    let (mut node, a, _) = dual("");
    let mut capture = Capturing::start(&node, &["a", "--proto", "icmp"]);
    ping(&a.netns, side.outside);
    node.kill();
    ping(&a.netns, side.outside);
    node.restart();
    ping(&a.netns, side.outside);
    const POINTS: [&str; 4] = [" a/eth0 out icmp", " up0 out icmp", " up0 in icmp", " a/eth0 in icmp"];
    // On the wire it is known for the pod's by its flow, which goes with the pod.
    let before = capture.printed(|text| POINTS.iter().all(|point| text.matches(point).count() >= 3));
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    let (printed, said) = capture.wait();
    assert!(said.contains("pod a or one of its interfaces is gone"), "{said}");
    let printed = before + &String::from_utf8(printed).expect("text");
    println!("{printed}");
    for point in POINTS {
        assert_eq!(printed.matches(point).count(), 3, "{point}:\n{printed}");
    }
}

#[test]
fn what_cannot_be_captured_says_why() {
    let node = Node::start("");
    node.pod("a");
    for (arguments, words) in [
        (&["capture", "nobody"][..], "pod 'nobody' does not exist"),
        (&["capture", "a", "--interface", "eth9"][..], "there are: eth0, up0"),
        (&["capture", "a", "-w", "/nowhere/file"][..], "/nowhere/file"),
    ] {
        let output = node.netpath(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}
