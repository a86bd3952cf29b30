//! Nodes of a cluster on one link: their pods reach each other by direct routes, with their own addresses.

mod changes;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use netpath::{
    api::types::{PodAdd, TraceRequest},
    lab::{checks::LabPod, topology},
    model,
    net::Netns,
};
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    node::run_in,
    scene::Family,
    side::Echo,
};

for_both_families!(
    etcd_pods_of_two_nodes_reach_each_other,
    etcd_nodes_and_pods_of_others_reach_each_other,
    etcd_outside_reaches_no_pod_and_forges_none,
    etcd_path_mtu_and_hops_between_nodes,
);

/// A pod's address of a family.
pub(super) fn address(pod: &LabPod, family: &Family) -> IpAddr {
    pod.at(of(family)).expect("address")
}

pub(super) fn of(family: &Family) -> model::Family {
    if family.is_v4() { model::Family::V4 } else { model::Family::V6 }
}

/// A node's address of a family.
pub(super) fn on_link(node: &ClusterMember, family: &Family) -> IpAddr {
    node.addresses[usize::from(!family.is_v4())]
}

pub(super) fn ping(from: &Netns, arguments: &[&str], to: IpAddr) -> String {
    run_in(from, "ping", &[&["-n", "-c", "1", "-W", "3"], arguments, &[&to.to_string()]].concat())
}

/// Sends a megabyte by TCP; returns whom the server saw.
pub(super) fn stream(from: &Netns, server: &Netns, to: IpAddr) -> SocketAddr {
    const BYTES: usize = 1 << 20;
    let listener = server.enter(|| TcpListener::bind((to, 0))).expect("namespace").expect("listener");
    let to = listener.local_addr().expect("address");
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    let client = from.enter(connect).expect("namespace").unwrap_or_else(|error| panic!("{to}: {error}"));
    let (mut served, seen) = listener.accept().expect("accepted");
    for end in [&client, &served] {
        end.set_read_timeout(Some(Duration::from_secs(10))).expect("time-out");
    }
    let sender = std::thread::spawn(move || {
        (&client).write_all(&vec![7; BYTES])?;
        let mut answer = [0];
        (&client).read_exact(&mut answer).map(|()| answer)
    });
    served.read_exact(&mut vec![0; BYTES]).expect("read");
    served.write_all(b"k").expect("answered");
    assert_eq!(sender.join().expect("thread").expect("sent"), *b"k");
    seen
}

/// Sends a datagram; returns whom the server saw.
pub(super) fn datagram(from: &Netns, server: &Netns, to: IpAddr) -> SocketAddr {
    let bind = |at: IpAddr| move || UdpSocket::bind((at, 0));
    let served = server.enter(bind(to)).expect("namespace").expect("server");
    served.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let client = from.enter(bind(any)).expect("namespace").expect("client");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    client.send_to(b"hello", served.local_addr().expect("address")).expect("sent");
    let mut buffer = [0; 16];
    let (length, seen) = served.recv_from(&mut buffer).expect("it came");
    served.send_to(&buffer[..length], seen).expect("answered");
    assert_eq!(client.recv(&mut buffer).expect("an answer"), 5);
    seen
}

pub(super) fn etcd_pods_of_two_nodes_reach_each_other(family: Family) {
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    let (from, to) = (address(&a, &family), address(&b, &family));
    for (here, there, way) in [(&a, to, "a to b"), (&b, from, "b to a")] {
        let said = ping(&here.netns, &[], there);
        assert!(said.contains("ttl=62"), "{way}, two hops: {said}");
        let said = ping(&here.netns, &["-s", "4000"], there);
        assert!(said.contains("1 received"), "{way}, in fragments: {said}");
    }
    assert_eq!(stream(&a.netns, &b.netns, to).ip(), from, "with its own address");
    assert_eq!(datagram(&b.netns, &a.netns, from).ip(), to, "with its own address");
    let flows = one.netpath(&["flow", "ls", "-o", "json"]);
    assert!(flows.status.success(), "{flows:?}");
    let flows = String::from_utf8_lossy(&flows.stdout).into_owned();
    // But for the fragments, which the stack forwards.
    assert!(!flows.contains(&to.to_string()), "none is needed between pods: {flows}");
    // To outside as before.
    let outside = topology::outside(of(&family));
    assert_eq!(datagram(&a.netns, &cluster.outside.netns, outside).ip(), on_link(one, &family));
    let request = TraceRequest { source: "a".into(), destination: to.to_string(), ..TraceRequest::default() };
    let trace = cluster.runtime.block_on(one.client.trace(&request)).expect("trace");
    let told = format!("{trace:?}");
    assert!(told.contains("a pod of node node2") && told.contains("with its own address, to up0"), "{told}");
    for node in &cluster.nodes {
        node.wait_well();
    }
}

