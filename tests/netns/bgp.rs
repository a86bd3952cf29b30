//! BGP through BIRD, with routers that are not ours: a BIRD with a configuration of its own.

mod reflectors;
mod rendered;

use std::net::{IpAddr, UdpSocket};

use netpath::api::types::NetworkSet;
use netpath_tests::{
    bird::Bird,
    cluster::{Cluster, ClusterMember},
    for_both_families,
    scene::Family,
    wait,
};

use super::direct::{address, of, on_link, ping, stream};

for_both_families!(
    bird_tells_a_router_of_the_block_until_the_node_is_drained,
    bird_leads_to_pods_of_a_node_behind_a_router,
);

/// The router as the first link's nodes see it.
const ROUTER: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

/// What nodes are configured with, behind `[cluster]`: a default route is learned from the router.
fn speaking(more: &str, peers: &str) -> String {
    format!(
        "backend = \"direct\"\n[bgp]\nas = 64512\nconfig_file = \"{{dir}}/netpath.conf\"\ncontrol_socket = \"{{dir}}/bird.ctl\"\n\
         accept = [\"0.0.0.0/0\", \"::/0\"]\n{more}\n{peers}"
    )
}

/// A router with a session of each family, and the same secret.
fn with_router(addresses: [&str; 2]) -> String {
    let peer = |address: &str| {
        format!("[[bgp.peer]]\naddress = \"{address}\"\nas = 64999\npassword_file = \"/mnt/secret\"\n")
    };
    addresses.map(peer).concat()
}

fn secret(words: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write("/mnt/secret", format!("{words}\n")).expect("secret");
    std::fs::set_permissions("/mnt/secret", std::fs::Permissions::from_mode(0o600)).expect("mode");
}

/// The router's BIRD, as docs/BGP.md has it: neighbours are the nodes, by their addresses.
fn router(cluster: &Cluster) -> Bird {
    router_with(cluster, "")
}

/// The same, which knows something more.
fn router_with(cluster: &Cluster, more: &str) -> Bird {
    let mut text = "router id 198.18.0.1;\nprotocol device { }\n\
        protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n\
        protocol kernel { ipv6 { export where source = RTS_BGP; }; }\n\
        protocol static { ipv4; route 0.0.0.0/0 via 198.18.1.2; }\n\
        protocol static { ipv6; route ::/0 via 2001:db8:18:1::2; }\n\
        protocol direct { ipv4; ipv6; }\n"
        .to_owned();
    for address in cluster.nodes.iter().flat_map(|node| node.addresses) {
        let channel = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        text += &format!(
            "protocol bgp {{\n  local as 64999;\n  neighbor {address} as 64512;\n  password \"hush hush\";\n  \
             graceful restart;\n  connect retry time 5;\n  error wait time 1, 5;\n  {channel} {{ import all; export where source ~ [RTS_STATIC, RTS_BGP]; next hop self; }};\n}}\n"
        );
    }
    std::fs::create_dir_all("/mnt/router").expect("directory");
    text += more;
    std::fs::write("/mnt/router/bird.conf", text).expect("configuration");
    Bird::start(&cluster.router.netns, "/mnt/router", "/mnt/router/bird.conf")
}

fn bird_of(node: &ClusterMember) -> Bird {
    let dir = format!("/mnt/{}", node.name);
    Bird::start_including(&node.space.netns, &dir)
}

fn flag(family: &Family) -> &'static str {
    if family.is_v4() { "-4" } else { "-6" }
}

/// The routes that BIRD made in a namespace.
fn by_bird(netns: &netpath::net::Netns, family: &Family) -> String {
    netpath_tests::node::run_in(netns, "ip", &[flag(family), "route", "show", "proto", "bird"])
}

fn block(node: &ClusterMember, family: &Family) -> String {
    let mut own = node.blocks().into_iter();
    own.find(|block| block.addr().is_ipv4() == family.is_v4()).expect("block").to_string()
}

