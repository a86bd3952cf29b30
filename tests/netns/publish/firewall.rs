//! Published ports that ask the node's netfilter (`datapath.firewall = "forward"`).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Output},
};

use netpath::net::{Netns, sysctl};
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::{Side, connected},
    wait,
};

use super::{PORT, SILENT, ask, curl, problems, server, stream};

for_both_families!(rules_of_the_node_say_who_may_begin,);

fn nft(node: &Node, rules: &str) {
    assert_eq!(run_in(&node.topology.node.netns, "nft", &[rules]), "", "{rules}");
}

/// An attempt that may be dropped.
fn knock(from: &Netns, to: SocketAddr) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--globoff", "--max-time", "1", &format!("http://{to}/")]);
    from.enter(|| curl.output()).expect("namespace").expect("curl")
}

/// Has the stack forward what comes by the uplink.
fn forwards(node: &Node) {
    let write = || {
        sysctl::write("net/ipv4/conf/up0/forwarding", "1").expect("sysctl");
        // Before Linux 6.17 all forward, or none.
        if sysctl::write("net/ipv6/conf/up0/force_forwarding", "1").is_err() {
            sysctl::write("net/ipv6/conf/all/forwarding", "1").expect("sysctl");
        }
    };
    node.topology.node.netns.enter(write).expect("namespace");
}

fn rules_of_the_node_say_who_may_begin(family: Family) {
    let (node, side) = (Node::start("datapath.firewall = \"forward\""), Side::of(&family));
    forward_ipv6(&node.topology.node.netns);
    let a = server(&node, &side, "a", &["8080:80", "8080:80/udp"]);
    let b = node.pod("b");
    let (to, outside) = (SocketAddr::new(side.node, PORT), &node.topology.outside.netns);
    wait::until("it is told that the stack forwards nothing", || {
        problems(&node).contains("datapath.firewall: ")
    });
    forwards(&node);
    wait::until("nothing is left to tell", || problems(&node).is_empty());
    assert_eq!(curl(outside, to), ("a".to_owned(), side.outside), "no rules");

    nft(&node, "table inet guard { chain forward { type filter hook forward priority 0; policy drop; }; }");
    assert!(!knock(outside, to).status.success(), "TCP, which nothing lets through");
    let socket = connected(outside, &side, to);
    socket.set_read_timeout(Some(SILENT)).expect("time-out");
    assert_eq!(ask(&socket), None, "UDP, which nothing lets through");
    // Nobody asks it about pods of the node, and about what pods begin.
    assert_eq!(curl(&b.netns, to), ("a".to_owned(), side.address(&b)));

    nft(&node, "add rule inet guard forward meta l4proto { tcp, udp } th dport 80 counter accept");
    assert_eq!(curl(outside, to), ("a".to_owned(), side.outside), "let through");
    socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    assert_eq!(ask(&socket), Some(("a".to_owned(), side.outside)), "let through");
    stream(outside, to);
    let listed = run_in(&node.topology.node.netns, "nft", &["list", "chain", "inet", "guard", "forward"]);
    let counted =
        listed.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::parse);
    assert!(matches!(counted, Some(Ok(1_u32..=9))), "only how each begins: {listed}");

    // What has begun goes on, whatever is decided about others.
    let mut live = outside.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
    live.set_read_timeout(Some(PATIENCE)).expect("time-out");
    nft(&node, "flush chain inet guard forward");
    assert!(!knock(outside, to).status.success(), "TCP, again");
    live.write_all(b"still there").expect("sent");
    let mut back = [0; 11];
    live.read_exact(&mut back).expect("echoed");
    assert_eq!(&back, b"still there");
    drop((live, a));
    assert_eq!(problems(&node), "");
}
