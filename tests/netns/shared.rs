//! Networks that all nodes of a cluster have, and nodes with more than one block of a network.

use std::collections::BTreeSet;

use netpath::{api::types::PodAdd, lab::checks::LabPod};
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    scene::Family,
    wait,
};

use crate::direct::{address, datagram, ping};

for_both_families!(
    etcd_a_full_node_claims_another_block,
    etcd_all_nodes_have_the_networks_of_their_cluster,
    etcd_a_network_takes_the_place_of_one_that_has_gone,
    etcd_vxlan_for_one_network_and_direct_routes_for_another,
);

/// Room for two pods of IPv4, and three of IPv6.
const SMALL: &str = "block_length_v4 = 30\nblock_length_v6 = 126";

fn blocks_of(node: &ClusterMember, family: &Family) -> BTreeSet<String> {
    let of_family = |block: &ipnet::IpNet| block.addr().is_ipv4() == family.is_v4();
    node.blocks().into_iter().filter(of_family).map(|block| block.to_string()).collect()
}

fn joined(node: &ClusterMember, name: &str, network: &str) -> LabPod {
    node.pod(&PodAdd { name: name.into(), networks: vec![network.into()], ..PodAdd::default() })
}

fn reaches(from: &LabPod, to: &LabPod, family: &Family) {
    let said = ping(&from.netns, &[], address(to, family));
    assert!(said.contains("ttl=62"), "{}: {said}", address(to, family));
}

/// By blocks that were claimed just now, which nodes follow when they see them.
fn will_reach(from: &LabPod, to: &LabPod, family: &Family) {
    wait::until(&format!("{} answers", address(to, family)), || {
        ping(&from.netns, &[], address(to, family)).contains("ttl=62")
    });
}

fn netpath_pod(node: &ClusterMember, name: &str) -> LabPod {
    let pods = node.runtime().block_on(node.client.pods()).expect("pods");
    LabPod::open(pods.into_iter().find(|pod| pod.name == name).expect("pod")).expect("pod")
}

/// Runs the command line; returns what it said, and whether it was content.
fn said(node: &ClusterMember, line: &str) -> (String, bool) {
    let output = node.netpath(&line.split(' ').collect::<Vec<_>>());
    let words = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&words).into_owned(), output.status.success())
}

fn done(node: &ClusterMember, line: &str) -> String {
    let (words, content) = said(node, line);
    assert!(content, "{}: {line}: {words}", node.name);
    words
}

fn refused(node: &ClusterMember, line: &str, why: &str) {
    let (words, content) = said(node, line);
    assert!(!content && words.contains(why), "{}: {line}: '{why}' is not in: {words}", node.name);
}

fn etcd_a_full_node_claims_another_block(family: Family) {
    let mut cluster = Cluster::start_with(2, SMALL);
    let far = cluster.nodes[1].named("far");
    let pods: Vec<_> = (0..7).map(|at| cluster.nodes[0].named(&format!("p{at}"))).collect();
    let addresses: BTreeSet<_> = pods.iter().map(|pod| address(pod, &family)).collect();
    assert_eq!(addresses.len(), pods.len(), "{addresses:?}");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let least = if family.is_v4() { 4 } else { 3 };
    wait::until("the other node has ways to all blocks", || {
        let routes = two.run("ip", &["route"]) + &two.run("ip", &["-6", "route"]);
        let blocks = blocks_of(one, &family);
        blocks.len() >= least && blocks.iter().all(|block| routes.contains(&format!("{block} via")))
    });
    pods.iter().for_each(|pod| will_reach(&far, pod, &family));
    assert!(blocks_of(one, &family).is_disjoint(&blocks_of(two, &family)));

    // They are its own whatever becomes of the agent and of etcd; none more without etcd.
    let before = blocks_of(&cluster.nodes[0], &family);
    cluster.nodes[0].kill();
    cluster.etcd.kill_all();
    cluster.nodes[0].restart();
    let one = &cluster.nodes[0];
    done(one, "pod rm p0");
    let again = one.named("again");
    reaches(&again, &far, &family);
    let room = (0..3).find_map(|at| {
        let (words, content) = said(one, &format!("pod add more{at}"));
        (!content).then_some(words)
    });
    let words = room.expect("seven of four blocks at most eight, and of IPv6 nine");
    assert!(words.contains("etcd"), "who says why: {words}");
    pods[1..].iter().for_each(|pod| reaches(&far, pod, &family));
    cluster.etcd.restart();
    let one = &cluster.nodes[0];
    wait::until("etcd is heard again", || said(one, "pod add after").1);
    // What it shows is what it has read again.
    wait::until("it has all of them", || blocks_of(one, &family).is_superset(&before));
}

