//! Pods in mode `xdp`: that packets take the short way, come whole, and what the mode changes inside pods.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use netpath::{
    api::types::{NetworkAdd, PodAdd, PodSet},
    lab::checks::LabPod,
    net::Netns,
};
use netpath_tests::{
    for_both_families,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::Side,
    wait::{until, within},
};

use crate::restart::traffic;

for_both_families!(
    xdp_carries_streams_and_datagrams_whole_and_checksums_are_right,
    xdp_mode_changes_at_run_time_and_no_packet_is_lost,
);

/// What a mode changes inside a pod, by the names that `ethtool -k` prints.
const OFFLOADS: [&str; 5] = [
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
    "tx-vlan-offload",
    "tx-vlan-stag-hw-insert",
    "generic-receive-offload",
];
const FIT: [&str; 5] = ["off", "off", "off", "off", "on"];
const USUAL: [&str; 5] = ["on", "on", "on", "on", "off"];

fn add(node: &Node, name: &str, mode: &str) -> LabPod {
    let wanted = PodAdd { name: name.into(), mode: Some(mode.into()), ..PodAdd::default() };
    LabPod::open(node.add(&wanted)).expect("pod")
}

fn set(node: &Node, name: &str, mode: &str) {
    let change = PodSet { mode: Some(mode.into()), ..PodSet::default() };
    node.runtime.block_on(node.client.pod_set(name, &change)).expect("pod changed");
}

fn offloads(pod: &Netns) -> Vec<String> {
    let text = run_in(pod, "ethtool", &["-k", "eth0"]);
    let shown = |name: &&str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(*name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    };
    OFFLOADS.iter().map(shown).collect()
}

/// Frames that `xdp_pod` has redirected, by the veth's own count.
fn redirected(node: &Node, pod: &LabPod) -> u64 {
    let text = run_in(&node.topology.node.netns, "ethtool", &["-S", &pod.pod.interface]);
    let count = |line: &str| line.trim().strip_prefix("rx_queue_0_xdp_redirect: ")?.parse().ok();
    text.lines().find_map(count).unwrap_or_else(|| panic!("no counter of redirects in {text}"))
}

/// Whether the kernel has an XDP program on a pod's host end.
fn has_xdp(node: &Node, pod: &LabPod) -> bool {
    run_in(&node.topology.node.netns, "ip", &["link", "show", &pod.pod.interface]).contains("xdp")
}

/// Sends so many bytes from a pod to another by TCP, and checks every one.
fn stream(from: &Netns, to: &Netns, address: IpAddr, bytes: usize) {
    let byte = |at: usize| (at % 251) as u8;
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let to = listener.local_addr().unwrap();
    let mut sender = from.enter(|| TcpStream::connect(to)).unwrap().expect("connected");
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = std::thread::spawn(move || {
        sender.write_all(&(0..bytes).map(byte).collect::<Vec<_>>()).expect("sent");
    });
    let mut got = Vec::new();
    receiver.read_to_end(&mut got).expect("received");
    sent.join().unwrap();
    let wrong = got.iter().enumerate().position(|(at, got)| *got != byte(at));
    assert_eq!((got.len(), wrong), (bytes, None), "length, first wrong byte");
}

