//! What becomes of the ways between nodes while nodes, agents, etcd and routes come and go.

use std::net::UdpSocket;

use netpath::net::Netns;
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    node::PATIENCE,
    scene::Family,
    side::Echo,
    traffic::Traffic,
    wait,
};

use super::{address, datagram, of, on_link, ping, stream};

for_both_families!(
    etcd_direct_routes_of_a_lost_node_go_and_its_block_later,
    etcd_direct_routes_follow_nodes_and_come_back,
    etcd_direct_routes_lead_over_a_link_of_ipv6_alone,
    etcd_and_agents_end_under_running_flows_of_direct_routes,
);

/// The routes of a node to other nodes' blocks.
fn routes(node: &ClusterMember, family: &Family) -> Vec<String> {
    let flag = if family.is_v4() { "-4" } else { "-6" };
    let said = node.run("ip", &[flag, "route", "show", "proto", "110"]);
    let to_node = |line: &&str| line.contains(" via ") && !line.starts_with("default");
    said.lines().filter(to_node).map(str::to_owned).collect()
}

fn reaches(from: &Netns, to: std::net::IpAddr) -> bool {
    ping(from, &["-W", "5"], to).contains("1 received")
}

/// IPv4 as well, by next hops of IPv6 (RFC 5549).
pub(super) fn etcd_direct_routes_lead_over_a_link_of_ipv6_alone(family: Family) {
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    cluster.nodes.iter().for_each(ClusterMember::without_ipv4);
    let kind = if family.is_v4() { "inet6 " } else { "" };
    let hop = |node: &ClusterMember| format!("via {kind}{} dev up0", node.addresses[1]);
    for (node, other) in [(one, two), (two, one)] {
        wait::until("the next hop is the other's IPv6 address", || {
            let there = routes(node, &family);
            there.len() == 1 && there[0].contains(&hop(other))
        });
    }
    let (at_a, at_b) = (address(&a, &family), address(&b, &family));
    wait::until("pods reach each other", || reaches(&a.netns, at_b) && reaches(&b.netns, at_a));
    assert!(ping(&a.netns, &[], at_b).contains("ttl=62"));
    assert_eq!(stream(&a.netns, &b.netns, at_b).ip(), at_a);
    assert_eq!(datagram(&b.netns, &a.netns, at_a).ip(), at_b);
    for node in [one, two] {
        // Nothing but that there is no way to outside.
        wait::until("nothing else is wrong", || {
            node.problems().lines().all(|line| line.contains("has no IPv4 address"))
        });
        assert_eq!(node.drops("SpoofedSource") + node.drops("RouteDrop"), 0, "{}", node.name);
    }
}

pub(super) fn etcd_direct_routes_follow_nodes_and_come_back(family: Family) {
    let mut cluster = Cluster::start(2);
    let a = cluster.nodes[0].named("a");
    let before = routes(&cluster.nodes[0], &family);
    let via = format!("via {} dev up0", on_link(&cluster.nodes[1], &family));
    assert!(before.len() == 1 && before[0].contains(&via), "{before:?}");
    // Somebody deletes it.
    let block = before[0].split(' ').next().expect("prefix").to_owned();
    assert_eq!(cluster.nodes[0].run("ip", &["route", "del", &block]), "");
    wait::until("the route is back", || routes(&cluster.nodes[0], &family) == before);
    // A third one comes.
    cluster.join();
    cluster.wait_known();
    let c = cluster.nodes[2].named("c");
    let to = address(&c, &family);
    wait::until("the new node's pod answers", || reaches(&a.netns, to));
    assert!(reaches(&c.netns, address(&a, &family)));
    moves(&cluster, &family);
    wait::until("its pod answers", || reaches(&a.netns, to) && reaches(&c.netns, address(&a, &family)));
    // It leaves, and what it put on its own node goes as well.
    let three = &cluster.nodes[2];
    cluster.runtime.block_on(three.client.pod_rm("c")).expect("removed");
    let left = three.netpath(&["node", "leave"]);
    assert!(left.status.success(), "{left:?}");
    wait::until("its routes are gone", || {
        routes(&cluster.nodes[0], &family) == before && routes(three, &family).is_empty()
    });
    drops_stale_ones(&mut cluster, &block, &family);
}