fn etcd_all_nodes_have_the_networks_of_their_cluster(family: Family) {
    let mut cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    done(one, "network add back --subnet 10.70.0.0/16 --subnet fd00:70::/48 --block-length-v4 27");
    wait::until("the other node has it", || said(two, "network ls").0.contains("back"));
    refused(two, "network add back --subnet 10.80.0.0/16", "back");
    refused(two, "network add other --subnet 10.70.8.0/24", "10.70.0.0/16");
    refused(two, "network add other --subnet 10.70.8.0/24 --scope node", "10.70.0.0/16");
    refused(two, "network add other --subnet 10.64.8.0/24", "10.64.0.0/16");
    refused(two, "network add other --subnet 10.80.0.0/16 --backend magic", "auto, direct or vxlan");
    refused(two, "network add other --subnet 10.80.0.0/24 --scope node --backend vxlan", "all nodes");

    let (a, b, c) = (joined(one, "a", "back"), joined(two, "b", "back"), two.named("c"));
    assert_ne!(address(&a, &family), address(&b, &family));
    will_reach(&a, &b, &family);
    will_reach(&b, &a, &family);
    // Networks are no walls.
    will_reach(&a, &c, &family);
    assert_eq!(datagram(&a.netns, &b.netns, address(&b, &family)).ip(), address(&a, &family));

    settings_are_everybodys(one, two);

    // They outlive the agent, also without etcd.
    cluster.nodes[1].kill();
    cluster.etcd.kill_all();
    cluster.nodes[1].restart();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    reaches(&a, &b, &family);
    let d = joined(two, "d", "back");
    reaches(&a, &d, &family);
    cluster.etcd.restart();

    // It goes when nobody has pods of it, and its blocks with it.
    refused(one, "network rm back", "1 pods");
    done(one, "pod rm a");
    wait::until("etcd is heard again", || {
        let (words, _) = said(one, "network rm back");
        words.contains("node2")
    });
    done(two, "pod rm b d");
    done(one, "network rm back");
    wait::until("the other node has lost it", || !said(two, "network ls").0.contains("back"));
    let records = cluster.etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/"]);
    assert!(!records.contains("10.70.") && !records.contains("fd00:70:"), "{records}");
    // By the watch: the listing lacks it before the kernel does.
    wait::until("its routes have left the other node", || {
        let routes = two.run("ip", &["route"]) + &two.run("ip", &["-6", "route"]);
        !routes.contains("10.70.") && !routes.contains("fd00:70:")
    });
    two.wait_well();
    // What would cut everybody from etcd or from a node is refused.
    refused(one, "network add wide --subnet 198.18.0.0/15", "holds 198.18.");
}

fn settings_are_everybodys(one: &ClusterMember, two: &ClusterMember) {
    done(two, "network set back --inbound any --mtu 1400");
    done(one, "network set default --mtu 1350");
    for node in [one, two] {
        wait::until("settings come", || {
            let listed = said(node, "network ls").0;
            let row = |name: &str| listed.lines().find(|row| row.starts_with(name)).unwrap_or_default();
            row("back").contains("any") && row("back").contains("1400") && row("default").contains("1350")
        });
    }
}

/// It has the name of one that a node knew when its agent died, and other blocks.
fn etcd_a_network_takes_the_place_of_one_that_has_gone(family: Family) {
    let mut cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    done(one, "network add back --subnet 10.70.0.0/16 --subnet fd00:70::/48 --block-length-v4 27");
    wait::until("the other node has it", || said(two, "network ls").0.contains("back"));
    cluster.nodes[1].kill();
    let one = &cluster.nodes[0];
    done(one, "network rm back");
    done(one, "network add back --subnet 10.70.0.0/16 --subnet fd00:70::/48 --block-length-v4 28");
    cluster.nodes[1].restart();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let a = joined(one, "a", "back");
    wait::until("it takes the new one over", || said(two, "pod add b --network back").1);
    let b = netpath_pod(two, "b");
    wait::until("the ways are there", || ping(&a.netns, &[], address(&b, &family)).contains("ttl=62"));
    let own = |node: &ClusterMember| node.blocks().into_iter().any(|block| block.prefix_len() == 28);
    wait::until("both tell of it", || own(one) && own(two));
}

fn etcd_vxlan_for_one_network_and_direct_routes_for_another(family: Family) {
    let cluster = Cluster::start_with(2, "backend = \"direct\"");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    done(one, "network add far --subnet 10.71.0.0/16 --subnet fd00:71::/48 --backend vxlan");
    wait::until("the other node has it", || said(two, "network ls").0.contains("far"));
    let (a, b) = (joined(one, "a", "far"), joined(two, "b", "far"));
    let (c, d) = (one.named("c"), two.named("d"));
    wait::until("both ways lead there", || {
        let backends = |node: &ClusterMember| {
            node.known().into_iter().filter_map(|other| other.backend).collect::<Vec<_>>()
        };
        backends(one) == ["direct,vxlan"] && backends(two) == ["direct,vxlan"]
    });
    let route = |pod: &LabPod| {
        let flag = if family.is_v4() { "-4" } else { "-6" };
        one.run("ip", &[flag, "route", "get", &address(pod, &family).to_string()])
    };
    wait::until("routes follow", || route(&b).contains("vxlan") && route(&d).contains("up0"));
    for (from, to) in [(&a, &b), (&b, &a), (&c, &d), (&d, &c), (&a, &d), (&c, &b)] {
        will_reach(from, to, &family);
        assert_eq!(datagram(&from.netns, &to.netns, address(to, &family)).ip(), address(from, &family));
    }
    let mtu = |pod: &LabPod| netpath_tests::node::run_in(&pod.netns, "ip", &["-o", "link", "show", "eth0"]);
    assert!(mtu(&a).contains("mtu 1450"), "{}", mtu(&a));
    assert!(mtu(&c).contains("mtu 1500"), "{}", mtu(&c));
    // Back to the cluster's own way, while it runs.
    done(two, "network set far --backend direct");
    wait::until("no tunnel is left", || route(&b).contains("up0"));
    // Node by node: who is behind refuses what comes by the other way.
    let answered = || ping(&a.netns, &[], address(&b, &family)).contains("ttl=62");
    wait::until("both nodes have gone over", answered);
    [one, two].into_iter().for_each(ClusterMember::wait_well);
}
