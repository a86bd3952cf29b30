//! Invariant 5: what netpath put on a node it can remove, and the node is as it was.

use std::time::Instant;

use netpath::{
    api::types::PodAdd,
    lab::checks::LabPod,
    net::{Netns, sysctl},
};
use netpath_tests::{
    node::{Node, PATIENCE, run_in},
    sysctls,
};

/// Waits until the kernel has made sure that the link-local addresses are its own (RFC 4862), and added their routes:
/// a second or more after an interface came up.
fn settle(netns: &Netns) {
    let deadline = Instant::now() + PATIENCE;
    while run_in(netns, "ip", &["address", "show", "tentative"]).contains("inet6") {
        assert!(Instant::now() < deadline, "an address stays tentative");
        netpath_tests::wait::rest();
    }
}

/// Everything of a node that netpath could touch.
fn picture(netns: &Netns) -> Vec<(&'static str, String)> {
    let show = |program, arguments: &[&str]| run_in(netns, program, arguments);
    let rows = vec![
        ("links", show("ip", &["-o", "link"])),
        ("addresses", show("ip", &["-o", "address"])),
        ("routes", show("ip", &["route", "show", "table", "all"])),
        ("rules", show("ip", &["rule"])),
        ("neighbours", show("ip", &["neigh", "show", "nud", "permanent"])),
        ("qdiscs", show("tc", &["qdisc"])),
        ("filters", show("tc", &["filter", "show", "dev", "up0", "ingress"])),
        ("pins", show("find", &["/sys/fs/bpf"])),
        ("namespaces", show("ls", &["/run/netns"])),
        ("files", show("find", &["/mnt/state", "/run/netpath", "/var/lib/netpath"])),
        ("programs", show("bpftool", &["net", "show"])),
    ];
    rows.into_iter().map(|(name, text)| (name, text.replace("No such file or directory", "none"))).collect()
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    for (attach, earlier) in [("auto", "auto"), ("clsact", "clsact"), ("auto", "clsact"), ("clsact", "auto")]
    {
        for running in [true, false] {
            std::thread::scope(|threads| {
                threads.spawn(|| uninstall(attach, earlier, running)).join().expect("as it was");
            });
        }
    }
}

#[test]
fn uninstall_leaves_filters_of_others_and_their_qdisc() {
    let (topology, runtime) = Node::without_agent();
    let mut node = Node::with_agent(topology, runtime, "[datapath]\nattach = \"clsact\"");
    node.wait_ready();
    let netns = &node.topology.node.netns;
    let filter = "filter add dev up0 ingress pref 77 protocol ip u32 match u32 0 0";
    assert_eq!(run_in(netns, "tc", &filter.split(' ').collect::<Vec<_>>()), "");
    node.runtime.block_on(node.client.uninstall()).expect("uninstalled");
    let left = run_in(netns, "tc", &["filter", "show", "dev", "up0", "ingress"]);
    assert!(left.contains("pref 77") && !left.contains("pref 1 "), "{left}");
}

fn uninstall(attach: &str, earlier: &str, running: bool) {
    let (topology, runtime) = Node::without_agent();
    settle(&topology.node.netns);
    let before = picture(&topology.node.netns);
    let by = |attach| format!("[datapath]\nattach = \"{attach}\"");
    let mut node = Node::with_agent(topology, runtime, &by(earlier));
    node.wait_ready();
    node.pod("a");
    if attach != earlier {
        node.stop();
        node.configure(&by(attach));
        node.restart();
    }
    let by_xdp = PodAdd { name: "b".into(), mode: Some("xdp".into()), ..PodAdd::default() };
    let b = LabPod::open(node.add(&by_xdp)).expect("pod");
    let denied = node.netpath(&["deny", "add", "203.0.113.0/24"]);
    assert!(denied.status.success(), "{denied:?}");
    assert_ne!(picture(&node.topology.node.netns), before, "the picture shows what netpath does");
    if running {
        node.runtime.block_on(node.client.uninstall()).expect("uninstalled");
    } else {
        drop(b);
        node.kill();
        let output = node.netpath(&["uninstall"]);
        assert!(output.status.success(), "{output:?}");
    }
    for ((name, was), (_, is)) in before.iter().zip(picture(&node.topology.node.netns)) {
        assert_eq!(*was, is, "{name} (attached by {attach}, before by {earlier}, agent running: {running})");
    }
}