fn wait_established(node: &ClusterMember, sessions: usize) {
    wait::until(&format!("{sessions} sessions of {} are established", node.name), || {
        let all = node.runtime().block_on(node.client.bgp_sessions()).unwrap_or_default();
        all.len() == sessions && all.iter().all(|session| session.state == "Established")
    });
}

pub(super) fn bird_tells_a_router_of_the_block_until_the_node_is_drained(family: Family) {
    let mut cluster = Cluster::start_with(0, &speaking("mesh = false", &with_router(ROUTER)));
    secret("wrong");
    cluster.join();
    let missed = |node: &ClusterMember| node.problems().contains("asking BIRD at");
    wait::until("a BIRD that is not there is told of", || missed(&cluster.nodes[0]));
    // It may be there before netpath has ever run.
    cluster.nodes[0].kill();
    std::fs::remove_file("/mnt/node1/netpath.conf").expect("written");
    let (router, mut own) = (router(&cluster), bird_of(&cluster.nodes[0]));
    cluster.nodes[0].restart();
    let node = &cluster.nodes[0];
    let net = &cluster.router.netns;
    wait::until("a session without its secret is told of", || {
        node.problems().contains(&format!("bgp session {}", router_at(&family)))
    });
    assert_eq!(by_bird(net, &family), "", "nothing is told without the secret");
    secret("hush hush");
    wait_established(node, 2);
    let block = block(node, &family);
    let via = format!("via {}", on_link(node, &family));
    let told = || by_bird(net, &family).lines().any(|line| line.contains(&block) && line.contains(&via));
    wait::until("the router has a route to the block", told);
    wait::until("no problem is left", || node.problems().is_empty());
    // Whoever is outside reaches pods that are open to everybody, by their own addresses.
    let open = NetworkSet { inbound: Some("any".into()), ..NetworkSet::default() };
    cluster.runtime.block_on(node.client.network_set("default", &open)).expect("network");
    let pod = node.named("a");
    let outside = &cluster.outside.netns;
    let to = address(&pod, &family);
    let said = ping(outside, &[], to);
    assert!(said.contains("1 received"), "{said}");
    assert_eq!(stream(outside, &pod.netns, to).ip(), netpath::lab::topology::outside(of(&family)));
    // The node's own default route goes: what is learned takes its place.
    let everything = if family.is_v4() { "0.0.0.0/0" } else { "::/0" };
    assert_eq!(node.run("ip", &[flag(&family), "route", "del", everything, "proto", "110"]), "");
    let default = format!("default via {}", router_at(&family));
    wait::until("a default route is learned", || by_bird(&node.space.netns, &family).contains(&default));
    let said = ping(&pod.netns, &[], netpath::lab::topology::outside(of(&family)));
    assert!(said.contains("1 received"), "by the learned route: {said}");
    // BIRD crashes: the router keeps the route, and the node goes on by what the kernel has.
    own.kill();
    wait::until("a BIRD that is gone is told of", || node.problems().contains("asking BIRD at"));
    assert!(told(), "{}", by_bird(net, &family));
    assert!(ping(outside, &[], to).contains("1 received"));
    own.restart();
    wait_established(node, 2);
    assert!(told(), "{}", by_bird(net, &family));
    wait::until("no problem is left", || node.problems().is_empty());
    let shown = String::from_utf8(node.netpath(&["bgp", "show"]).stdout).expect("text");
    assert!(shown.contains(&router_at(&family)) && shown.contains("Established"), "{shown}");
    let rendered = String::from_utf8(node.netpath(&["bgp", "render"]).stdout).expect("text");
    assert!(rendered.contains(&block) && !rendered.contains("hush"), "{rendered}");
    // Nobody else's business either.
    let mode = node.run("stat", &["-c", "%a", "/mnt/node1/netpath.conf"]);
    assert_eq!(mode.trim(), "640");
    drained(&cluster, &router, &own, &told);
}