pub(super) fn etcd_nodes_and_pods_of_others_reach_each_other(family: Family) {
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    let (node, to) = (&one.space.netns, address(&b, &family));
    assert!(ping(node, &[], to).contains("ttl=63"), "{}", ping(node, &[], to));
    assert_eq!(stream(node, &b.netns, to).ip(), on_link(one, &family), "the node's own address");
    assert_eq!(datagram(node, &b.netns, to).ip(), on_link(one, &family));
    let there = on_link(two, &family);
    let said = ping(&a.netns, &[], there);
    assert!(said.contains("1 received"), "{said}");
    assert_eq!(stream(&a.netns, &two.space.netns, there).ip(), on_link(one, &family), "as outside");
    datagram(&a.netns, &two.space.netns, there);
    // A port of the other node that leads to its pod: the answer comes from where the question went.
    let echo = Echo::start(&b.netns, to);
    let port = echo.address.port();
    let public = PodAdd {
        name: "c".into(),
        publish: vec![format!("8080:{port}/udp"), "8081:81".into()],
        ..PodAdd::default()
    };
    let c = two.pod(&public);
    let served = c.netns.enter(|| UdpSocket::bind((address(&c, &family), port))).expect("namespace");
    let served = served.expect("server");
    served.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    let asked =
        a.netns.enter(|| UdpSocket::bind((address(&a, &family), 0))).expect("namespace").expect("socket");
    asked.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    for to in [SocketAddr::from((there, 8080)), SocketAddr::from((address(&c, &family), port))] {
        asked.send_to(b"?", to).expect("sent");
        let mut buffer = [0; 4];
        let (_, seen) = served.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{to}: {error}"));
        served.send_to(b"!", seen).expect("answered");
        assert_eq!(asked.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{to}: {error}")).1, to);
    }
}

pub(super) fn etcd_outside_reaches_no_pod_and_forges_none(family: Family) {
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    let (to, wire) = (address(&a, &family), &cluster.router.netns);
    // Whoever is on the link may send there; nobody outside of the cluster is let in.
    let host = ipnet::IpNet::from(to).to_string();
    let via = on_link(one, &family).to_string();
    assert_eq!(run_in(wire, "ip", &["route", "add", &host, "via", &via]), "");
    let before = one.drops("InboundDenied");
    let said = ping(wire, &["-W", "1"], to);
    assert!(said.contains("0 received") && one.drops("InboundDenied") > before, "{said}");
    // As nobody's pod: of no block, or of the block of the node itself; to a pod, and to the node.
    let own = one.blocks().into_iter().find(|block| block.contains(&to)).expect("block");
    let unknown: IpAddr =
        if family.is_v4() { [10, 64, 255, 7].into() } else { "fd00:64::ffff:7".parse().unwrap() };
    let last = own.hosts().last().expect("address");
    for (forged, target) in
        [(unknown, to), (last, to), (unknown, on_link(one, &family)), (last, on_link(one, &family))]
    {
        assert!(!cluster.nodes.iter().any(|node| node.blocks().iter().any(|block| block.contains(&unknown))));
        netpath_tests::node::add_address(wire, forged, "lo");
        let before = one.drops("SpoofedSource");
        let said = ping(wire, &["-W", "1", "-I", &forged.to_string()], target);
        assert!(said.contains("0 received"), "{forged}: {said}");
        assert!(one.drops("SpoofedSource") > before, "{forged} to {target}: counted");
        run_in(wire, "ip", &["address", "del", &ipnet::IpNet::from(forged).to_string(), "dev", "lo"]);
    }
    // Where no pod can be, its peer is told at once.
    let said = ping(&b.netns, &[], unknown);
    assert!(said.contains("nreachable") || said.contains("No route"), "{said}");
}

pub(super) fn etcd_path_mtu_and_hops_between_nodes(family: Family) {
    // Without tunnels pods have the whole MTU.
    let cluster = Cluster::start_with(2, "backend = \"direct\"");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let a = one.named("a");
    let b = two.pod(&PodAdd { name: "b".into(), mtu: Some(1300), ..PodAdd::default() });
    let (from, to) = (address(&a, &family), address(&b, &family));
    let header = if family.is_v4() { 20 } else { 40 };
    let gateway = if family.is_v4() { "169.254.1.1" } else { "fe80::1" };
    let first = ping(&a.netns, &["-t", "1"], to);
    assert!(first.contains("Time") && first.contains("xceeded"), "{gateway}: {first}");
    let second = ping(&a.netns, &["-t", "2"], to);
    let hop = format!("From {}", on_link(two, &family));
    assert!(second.contains(&hop) && second.contains("xceeded"), "{second}");
    assert!(ping(&a.netns, &["-t", "3"], to).contains("1 received"));
    let large = (1500 - header - 8).to_string();
    let said = ping(&a.netns, &["-M", "do", "-s", &large], to);
    assert!(said.contains(&hop) && said.contains("1300"), "the narrow pod's node says so: {said}");
    assert_eq!(stream(&a.netns, &b.netns, to).ip(), from);
    let known = run_in(&a.netns, "ip", &["route", "get", &to.to_string()]);
    assert!(known.contains("mtu 1300"), "{known}");
    // To be fragmented on the way in, which IPv6 does not know.
    if family.is_v4() {
        let said = ping(&a.netns, &["-M", "dont", "-s", &large], to);
        assert!(said.contains("1 received"), "{said}");
    }
}
