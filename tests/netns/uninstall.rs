//! Invariant 5: what netpath put on a node it can remove, and the node is as it was.

use std::time::Instant;

use netpath::net::Netns;
use netpath_tests::node::{Node, PATIENCE, run_in};

/// Waits until the kernel has made sure that the link-local addresses are its own (RFC 4862), and added their routes:
/// a second or more after an interface came up.
fn settle(netns: &Netns) {
    let deadline = Instant::now() + PATIENCE;
    while run_in(netns, "ip", &["address", "show", "tentative"]).contains("inet6") {
        assert!(Instant::now() < deadline, "an address stays tentative");
        std::thread::yield_now();
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
        (
            "sysctls",
            show(
                "sh",
                &[
                    "-c",
                    "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_* /proc/sys/net/ipv6/conf 2>/dev/null | sort",
                ],
            ),
        ),
        ("pins", show("find", &["/sys/fs/bpf"])),
        ("namespaces", show("ls", &["/run/netns"])),
        ("files", show("find", &["/mnt/state", "/run/netpath", "/var/lib/netpath"])),
        ("programs", show("bpftool", &["net", "show"])),
    ];
    rows.into_iter().map(|(name, text)| (name, text.replace("No such file or directory", "none"))).collect()
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    for attach in ["auto", "clsact"] {
        for running in [true, false] {
            std::thread::scope(|threads| {
                threads.spawn(|| uninstall(attach, running)).join().expect("as it was");
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

fn uninstall(attach: &str, running: bool) {
    let (topology, runtime) = Node::without_agent();
    settle(&topology.node.netns);
    let before = picture(&topology.node.netns);
    let mut node = Node::with_agent(topology, runtime, &format!("[datapath]\nattach = \"{attach}\""));
    node.wait_ready();
    node.pod("a");
    let b = node.pod("b");
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
        assert_eq!(*was, is, "{name} (attached by {attach}, agent running: {running})");
    }
}