/// The third node gets another address.
fn moves(cluster: &Cluster, family: &Family) {
    let three = &cluster.nodes[2];
    let (old, new) =
        (on_link(three, family), if family.is_v4() { "198.18.0.77/24" } else { "2001:db8:18::77/64" });
    let length = if family.is_v4() { 24 } else { 64 };
    three.run("ip", &["address", "del", &format!("{old}/{length}"), "dev", "up0"]);
    let nodad: &[&str] = if family.is_v4() { &[] } else { &["nodad"] };
    assert_eq!(three.run("ip", &[&["address", "add", new, "dev", "up0"], nodad].concat()), "");
    if family.is_v4() {
        // The kernel took it away with the address.
        assert_eq!(three.run("ip", &["route", "add", "default", "via", "198.18.0.1"]), "");
    }
    let moved = format!("via {} dev up0", new.split('/').next().expect("address"));
    wait::until("the route follows", || {
        routes(&cluster.nodes[0], family).iter().any(|route| route.contains(&moved))
    });
}

/// An agent that was away while a node left removes what is stale when it begins, and an uninstallation all.
fn drops_stale_ones(cluster: &mut Cluster, block: &str, family: &Family) {
    let (stale, kept) = (block, "10.99.0.0/24");
    cluster.nodes[0].kill();
    let one = &cluster.nodes[0];
    let pools = netpath_tests::cluster::POOLS[usize::from(!family.is_v4())];
    let gone = if family.is_v4() { "10.64.254.0/26" } else { "fd00:64::fe00/122" };
    let next = on_link(&cluster.nodes[1], family).to_string();
    assert_eq!(one.run("ip", &["route", "add", gone, "via", &next, "proto", "110"]), "", "{pools}");
    if family.is_v4() {
        assert_eq!(one.run("ip", &["route", "add", kept, "via", &next, "proto", "110"]), "");
    }
    cluster.nodes[0].restart();
    let one = &cluster.nodes[0];
    wait::until("the stale one is gone", || !routes(one, family).iter().any(|route| route.contains(gone)));
    let now = routes(one, family);
    assert!(now.iter().any(|route| route.starts_with(stale)), "{now:?}");
    assert!(!family.is_v4() || now.iter().any(|route| route.starts_with(kept)), "not of a pool: {now:?}");
    // Uninstalling takes all of them.
    cluster.runtime.block_on(one.client.pod_rm("a")).expect("removed");
    let done = one.netpath(&["uninstall"]);
    assert!(done.status.success(), "{done:?}");
    let rest = routes(one, family);
    assert_eq!(rest.len(), usize::from(family.is_v4()), "{rest:?}");
    let unreachable = one.run("ip", &[if family.is_v4() { "-4" } else { "-6" }, "route"]);
    assert!(!unreachable.contains("unreachable"), "{unreachable}");
}

pub(super) fn etcd_and_agents_end_under_running_flows_of_direct_routes(family: Family) {
    let mut cluster = Cluster::start(2);
    let (a, b) = (cluster.nodes[0].named("a"), cluster.nodes[1].named("b"));
    let (from, to) = (address(&a, &family), address(&b, &family));
    let echo = Echo::start(&b.netns, to);
    let mut traffic = Traffic::default();
    traffic.datagrams("datagrams", &a.netns, echo.address);
    traffic.pings("pings", &b.netns, from);
    traffic.stream(&a.netns, &b.netns, to);
    traffic.short_connections(&b.netns, &a.netns, from);
    let outside = Echo::start(&cluster.outside.netns, netpath::lab::topology::outside(of(&family)));
    traffic.datagrams("to outside", &a.netns, outside.address);
    traffic.moves("before");
    for at in 0..2 {
        cluster.nodes[at].kill();
        traffic.moves("without an agent");
        cluster.nodes[at].restart();
        traffic.moves("after a crash");
    }
    cluster.etcd.kill_all();
    traffic.moves("without etcd");
    let d = cluster.nodes[1].named("d");
    assert!(reaches(&a.netns, address(&d, &family)), "new flows without etcd");
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    traffic.moves("with an agent that began without etcd");
    assert!(reaches(&d.netns, from), "new flows to a node whose agent began without etcd");
    cluster.etcd.restart();
    wait::until("nothing is wrong any more", || cluster.nodes.iter().all(|node| node.problems().is_empty()));
    traffic.moves("with etcd again");
    let totals = traffic.finish();
    assert!(totals.lost == 0 && totals.reset == 0 && totals.streamed > 0, "{totals:?}");
}

