//! Networks of several kinds, and pods in more than one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use netpath::{
    api::types::{NetworkAdd, NetworkSet, Pod, PodAdd, PodSet},
    lab::topology::{self, OUTSIDE, OUTSIDE_V6, Space},
    model::Family,
    net::{Netns, sysctl},
};
use netpath_tests::{
    kernel::forward_ipv6,
    node::{Node, PATIENCE, add_address, run_in},
};

const BACK: [&str; 2] = ["10.62.0.0/24", "fd00:62::/64"];
const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// A pod and its namespace.
struct Pods {
    pod: Pod,
    netns: Netns,
}

impl Pods {
    fn add(node: &Node, wanted: &PodAdd) -> Self {
        let pod = node.add(wanted);
        Self { netns: Netns::open(pod.netns.as_ref()).expect("namespace"), pod }
    }

    /// Address of a family of one of its interfaces.
    fn at(&self, interface: usize, family: Family) -> IpAddr {
        let addresses = &self.pod.interfaces[interface].addresses;
        *addresses.iter().find(|address| Family::of(**address) == family).expect("an address")
    }
}

fn pod(name: &str, networks: &[&str]) -> PodAdd {
    let networks = networks.iter().map(|name| (*name).to_owned()).collect();
    PodAdd { name: name.into(), networks, ..PodAdd::default() }
}

fn add_network(node: &Node, name: &str, subnets: &[&str], masquerade: bool, inbound: &str) {
    let wanted = NetworkAdd {
        name: name.into(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        masquerade: Some(masquerade),
        inbound: Some(inbound.into()),
        ..NetworkAdd::default()
    };
    node.runtime.block_on(node.client.network_add(&wanted)).expect("network");
}

fn set(node: &Node, name: &str, change: &NetworkSet) {
    node.runtime.block_on(node.client.network_set(name, change)).expect("changed");
}

fn masquerade(yes: bool) -> NetworkSet {
    NetworkSet { masquerade: Some(yes), ..NetworkSet::default() }
}

/// The world outside learns the way to a network over the node.
fn route(node: &Node, subnets: &[&str]) {
    let router: &Space = &node.topology.router;
    for subnet in subnets {
        let subnet: ipnet::IpNet = subnet.parse().unwrap();
        let via = topology::node(Family::of(subnet.addr()));
        node.runtime.block_on(router.route(subnet, via)).expect("route");
    }
}

fn outside(node: &Node, family: Family) -> UdpSocket {
    let socket = node.topology.outside.netns.enter(|| UdpSocket::bind((topology::outside(family), 0)));
    let socket = socket.unwrap().expect("socket");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn bind(netns: &Netns, address: IpAddr) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((address, 0))).unwrap().expect("socket");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends from a pod's socket to a server outside and back. Whom outside saw.
fn ask(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"?", server.local_addr().unwrap()).expect("sent");
    let mut buffer = [0; 8];
    let (_, peer) = server.recv_from(&mut buffer).expect("outside gets it");
    server.send_to(b"!", peer).expect("sent");
    let (_, from) = client.recv_from(&mut buffer).expect("the pod gets the answer");
    assert_eq!(from, server.local_addr().unwrap());
    peer
}