/// Withdrawn with the drain, advertised again, and gone with the node.
fn drained(cluster: &Cluster, router: &Bird, own: &Bird, told: &dyn Fn() -> bool) {
    let node = &cluster.nodes[0];
    let done = |arguments: &[&str]| {
        let output = node.netpath(arguments);
        assert!(output.status.success(), "{output:?}");
    };
    done(&["node", "drain"]);
    wait::until("the block is withdrawn", || !told());
    assert!(router.ask(&["show", "protocols"]).contains("Established"), "the sessions stay");
    done(&["node", "drain", "--undo"]);
    wait::until("the block is advertised again", told);
    cluster.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    // The block is not given back while a router may still lead to it.
    own.halt(true);
    let refused = node.netpath(&["node", "leave"]);
    own.halt(false);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("asking BIRD at"), "{refused:?}");
    let keys = || cluster.etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/default/blocks/"]);
    assert!(keys().contains("blocks/"), "{}", keys());
    wait::until("it is advertised, still or again", told);
    done(&["uninstall"]);
    assert!(!std::path::Path::new("/mnt/node1/netpath.conf").exists());
    wait::until("the block is withdrawn", || !told());
}

fn router_at(family: &Family) -> String {
    ROUTER[usize::from(!family.is_v4())].to_owned()
}

pub(super) fn bird_leads_to_pods_of_a_node_behind_a_router(family: Family) {
    let mut cluster = Cluster::start_with(0, "");
    secret("hush hush");
    cluster.set_line(&speaking("mesh = false", &with_router(ROUTER)));
    cluster.join();
    // The second node's link has addresses of its own.
    cluster.set_line(&speaking("mesh = false", &with_router(["198.18.102.1", "2001:db8:102::1"])));
    cluster.join_far();
    let _router = router(&cluster);
    let _birds: Vec<Bird> = cluster.nodes.iter().map(bird_of).collect();
    cluster.nodes.iter().for_each(|node| wait_established(node, 2));
    cluster.wait_known();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let backend = |node: &ClusterMember| {
        let other = node.known().into_iter().find(|one| !one.own).expect("the other");
        other.backend.unwrap_or_default()
    };
    assert_eq!((backend(one).as_str(), backend(two).as_str()), ("bgp", "bgp"));
    let (a, b) = (one.named("a"), two.named("b"));
    let (from, to) = (address(&a, &family), address(&b, &family));
    let is_up = || ping(&a.netns, &["-W", "1"], to).contains("1 received");
    wait::until("both ways are known", is_up);
    let said = ping(&a.netns, &[], to);
    assert!(said.contains("ttl=61"), "two nodes and a router: {said}");
    assert_eq!(stream(&a.netns, &b.netns, to).ip(), from, "with its own address");
    assert_eq!(stream(&b.netns, &a.netns, from).ip(), to, "with its own address");
    // Nodes are of the cluster behind routers as well.
    let node = &one.space.netns;
    assert_eq!(stream(node, &b.netns, to).ip(), on_link(one, &family));
    // Others may have tunnels, and would take this node's word for another's.
    let before = one.drops("ForeignTunnel");
    let pod = a.netns.enter(|| UdpSocket::bind((from, 0))).expect("namespace").expect("socket");
    pod.send_to(b"forged", (on_link(two, &family), 4789)).expect("sent");
    wait::until("no pod speaks as the node to tunnels", || one.drops("ForeignTunnel") > before);
    // To outside as before.
    let outside = netpath::lab::topology::outside(of(&family));
    assert_eq!(stream(&a.netns, &cluster.outside.netns, outside).ip(), on_link(one, &family));
    // Outside is not, and nobody sends as a pod whom no route explains.
    let before = one.drops("InboundDenied");
    let said = ping(&cluster.outside.netns, &["-W", "1"], from);
    assert!(said.contains("0 received") && one.drops("InboundDenied") > before, "{said}");
    for node in &cluster.nodes {
        node.wait_well();
    }
    let block = block(two, &family);
    assert!(two.netpath(&["node", "drain"]).status.success());
    wait::until("the route is withdrawn", || !by_bird(node, &family).contains(&block));
    wait::until("the way is gone", || one.problems().contains(&format!("{block} of node node2")));
    let said = ping(&a.netns, &[], to);
    assert!(said.contains("nreachable") || said.contains("No route"), "told at once: {said}");
}