/// Its firewall says to whoever asks that it is not reached, as firewalld's does; returns when that was said often enough.
fn rejects(node: &ClusterMember) {
    let nft = |words: &str| node.run("nft", &[words]);
    assert_eq!(nft("add table inet fw"), "");
    assert_eq!(nft("add chain inet fw in { type filter hook input priority 0; }"), "");
    assert_eq!(nft("add rule inet fw in udp dport 9 counter reject with icmpx type host-unreachable"), "");
    // Both addresses are asked, and for the third time when what was made of the second is done.
    let often = |said: &str| {
        let count = said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count >= 6)
    };
    wait::until("it refuses thrice", || often(&nft("list table inet fw")));
    assert_eq!(nft("delete table inet fw"), "");
}

/// Away by etcd alone changes nothing; away by the link as well ends the routes; and after a while another may have the block.
pub(super) fn etcd_direct_routes_of_a_lost_node_go_and_its_block_later(family: Family) {
    let mut cluster = Cluster::start_with(2, "release_after = \"25s\"");
    let (a, b) = (cluster.nodes[0].named("a"), cluster.nodes[1].named("b"));
    let to = address(&b, &family);
    assert!(reaches(&a.netns, to));
    let before = routes(&cluster.nodes[0], &family);
    let state = |cluster: &Cluster| {
        let all = cluster.nodes[0].known();
        all.into_iter().find(|one| one.name == "node2").map(|one| one.state)
    };
    let silence = |cluster: &mut Cluster| {
        cluster.nodes[1].kill();
        cluster.etcd.ctl(&["del", "/netpath/default/alive/node2"]);
        wait::until("it is away", || state(cluster).as_deref() == Some("away"));
    };
    // Whoever asks whether it is there asks here.
    let there = (on_link(&cluster.nodes[1], &family), 9);
    let asked =
        cluster.nodes[1].space.netns.enter(|| UdpSocket::bind(there)).expect("namespace").expect("socket");
    asked.set_read_timeout(Some(PATIENCE)).expect("time-out");
    silence(&mut cluster);
    for _ in 0..2 {
        asked.recv(&mut [0; 8]).expect("asked");
    }
    assert_eq!(routes(&cluster.nodes[0], &family), before, "it answers on the link");
    assert!(reaches(&a.netns, to));
    rejects(&cluster.nodes[1]);
    assert_eq!(routes(&cluster.nodes[0], &family), before, "its firewall answers for it");
    cluster.plug(1, false);
    wait::until("its routes are gone", || routes(&cluster.nodes[0], &family).is_empty());
    let said = ping(&a.netns, &[], to);
    assert!(said.contains("nreachable"), "who talks to its pods is told: {said}");
    cluster.plug(1, true);
    wait::until("its routes are back", || routes(&cluster.nodes[0], &family) == before);
    wait::until("its pod answers again", || reaches(&a.netns, to));
    cluster.nodes[1].restart();
    wait::until("it is there again", || state(&cluster).as_deref() == Some("ready"));
    silence(&mut cluster);
    cluster.plug(1, false);
    wait::until("it is not of the cluster any more", || state(&cluster).is_none());
    let keys = cluster.etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/default/blocks/"]);
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 2, "its blocks are free: {keys}");
    // It comes back, and nobody has taken its blocks.
    cluster.plug(1, true);
    cluster.nodes[1].restart();
    wait::until("its routes are there again", || routes(&cluster.nodes[0], &family) == before);
    wait::until("its pod answers", || reaches(&a.netns, to));
}
