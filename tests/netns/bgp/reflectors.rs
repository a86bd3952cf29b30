//! Nodes that have one neighbour each, which reflects what the others tell it (RFC 4456): a BIRD that is nobody of ours, or a node.

use std::net::IpAddr;

use netpath::lab::topology::{OUTSIDE, OUTSIDE_V6};
use netpath_tests::{
    bird::Bird,
    cluster::{Cluster, ROUTERS},
    for_both_families,
    scene::Family,
    wait,
};

use super::{address, bird_of, block, by_bird, on_link, ping, secret, speaking, stream, wait_established};

for_both_families!(bird_reflector_tells_nodes_of_each_other, bird_of_a_node_reflects_to_its_clients,);

/// `[[bgp.peer]]`s of the nodes' own system.
fn peers(addresses: &[IpAddr], more: &str) -> String {
    let peer = |address: &IpAddr| {
        format!(
            "[[bgp.peer]]\naddress = \"{address}\"\nas = 64512\npassword_file = \"/mnt/secret\"\n{more}\n"
        )
    };
    addresses.iter().map(peer).collect()
}

/// A session of a BIRD of ours to be, with what else it has and what its channel has.
fn session(neighbour: IpAddr, with: &str, channel: &str) -> String {
    let family = if neighbour.is_ipv4() { "ipv4" } else { "ipv6" };
    format!(
        "protocol bgp {{\n  local as 64512;\n  neighbor {neighbour} as 64512;\n  password \"hush hush\";\n  \
         connect retry time 5;\n  error wait time 1, 5;\n  {with}\n  \
         {family} {{ import all; {channel} }};\n}}\n"
    )
}

/// One that knows the links and the kernel's other routes, to find next hops by.
fn start(name: &str, netns: &netpath::net::Netns, id: &str, more: &str) -> Bird {
    let dir = format!("/mnt/{name}");
    std::fs::create_dir_all(&dir).expect("directory");
    let text = format!(
        "router id {id};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel {{ learn; ipv4 {{ import all; export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ learn; ipv6 {{ import all; export where source = RTS_BGP; }}; }}\n{more}"
    );
    std::fs::write(format!("{dir}/bird.conf"), text).expect("configuration");
    Bird::start(netns, &dir, &format!("{dir}/bird.conf"))
}

/// The router learns the way to blocks of the reflector as well: packets pass it.
fn router(cluster: &Cluster, reflector: &[IpAddr]) -> Bird {
    let with = |one: &IpAddr| session(*one, "direct;", "gateway recursive; export none;");
    let sessions: String = reflector.iter().map(with).collect();
    start("router", &cluster.router.netns, "198.18.0.1", &sessions)
}

fn parsed(addresses: [&str; 2]) -> [IpAddr; 2] {
    addresses.map(|address| address.parse().expect("address"))
}

/// Two nodes, of which the latter is behind the router, send to each other by what they were told.
fn lead_to_each_other(cluster: &Cluster, [one, two]: [usize; 2], family: &Family) {
    let [one, two] = [one, two].map(|at| &cluster.nodes[at]);
    let (a, b) = (one.named("a"), two.named("b"));
    let (from, to) = (address(&a, family), address(&b, family));
    wait::until("both ways are known", || ping(&a.netns, &["-W", "1"], to).contains("1 received"));
    let said = ping(&a.netns, &[], to);
    assert!(said.contains("ttl=61"), "two nodes and a router, and not the reflector: {said}");
    assert_eq!(stream(&a.netns, &b.netns, to).ip(), from, "with its own address");
    assert_eq!(stream(&b.netns, &a.netns, from).ip(), to, "with its own address");
    for node in [one, two] {
        // Sessions of the other family may have met half-way, and begun again.
        wait::until("no problem is left", || node.problems().is_empty());
        let ways = node.known().into_iter().filter(|other| !other.own).map(|other| other.backend);
        assert!(ways.into_iter().all(|way| way.as_deref() == Some("bgp")), "{:?}", node.known());
    }
    // As long as that node wants to be told of.
    let block = block(two, family);
    let told = || by_bird(&one.space.netns, family).contains(&block);
    assert!(told(), "{}", by_bird(&one.space.netns, family));
    assert!(two.netpath(&["node", "drain"]).status.success());
    wait::until("the route is withdrawn", || !told());
    assert!(two.netpath(&["node", "drain", "--undo"]).status.success());
    wait::until("the route is back", told);
}

