//! Nodes of a cluster behind routers, or who do without direct routes: their pods reach each other by VXLAN.

mod guard;
mod told;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    time::Duration,
};

use netpath::{
    api::types::{PodAdd, TraceRequest},
    lab::topology,
    net::Netns,
};
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    node::run_in,
    offload,
    scene::Family,
    wait,
};

use crate::direct::{address, datagram, of, on_link, ping, stream};

for_both_families!(
    etcd_vxlan_leads_to_nodes_behind_a_router,
    etcd_vxlan_carries_streams_whole_over_either_family,
    etcd_vxlan_hops_and_path_mtu,
);

/// Name of a node's device.
fn device(node: &ClusterMember) -> String {
    let links = node.run("ip", &["-o", "link", "show", "type", "vxlan"]);
    let name = links.split(": ").nth(1).unwrap_or_else(|| panic!("{}: {links}", node.name));
    name.to_owned()
}

/// How a node sends to each node, itself included, by name.
fn backends(node: &ClusterMember) -> Vec<String> {
    node.known().into_iter().map(|one| one.backend.unwrap_or_default()).collect()
}

/// Sends a few megabytes each way at once by TCP, and compares them.
fn transfer(from: &Netns, server: &Netns, to: IpAddr) {
    const BYTES: usize = 4 << 20;
    let listener = server.enter(|| TcpListener::bind((to, 0))).expect("namespace").expect("listener");
    let to = listener.local_addr().expect("address");
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    let client = from.enter(connect).expect("namespace").unwrap_or_else(|error| panic!("{to}: {error}"));
    let (served, _) = listener.accept().expect("accepted");
    let content = |salt: usize| (0..BYTES).map(|at| (at * 31 + at / 251 + salt) as u8).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        for (out, back, salt) in [(&client, &served, 1), (&served, &client, 2)] {
            let patience = Some(Duration::from_secs(20));
            back.set_read_timeout(patience).and(back.set_write_timeout(patience)).expect("time-out");
            scope.spawn(move || {
                let mut out = out;
                out.write_all(&content(salt)).expect("written");
            });
            scope.spawn(move || {
                let (mut back, mut read) = (back, vec![0; BYTES]);
                back.read_exact(&mut read).unwrap_or_else(|error| panic!("{to}: {error}"));
                let differs = read.iter().zip(content(salt)).position(|(one, other)| *one != other);
                assert_eq!(differs, None, "{to}: as it was written");
            });
        }
    });
}

pub(super) fn etcd_vxlan_leads_to_nodes_behind_a_router(family: Family) {
    let mut cluster = Cluster::start(2);
    cluster.join_far();
    cluster.wait_known();
    let [one, two, far] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(backends(one), ["", "direct", "vxlan"]);
    assert_eq!(backends(far), ["vxlan", "vxlan", ""]);
    let (a, b, c) = (one.named("a"), two.named("b"), far.named("c"));
    let [at_a, at_b, at_c] = [&a, &b, &c].map(|pod| address(pod, &family));
    for (way, here, there) in
        [("a to c", &a, at_c), ("c to a", &c, at_a), ("c to b", &c, at_b), ("a to b", &a, at_b)]
    {
        wait::until(way, || ping(&here.netns, &[], there).contains("1 received"));
        let said = ping(&here.netns, &[], there);
        assert!(said.contains("ttl=62"), "{way}, two hops, whatever routers are between: {said}");
        let said = ping(&here.netns, &["-s", "4000"], there);
        assert!(said.contains("1 received"), "{way}, in fragments: {said}");
    }
    assert_eq!(stream(&a.netns, &c.netns, at_c).ip(), at_a, "with its own address");
    assert_eq!(datagram(&c.netns, &b.netns, at_b).ip(), at_c, "with its own address");
    let flows = far.netpath(&["flow", "ls", "-o", "json"]);
    assert!(!String::from_utf8_lossy(&flows.stdout).contains(&at_a.to_string()), "no flows: {flows:?}");
    // Nodes and other nodes' pods, both ways.
    let node = &one.space.netns;
    let said = ping(node, &[], at_c);
    assert!(said.contains("ttl=63"), "{said}");
    assert_eq!(stream(node, &c.netns, at_c).ip(), on_link(one, &family), "the node's own address");
    assert_eq!(datagram(node, &c.netns, at_c).ip(), on_link(one, &family));
    let there = on_link(far, &family);
    assert!(ping(&a.netns, &[], there).contains("1 received"));
    assert_eq!(stream(&a.netns, &far.space.netns, there).ip(), on_link(one, &family), "as outside");
    let outside = topology::outside(of(&family));
    assert_eq!(datagram(&c.netns, &cluster.outside.netns, outside).ip(), there, "masqueraded");
    // Nobody's addresses are answered.
    let unknown: IpAddr =
        if family.is_v4() { [10, 64, 255, 7].into() } else { "fd00:64::ffff:7".parse().unwrap() };
    let said = ping(&a.netns, &[], unknown);
    assert!(said.contains("nreachable") || said.contains("No route"), "{said}");
    let request =
        TraceRequest { source: "a".into(), destination: at_c.to_string(), ..TraceRequest::default() };
    let trace = cluster.runtime.block_on(one.client.trace(&request)).expect("trace");
    let told = format!("{trace:?}");
    assert!(
        told.contains("a pod of node node3, by a tunnel") && told.contains("tunnel to node node3"),
        "{told}"
    );
    for node in &cluster.nodes {
        node.wait_well();
        for reason in ["SpoofedSource", "ForeignTunnel", "Untranslated", "RouteDrop", "Malformed"] {
            assert_eq!(node.drops(reason), 0, "{}: {reason}", node.name);
        }
    }
}