/// Nodes of one link tell each other what one of them has learned.
#[test]
fn bird_shares_what_one_node_learns_with_the_mesh_ipv4_and_ipv6() {
    let mesh = speaking("mesh = true\npassword_file = \"/mnt/secret\"", "");
    let mut cluster = Cluster::start_with(0, &mesh);
    secret("hush hush");
    cluster.set_line(&speaking("mesh = true\npassword_file = \"/mnt/secret\"", &with_router(ROUTER)));
    cluster.join();
    cluster.set_line(&mesh);
    cluster.join();
    cluster.wait_known();
    let _router = router(&cluster);
    let _birds: Vec<Bird> = cluster.nodes.iter().map(bird_of).collect();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    // Two with the router, two with the other node; the router's sessions with the second node have no other end.
    wait_established(one, 4);
    wait_established(two, 2);
    for family in [Family::V4, Family::V6] {
        let via = format!("default via {}", on_link(one, &family));
        wait::until("the second has its default route of the first", || {
            by_bird(&two.space.netns, &family).contains(&via)
        });
        // Blocks on one link are direct routes, and BIRD adds none.
        assert!(!by_bird(&two.space.netns, &family).contains(&block(one, &family)));
        let nodes: Vec<IpAddr> = one.addresses.to_vec();
        let sessions = two.runtime().block_on(two.client.bgp_sessions()).expect("sessions");
        assert!(
            sessions.iter().all(|one| nodes.contains(&one.address) && one.node.as_deref() == Some("node1"))
        );
    }
    wait::until("no problem is left", || two.problems().is_empty() && one.problems().is_empty());
}

/// Beside tunnels BIRD makes no routes: one to a tunnelled block would take its place.
#[test]
fn bird_leaves_blocks_behind_tunnels_alone_ipv4_and_ipv6() {
    let with = speaking("mesh = false", &with_router(ROUTER)).replace("\"direct\"", "\"auto\"");
    let mut cluster = Cluster::start_with(0, "");
    secret("hush hush");
    cluster.set_line(&with);
    cluster.join();
    cluster.set_line("");
    cluster.join_far();
    cluster.wait_known();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let families = [Family::V4, Family::V6];
    let of_two = families.each_ref().map(|family| block(two, family));
    // The router leads to that node's blocks, and to ones that no node has.
    let nobodys = ["10.64.255.192/26", "fd00:64::ffff:ffc0/122"];
    let via = two.addresses;
    let [v4, v6] = [0, 1]
        .map(|at| format!("route {} via {}; route {} via {};", of_two[at], via[at], nobodys[at], via[at]));
    let more = format!("protocol static {{ ipv4; {v4} }}\nprotocol static {{ ipv6; {v6} }}\n");
    let (_router, bird) = (router_with(&cluster, &more), bird_of(one));
    wait_established(one, 2);
    for (at, family) in families.iter().enumerate() {
        let learned = |block: &str| bird.ask(&["show", "route", block]).contains("netpath_");
        wait::until("both are learned", || learned(&of_two[at]) && learned(nobodys[at]));
        let made = || by_bird(&one.space.netns, family);
        wait::until("where there is no tunnel, it is a route", || made().contains(nobodys[at]));
        assert!(!made().contains(&of_two[at]), "{}", made());
        let route = one.run("ip", &[flag(family), "route", "show", "exact", &of_two[at]]);
        assert!(route.lines().count() == 1 && route.contains("vxlan"), "{route}");
    }
    // Nor in place of a tunnel that is withdrawn.
    wait::until("the other node has answered", || one.log().contains("answers from behind routers"));
    let told = || {
        let output = one.netpath(&["bgp", "render"]);
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let before = told();
    cluster.part_far(1, true);
    wait::until("it is lost", || {
        families
            .iter()
            .zip(&of_two)
            .all(|(family, block)| one.run("ip", &[flag(family), "route", "show", "exact", block]).is_empty())
    });
    assert_eq!(String::from_utf8_lossy(&told()), String::from_utf8_lossy(&before));
}