/// Datagrams of every kind of size there and back, cut into pieces as well.
fn datagrams(from: &Netns, to: &Netns, (own, address): (IpAddr, IpAddr)) {
    let bound = |netns: &Netns, address: IpAddr| {
        let socket = netns.enter(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (client, server) = (bound(from, own), bound(to, address));
    let exchange = |from: &UdpSocket, to: &UdpSocket, data: &[u8]| {
        from.send_to(data, to.local_addr().unwrap()).expect("sent");
        let mut buffer = vec![0; 65_536];
        let (length, _): (usize, SocketAddr) = to.recv_from(&mut buffer).expect("arrived");
        assert!(buffer[..length] == *data, "{length} bytes of {}", data.len());
    };
    for length in [0, 1, 17, 18, 63, 512, 1451, 1452, 1472, 1473, 4000, 16_000] {
        let data: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
        exchange(&client, &server, &data);
        exchange(&server, &client, &data);
    }
}

fn xdp_carries_streams_and_datagrams_whole_and_checksums_are_right(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let (a, b, c) = (add(&node, "a", "xdp"), add(&node, "b", "xdp"), add(&node, "c", "tc"));
    assert_eq!(
        (offloads(&a.netns), offloads(&c.netns)),
        (FIT.map(String::from).to_vec(), USUAL.map(String::from).to_vec())
    );
    assert!(has_xdp(&node, &a) && !has_xdp(&node, &c));
    let address = |pod: &LabPod| side.address(pod);
    let (before, faults) = ((redirected(&node, &a), redirected(&node, &b)), checksum_faults(&b.netns));
    datagrams(&a.netns, &b.netns, (address(&a), address(&b)));
    stream(&a.netns, &b.netns, address(&b), 5_000_000);
    stream(&b.netns, &a.netns, address(&a), 5_000_000);
    let after = (redirected(&node, &a), redirected(&node, &b));
    assert!(after.0 > before.0 + 400 && after.1 > before.1 + 400, "by XDP: {before:?}, then {after:?}");
    // Nobody vouches for a frame's checksums: the pod's kernel has computed each, and found it right.
    assert_eq!(checksum_faults(&b.netns), faults);
    // To a pod of the other mode and from it, by tc.
    let before = redirected(&node, &a);
    stream(&a.netns, &c.netns, address(&c), 5_000_000);
    stream(&c.netns, &a.netns, address(&a), 5_000_000);
    datagrams(&c.netns, &a.netns, (address(&c), address(&a)));
    assert_eq!(redirected(&node, &a), before, "nothing went where it would be lost");
    let drops = node.runtime.block_on(node.client.drops()).expect("drops");
    assert!(drops.is_empty(), "{drops:?}");
    // And where the checksum is left to a device that is passed by, it does find it wrong.
    let server = b.netns.enter(|| UdpSocket::bind((address(&b), 0))).unwrap().unwrap();
    let client = a.netns.enter(|| UdpSocket::bind((address(&a), 0))).unwrap().unwrap();
    until("a missing checksum is seen", || {
        run_in(&a.netns, "ethtool", &["-K", "eth0", "tx", "on"]);
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        checksum_faults(&b.netns) > faults
    });
}

/// Packets that a pod's kernel has thrown away for their checksum.
fn checksum_faults(pod: &Netns) -> u64 {
    let text = run_in(pod, "nstat", &["-asz", "TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"]);
    let counts: Vec<u64> =
        text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    assert_eq!(counts.len(), 3, "{text}");
    counts.iter().sum()
}

fn xdp_mode_changes_at_run_time_and_no_packet_is_lost(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("[flows]\ncapacity = 65536");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let traffic = traffic(&node, &side, &a, &b);
    for _ in 0..2 {
        for (name, pod) in [("a", &a), ("b", &b)] {
            set(&node, name, "xdp");
            assert_eq!((offloads(&pod.netns), has_xdp(&node, pod)), (FIT.map(String::from).to_vec(), true));
            traffic.moves(&format!("with {name} in mode xdp"));
        }
        let before = redirected(&node, &a);
        until("frames go by XDP", || redirected(&node, &a) > before + 100);
        for (name, pod) in [("a", &a), ("b", &b)] {
            set(&node, name, "tc");
            assert_eq!(
                (offloads(&pod.netns), has_xdp(&node, pod)),
                (USUAL.map(String::from).to_vec(), false)
            );
            traffic.moves(&format!("with {name} in mode tc again"));
        }
    }
    let totals = traffic.finish();
    assert_eq!((totals.lost, totals.reset), (0, 0), "sent {}", totals.sent);
}

/// By the node's configuration, for pods that do not say; and over restarts, in which the configuration changes.
#[test]
fn xdp_mode_follows_the_configuration_and_restarts() {
    let (xdp, tc) = ("[datapath]\nmode = \"xdp\"", "[datapath]\nmode = \"tc\"");
    let mut node = Node::start(xdp);
    let (a, b) = (node.pod("a"), add(&node, "b", "tc"));
    let shown = |node: &Node, pod: &LabPod| (offloads(&pod.netns) == FIT, has_xdp(node, pod));
    let mode = |node: &Node, name: &str| node.runtime.block_on(node.client.pod(name)).expect("pod").mode;
    assert_eq!((shown(&node, &a), shown(&node, &b)), ((true, true), (false, false)));
    node.reconfigure(tc);
    until("the pod follows", || shown(&node, &a) == (false, false));
    assert_eq!(offloads(&a.netns), USUAL, "as it was before");
    node.reconfigure(xdp);
    until("and back", || shown(&node, &a) == (true, true));
    assert_eq!((mode(&node, "a"), mode(&node, "b")), ("xdp".into(), "tc".into()));
    node.kill();
    assert_eq!(shown(&node, &a), (true, true), "without an agent");
    node.configure(tc);
    node.restart();
    until("changed while nobody looked", || shown(&node, &a) == (false, false));
    set(&node, "b", "xdp");
    node.stop();
    node.restart();
    until("a pod's own mode is kept", || shown(&node, &b) == (true, true) && mode(&node, "b") == "xdp");
    let refused = node.netpath(&["pod", "set", "b", "--mode", "quick"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(node.runtime.block_on(node.client.status()).expect("status").problems, [""; 0]);
}

/// What others change of it comes back.
#[test]
fn xdp_mode_is_repaired() {
    let node = Node::start("[datapath]\nmode = \"xdp\"");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let side = Side::of(&Family::V4);
    let netns = &node.topology.node.netns;
    for (name, at, line) in [
        ("checksum offload on", &*a.netns, "ethtool -K eth0 tx on".to_owned()),
        ("GRO off", &*a.netns, "ethtool -K eth0 gro off".to_owned()),
        ("pin removed", netns, format!("rm /sys/fs/bpf/netpath/default/v*/links/{}-xdp_pod", a.pod.ifindex)),
    ] {
        let whole = || offloads(&a.netns) == FIT && has_xdp(&node, &a);
        assert!(whole(), "before: {name}");
        // A pass that is under way anyhow may be faster than this look.
        until(&format!("broken: {name}"), || {
            run_in(at, "sh", &["-c", &line]);
            !whole()
        });
        until(&format!("repaired: {name}"), whole);
        stream(&b.netns, &a.netns, side.address(&a), 100_000);
    }
    // The whole link, made again with the programs and offloads of its pod.
    run_in(netns, "ip", &["link", "del", &a.pod.interface]);
    until("the link is back", || run_in(&a.netns, "ip", &["route"]).contains("default"));
    until("and its mode", || offloads(&a.netns) == FIT && has_xdp(&node, &a));
    let before = redirected(&node, &b);
    // The pod is told of last, and not by the next full pass only.
    within(Duration::from_secs(5), "by XDP", || {
        stream(&b.netns, &a.netns, side.address(&a), 100_000);
        redirected(&node, &b) > before
    });
}

/// A link that was made again has none of the offloads yet: nobody may send frames there, whatever else is wrong with the pod.
#[test]
fn xdp_pod_is_reached_although_one_of_its_links_cannot_be_made() {
    let node = Node::start("[datapath]\nmode = \"xdp\"");
    let network = NetworkAdd {
        name: "back".into(),
        subnets: vec!["10.62.0.0/24".parse().unwrap()],
        ..NetworkAdd::default()
    };
    node.runtime.block_on(node.client.network_add(&network)).expect("network");
    let networks = vec!["default".into(), "back".into()];
    let b = LabPod::open(node.add(&PodAdd { name: "b".into(), networks, ..PodAdd::default() })).expect("pod");
    let (a, side, netns) = (node.pod("a"), Side::of(&Family::V4), &node.topology.node.netns);
    stream(&a.netns, &b.netns, side.address(&b), 10_000);
    let hosts: Vec<&str> = b.pod.interfaces.iter().map(|interface| interface.interface.as_str()).collect();
    // The name of the second one is taken inside as soon as it is free.
    let take = format!(
        "while ! ip -n b link add eth1 type bridge; do ip link del {} 2>/dev/null; done; ip link del {}",
        hosts[1], hosts[0]
    );
    run_in(netns, "sh", &["-c", &take]);
    let problems = || node.runtime.block_on(node.client.status()).expect("status").problems;
    until("the second one is missed", || problems().iter().any(|line| line.contains("eth1")));
    until("the first one is back", || run_in(&b.netns, "ip", &["route"]).contains("default"));
    stream(&a.netns, &b.netns, side.address(&b), 10_000);
    run_in(&b.netns, "ip", &["link", "del", "eth1"]);
    until("all is well", || problems().is_empty() && offloads(&b.netns) == FIT && has_xdp(&node, &b));
}