const RESERVED: &str = "ipv4/ip_local_reserved_ports";
const ACCEPT_RA: &str = "ipv6/conf/up0/accept_ra";

/// Every sysctl of the node's network, over a run with pods, a restart and a crash.
#[test]
fn sysctls_are_set_narrowly_and_restored_byte_for_byte() {
    let (topology, runtime) = Node::without_agent();
    let netns = topology.node.netns.clone();
    settle(&netns);
    netns.enter(|| sysctl::write("net/ipv4/ip_local_reserved_ports", "8080,40000-40010")).unwrap().unwrap();
    let before = sysctls::read(&netns);
    assert!(before.len() > 200 && before.contains_key(ACCEPT_RA), "{} sysctls", before.len());
    let mut node = Node::with_agent(topology, runtime, "");
    node.wait_ready();
    node.pod("a");
    node.kill();
    node.restart();
    node.pod("b");
    // Of what was there before, these and nothing else: no `all`, no `default`, no other interface.
    let mut changed = sysctls::differences(&before, &sysctls::read(&netns));
    changed.retain(|key| before.contains_key(key));
    assert_eq!(changed, [RESERVED, ACCEPT_RA]);
    node.kill();
    let output = node.netpath(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    let after = sysctls::read(&netns);
    let told = |key: &String| format!("{key}: {:?} before, {:?} after", before.get(key), after.get(key));
    let changed: Vec<_> = sysctls::differences(&before, &after).iter().map(told).collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

/// What others set while netpath runs is theirs; an interface keeps its values under another name.
#[test]
fn sysctls_that_somebody_else_changed_stay_theirs() {
    let (topology, runtime) = Node::without_agent();
    let netns = topology.node.netns.clone();
    settle(&netns);
    let mut node = Node::with_agent(topology, runtime, "");
    node.wait_ready();
    node.pod("a");
    let read = |key: &'static str| netns.enter(|| sysctl::read(key)).unwrap().unwrap();
    let write = |key: &'static str, value: &'static str| {
        netns.enter(|| sysctl::write(key, value)).unwrap().unwrap();
    };
    assert_eq!(read("net/ipv6/conf/up0/accept_ra"), "2");
    write("net/ipv4/ip_local_reserved_ports", "7777,32768-49151,60000");
    node.kill();
    for line in ["link set up0 down", "link set up0 name wan", "link set wan up"] {
        assert_eq!(run_in(&netns, "ip", &line.split(' ').collect::<Vec<_>>()), "");
    }
    let output = node.netpath(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read("net/ipv4/ip_local_reserved_ports"), "7777,60000");
    assert_eq!(read("net/ipv6/conf/wan/accept_ra"), "1", "set back under its new name");
}

/// A host that judges packets by the way back (RFC 3704, strict) needs no exception for pods: netpath sets no `rp_filter`.
#[test]
fn pods_work_where_the_way_back_is_judged() {
    let (topology, runtime) = Node::without_agent();
    let netns = topology.node.netns.clone();
    for name in ["all", "default", "up0"] {
        let key = format!("net/ipv4/conf/{name}/rp_filter");
        netns.enter(|| sysctl::write(&key, "1")).unwrap().unwrap();
    }
    let mut node = Node::with_agent(topology, runtime, "");
    node.wait_ready();
    let pods = ["a", "b", "c"].map(|name| node.pod(name)).to_vec();
    // By the host's own stack.
    let said = run_in(&pods[0].netns, "ping", &["-c", "1", "-t", "1", "-W", "2", "198.18.1.2"]);
    assert!(said.contains("Time to live exceeded"), "{said}");
    node.check_connectivity(pods);
}