/// Packets that an interface inside a pod has sent.
fn sent(netns: &Netns, interface: &str) -> u64 {
    let text = run_in(netns, "cat", &["/proc/net/dev"]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    line.expect("interface").split_whitespace().nth(9).unwrap().parse().unwrap()
}

#[test]
fn answers_leave_by_the_interface_that_was_asked_ipv4_and_ipv6() {
    let node = Node::start("");
    add_network(&node, "back", &BACK, false, "any");
    route(&node, &BACK);
    let two = Pods::add(&node, &pod("two", &["default", "back"]));
    let other = Pods::add(&node, &pod("other", &["back"]));
    assert_eq!((two.pod.interfaces[1].name.as_str(), two.pod.interfaces.len()), ("eth1", 2));
    for family in BOTH {
        let address = two.at(1, family);
        let server = bind(&two.netns, address);
        // Somebody outside, and a pod beside it, open connections to its second address.
        for client in [outside(&node, family), bind(&other.netns, other.at(0, family))] {
            let before = (sent(&two.netns, "eth0"), sent(&two.netns, "eth1"));
            for _ in 0..10 {
                ask(&client, &server);
            }
            let (first, second) = (sent(&two.netns, "eth0") - before.0, sent(&two.netns, "eth1") - before.1);
            assert!(second >= 10 && first < 10, "{family}: {first} by eth0, {second} by eth1");
        }
        // What it opens itself leaves by the first interface, as the node; from its second address, as itself.
        let server = outside(&node, family);
        assert_eq!(ask(&bind(&two.netns, two.at(0, family)), &server).ip(), topology::node(family));
        assert_eq!(ask(&bind(&two.netns, address), &server).ip(), address);
    }
    let drops = node.runtime.block_on(node.client.drops()).unwrap();
    assert_eq!(drops, [], "nothing was taken for forged");
    node.runtime.block_on(node.client.pod_rm("two")).unwrap();
    let routes = run_in(&node.topology.node.netns, "ip", &["route"]);
    assert!(!routes.contains(&two.at(1, Family::V4).to_string()), "{routes}");
}

#[test]
fn masquerading_changes_at_run_time_ipv4_and_ipv6() {
    let node = Node::start("");
    forward_ipv6(&node.topology.node.netns);
    add_network(&node, "back", &BACK, false, "cluster");
    route(&node, &BACK);
    let a = Pods::add(&node, &pod("a", &["back"]));
    let bare = Pods::add(&node, &PodAdd { no_masquerade: true, ..pod("bare", &["back"]) });
    for family in BOTH {
        let (server, node_address) = (outside(&node, family), topology::node(family));
        let own = |pod: &Pods| bind(&pod.netns, pod.at(0, family));
        assert_eq!(ask(&own(&a), &server).ip(), a.at(0, family), "{family}: its own address");
        set(&node, "back", &masquerade(true));
        let live = own(&a);
        let peer = ask(&live, &server);
        assert_eq!(peer.ip(), node_address, "{family}: translated");
        assert_eq!(ask(&own(&bare), &server).ip(), bare.at(0, family), "{family}: never translated");
        for (never, seen) in [(false, node_address), (true, bare.at(0, family))] {
            let change = PodSet { no_masquerade: Some(never), ..PodSet::default() };
            let pod = node.runtime.block_on(node.client.pod_set("bare", &change)).expect("changed");
            assert_eq!(pod.no_masquerade, never);
            assert_eq!(ask(&own(&bare), &server).ip(), seen, "{family}: a pod's own switch, {never}");
        }
        let except = vec![ipnet::IpNet::from(topology::outside(family))];
        set(&node, "back", &NetworkSet { no_masquerade: Some(except), ..NetworkSet::default() });
        assert_eq!(ask(&own(&a), &server).ip(), a.at(0, family), "{family}: excluded");
        set(&node, "back", &NetworkSet { no_masquerade: Some(Vec::new()), ..masquerade(false) });
        assert_eq!(ask(&live, &server), peer, "{family}: a live flow stays as it is");
        assert_eq!(ask(&own(&a), &server).ip(), a.at(0, family), "{family}: not translated any more");
    }
    let status = node.runtime.block_on(node.client.status()).unwrap();
    assert_eq!(status.problems, Vec::<String>::new());
}

#[test]
fn only_an_open_network_lets_outside_in_ipv4_and_ipv6() {
    let node = Node::start("");
    add_network(&node, "back", &BACK, true, "cluster");
    route(&node, &BACK);
    let a = Pods::add(&node, &pod("a", &["back"]));
    for family in BOTH {
        let (server, client) = (bind(&a.netns, a.at(0, family)), outside(&node, family));
        let before = node.drops("InboundDenied");
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        set(&node, "back", &NetworkSet { inbound: Some("any".into()), ..NetworkSet::default() });
        ask(&client, &server);
        assert!(node.drops("InboundDenied") > before, "{family}");
        set(&node, "back", &NetworkSet { inbound: Some("cluster".into()), ..NetworkSet::default() });
    }
}

#[test]
fn traceroute_from_outside_shows_the_node_before_a_pod_ipv4_and_ipv6() {
    let node = Node::start("");
    // As whoever runs the node does: the stack answers for what it would forward, and netpath leaves the uplink as it is.
    let written = node.topology.node.netns.enter(|| {
        sysctl::write("net/ipv4/conf/up0/forwarding", "1")?;
        sysctl::write("net/ipv6/conf/all/forwarding", "1")
    });
    written.expect("namespace").expect("forwarding");
    add_network(&node, "back", &BACK, true, "any");
    route(&node, &BACK);
    let a = Pods::add(&node, &pod("a", &["back"]));
    let outside = &node.topology.outside.netns;
    for family in BOTH {
        let flag = if family == Family::V6 { "-6" } else { "-4" };
        let (node_address, address) = (topology::node(family).to_string(), a.at(0, family).to_string());
        for method in [&[][..], &["-I"], &["-T", "-p", "9"]] {
            let arguments = [&[flag, "-n", "-q", "1", "-w", "2"], method, &[&address]].concat();
            let said = run_in(outside, "traceroute", &arguments);
            let hops: Vec<_> =
                said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(hops[1..], [&node_address, &address], "{method:?}:\n{said}");
        }
        // The router takes the first hop.
        let said = run_in(outside, "ping", &["-c", "1", "-W", "3", "-t", "2", &address]);
        let told = said.contains(&format!("From {node_address}")) && said.contains("exceeded");
        assert!(told, "{said}");
        let said = run_in(outside, "ping", &["-c", "1", "-W", "3", "-t", "3", &address]);
        assert!(said.contains("1 received"), "{said}");
    }
    let drops = node.runtime.block_on(node.client.drops()).unwrap();
    assert_eq!(drops, [], "nothing was lost");
}

#[test]
fn an_allowed_address_works_and_no_other_ipv4_and_ipv6() {
    let node = Node::start("");
    let allowed = ["203.0.113.80", "2001:db8:80::80"].map(|text| text.parse::<IpAddr>().unwrap());
    let wanted = PodAdd { allowed_addresses: allowed.to_vec(), ..pod("a", &[]) };
    let a = Pods::add(&node, &wanted);
    let b = Pods::add(&node, &pod("b", &[]));
    for (address, outside_address) in allowed.into_iter().zip([OUTSIDE.into(), OUTSIDE_V6.into()]) {
        let family = Family::of(address);
        add_address(&a.netns, address, "eth0");
        // From the pod beside it, from the node, and to outside.
        let server = bind(&a.netns, address);
        ask(&bind(&b.netns, b.at(0, family)), &server);
        ask(&bind(&node.topology.node.netns, topology::node(family)), &server);
        let peer = ask(&server, &outside(&node, family));
        assert_eq!(peer.ip(), topology::node(family), "{family}: translated as the pod's own");
        // The same address at another pod is a forgery.
        add_address(&b.netns, address, "eth0");
        let before = node.drops("SpoofedSource");
        let forger = bind(&b.netns, address);
        forger.send_to(b"?", SocketAddr::new(outside_address, 9)).expect("sent");
        assert!(node.drops("SpoofedSource") > before, "{family}");
    }
    let taken = PodAdd { allowed_addresses: vec![allowed[0]], ..pod("c", &[]) };
    let error = node.runtime.block_on(node.client.pod_add(&taken)).expect_err("taken").to_string();
    assert!(error.contains("203.0.113.80 is that of the pod 'a'"), "{error}");
    let own = PodAdd { allowed_addresses: vec![topology::node(Family::V4)], ..pod("c", &[]) };
    let error = node.runtime.block_on(node.client.pod_add(&own)).expect_err("the node's").to_string();
    assert!(error.contains("198.18.0.2, an address of up0"), "{error}");
    node.runtime.block_on(node.client.pod_rm("a")).unwrap();
    Pods::add(&node, &taken);
}

#[test]
fn a_namespace_that_stays_keeps_no_rule_of_a_pod_ipv4_and_ipv6() {
    let mut node = Node::start("");
    let netns = Netns::create("/run/netns/theirs".as_ref()).expect("namespace");
    let rules = || run_in(&netns, "ip", &["rule"]) + &run_in(&netns, "ip", &["-6", "rule"]);
    let before = rules();
    add_network(&node, "back", &BACK, true, "cluster");
    let wanted = PodAdd { netns: Some("/run/netns/theirs".into()), ..pod("a", &["default", "back"]) };
    node.add(&wanted);
    assert_eq!(rules().matches("lookup 111").count(), 2, "{}", rules());
    node.runtime.block_on(node.client.pod_rm("a")).unwrap();
    assert_eq!(rules(), before);
    node.add(&wanted);
    node.kill();
    let output = node.netpath(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(rules(), before);
    let links = run_in(&node.topology.node.netns, "ip", &["-br", "link"]);
    assert!(!links.contains("np"), "{links}");
}