/// What a BIRD knows of the way to a block: by whom it was told first, and where it leads.
fn is_reflected(bird: &Bird, block: &str, hop: IpAddr) {
    let shown = bird.ask(&["show", "route", "all", block]);
    assert!(shown.contains("BGP.cluster_list:") && shown.contains("BGP.originator_id:"), "{shown}");
    assert!(shown.contains(&format!("BGP.next_hop: {hop}")), "the node itself: {shown}");
}

pub(super) fn bird_reflector_tells_nodes_of_each_other(family: Family) {
    let reflector = [OUTSIDE.into(), OUTSIDE_V6.into()];
    let mut cluster = Cluster::start_with(0, &speaking("mesh = false", &peers(&reflector, "")));
    secret("hush hush");
    cluster.join();
    cluster.join_far();
    let clients = cluster.nodes.iter().flat_map(|node| node.addresses);
    // The router's addresses towards outside.
    let clients = clients.chain(parsed(["198.18.1.1", "2001:db8:18:1::1"]));
    let client = |one| session(one, "multihop; passive; rr client;", "export where source = RTS_BGP;");
    let sessions: String = clients.map(client).collect();
    let reflects = start("reflector", &cluster.outside.netns, "198.18.1.2", &sessions);
    let _router = router(&cluster, &reflector);
    let birds: Vec<Bird> = cluster.nodes.iter().map(bird_of).collect();
    cluster.nodes.iter().for_each(|node| wait_established(node, 2));
    wait::until("the router's sessions as well", || {
        reflects.ask(&["show", "protocols"]).matches("Established").count() == 6
    });
    cluster.wait_known();
    for node in &cluster.nodes {
        let rendered = String::from_utf8(node.netpath(&["bgp", "render"]).stdout).expect("text");
        assert_eq!(rendered.matches("  multihop;\n").count(), 2, "{rendered}");
    }
    lead_to_each_other(&cluster, [0, 1], &family);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    is_reflected(&birds[0], &block(two, &family), on_link(two, &family));
    // Its own block, reflected to it, is none that it learns.
    let own = block(one, &family);
    assert!(!by_bird(&one.space.netns, &family).contains(&own), "{}", by_bird(&one.space.netns, &family));
}

pub(super) fn bird_of_a_node_reflects_to_its_clients(family: Family) {
    let mut cluster = Cluster::start_with(0, "");
    secret("hush hush");
    let reflector = parsed(["198.18.0.11", "2001:db8:18::b"]);
    let clients =
        [ROUTERS, ["198.18.102.2", "2001:db8:102::2"], ["198.18.103.2", "2001:db8:103::2"]].map(parsed);
    cluster.set_line(&speaking("mesh = false", &peers(&clients.concat(), "rr_client = true")));
    cluster.join();
    cluster.set_line(&speaking("mesh = false", &peers(&reflector, "")));
    cluster.join_far();
    cluster.join_far();
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.addresses).collect();
    assert_eq!(nodes, [reflector, clients[1], clients[2]]);
    let _router = router(&cluster, &reflector);
    let birds: Vec<Bird> = cluster.nodes.iter().map(bird_of).collect();
    wait_established(&cluster.nodes[0], 6);
    cluster.nodes[1..].iter().for_each(|node| wait_established(node, 2));
    cluster.wait_known();
    let told = on_link(&cluster.nodes[2], &family);
    lead_to_each_other(&cluster, [1, 2], &family);
    is_reflected(&birds[1], &block(&cluster.nodes[2], &family), told);
}