pub(super) fn etcd_vxlan_carries_streams_whole_over_either_family(family: Family) {
    let cluster = Cluster::start_with(2, "backend = \"vxlan\"");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    assert_eq!(backends(one), ["", "vxlan"], "on one link as well");
    let (a, b) = (one.named("a"), two.named("b"));
    let (at_a, at_b) = (address(&a, &family), address(&b, &family));
    let both_ways = |what: &str, of_node: bool| {
        wait::until(what, || ping(&a.netns, &["-W", "1"], at_b).contains("1 received"));
        for offloads in [true, false] {
            for (netns, link) in [
                (&*a.netns, "eth0"),
                (&*b.netns, "eth0"),
                (&one.space.netns, "up0"),
                (&two.space.netns, "up0"),
            ] {
                offload::switch(netns, link, &["tx", "gso", "tso", "gro"], offloads);
            }
            transfer(&a.netns, &b.netns, at_b);
            if of_node {
                transfer(&one.space.netns, &b.netns, at_b);
            }
            assert_eq!(datagram(&b.netns, &a.netns, at_a).ip(), at_b, "{what}, offloads: {offloads}");
        }
    };
    both_ways("over IPv4", true);
    cluster.nodes.iter().for_each(ClusterMember::without_ipv4);
    let over_v6 = |node: &ClusterMember| {
        let flag = if family.is_v4() { "-4" } else { "-6" };
        node.run("ip", &[flag, "route", "show", "dev", &device(node)]).contains("mtu 1430")
    };
    wait::until("the tunnels lead to IPv6 addresses", || over_v6(one) && over_v6(two));
    let told =
        |node: &ClusterMember| node.known().iter().all(|one| one.addresses.iter().all(IpAddr::is_ipv6));
    wait::until("all know it", || told(one) && told(two));
    // Who has no address of a family on an uplink is nobody in that family.
    both_ways("over IPv6", !family.is_v4());
}

pub(super) fn etcd_vxlan_hops_and_path_mtu(family: Family) {
    let cluster = Cluster::start_with(2, "backend = \"vxlan\"");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let a = one.named("a");
    let wide = one.pod(&PodAdd { name: "w".into(), mtu: Some(1500), ..PodAdd::default() });
    let narrow = two.pod(&PodAdd { name: "n".into(), mtu: Some(1300), ..PodAdd::default() });
    let b = two.named("b");
    let (to, small) = (address(&b, &family), address(&narrow, &family));
    wait::until("it answers", || ping(&a.netns, &["-W", "1"], to).contains("1 received"));
    assert!(run_in(&a.netns, "ip", &["link", "show", "eth0"]).contains("mtu 1450"), "what the tunnel leaves");
    let first = ping(&a.netns, &["-t", "1"], to);
    assert!(first.contains("Time") && first.contains("xceeded"), "{first}");
    let second = ping(&a.netns, &["-t", "2"], to);
    let hop = format!("From {}", on_link(two, &family));
    assert!(second.contains(&hop) && second.contains("xceeded"), "{second}");
    assert!(ping(&a.netns, &["-t", "3"], to).contains("1 received"));
    let header = if family.is_v4() { 28 } else { 48 };
    let sized = |mtu: usize| (mtu - header).to_string();
    assert!(ping(&a.netns, &["-M", "do", "-s", &sized(1450)], to).contains("1 received"), "just fits");
    let said = ping(&wide.netns, &["-M", "do", "-s", &sized(1451)], to);
    assert!(said.contains("1450"), "the own node says what the tunnel leaves: {said}");
    let said = ping(&a.netns, &["-M", "do", "-s", &sized(1400)], small);
    assert!(said.contains(&hop) && said.contains("1300"), "the narrow pod's node says so: {said}");
    transfer(&a.netns, &narrow.netns, small);
    transfer(&wide.netns, &b.netns, to);
    if family.is_v4() {
        for there in [to, small] {
            let said = ping(&wide.netns, &["-M", "dont", "-s", &sized(1500)], there);
            assert!(said.contains("1 received"), "fragmented on the way: {said}");
        }
    }
}
