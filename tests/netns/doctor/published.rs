//! Published ports that the node's firewall, or a socket of an engine, seems to stand before; and pods that their engine has forgotten.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
};

use netpath::{
    api::types::{Attachment, PodAdd},
    net::Netns,
};
use netpath_tests::{
    for_both_families,
    node::{PATIENCE, run_in},
    scene::Family,
    side::Side,
};

use super::{Break, Diagnosis, break_and_mend, healthy, shell};

for_both_families!(a_firewall_that_published_ports_pass_is_told_with_what_to_do);

fn publishing(name: &str) -> PodAdd {
    PodAdd { name: name.into(), publish: vec!["8080:80".into()], ..PodAdd::default() }
}

fn a_firewall_that_published_ports_pass_is_told_with_what_to_do(family: Family) {
    let (node, side) = (healthy(""), Side::of(&family));
    let web = node.add(&publishing("web"));
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);
    let netns = Netns::open(web.netns.as_ref()).expect("namespace");
    let _server = netns.enter(|| TcpListener::bind((side.any(), 80))).expect("namespace").expect("server");
    let connect = || {
        let to = SocketAddr::new(side.node, 8080);
        node.topology.outside.netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("namespace")
    };
    let case = Break {
        check: "firewall-published",
        // Neighbours are asked for all the same.
        by: "nft add table inet fw && nft add chain inet fw in '{ type filter hook input priority 0; policy drop; }' && \
             nft add rule inet fw in meta l4proto ipv6-icmp accept",
        status: "warning",
        advice: "`netpath deny add PREFIX` keeps PREFIX out",
        fixes: 1,
        also: &[],
    };
    shell(&node, case.by);
    connect().expect("the firewall does not see it, as the warning says");
    shell(&node, "nft delete table inet fw");
    break_and_mend(&node, &case, &[]);
    shell(&node, "nft insert rule inet fw in tcp dport 8080 drop");
    assert_eq!(Diagnosis::of(&node).red(), ["firewall-published"], "a rule about that very port");
    // Who publishes for the node alone has no need of it.
    let change = ["pod", "set", "web", "--unpublish", "8080:80", "--publish", "127.0.0.1:8080:80"];
    assert!(node.netpath(&change).status.success());
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);
}

#[test]
fn a_socket_of_the_node_that_others_would_meet_in_place_of_a_pod_is_told() {
    let node = healthy("");
    node.add(&publishing("web"));
    Netns::create(Path::new("/run/netns/beside")).expect("namespace");
    let own = &node.topology.node.netns;
    for line in [
        "link add beside0 type veth peer eth0 netns beside",
        "link set beside0 up",
        "address add 10.9.0.1/24 dev beside0",
    ] {
        run_in(own, "ip", &line.split(' ').collect::<Vec<_>>());
    }
    let diagnosis = Diagnosis::of(&node);
    assert_eq!(diagnosis.status("published-ports"), "ok", "{}", diagnosis.row("published-ports"));
    let engine =
        own.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080))).expect("namespace").expect("socket");
    let diagnosis = Diagnosis::of(&node);
    let row = diagnosis.row("published-ports");
    assert_eq!(diagnosis.red(), ["published-ports"], "{row}");
    let seen = row["seen"].as_str().expect("words");
    assert!(
        seen.contains("by beside0 to 8080:80/tcp meets a socket of the node (0.0.0.0:8080), not pod web"),
        "{row}"
    );
    drop(engine);
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);
}

#[test]
fn a_pod_that_its_engine_has_forgotten_is_told_with_what_removes_it() {
    let node = healthy("");
    let add = |container: &str| {
        let path = format!("/run/netns/{container}");
        let netns = Netns::create(path.as_ref()).expect("namespace");
        node.add(&PodAdd {
            name: format!("{container}-eth0"),
            netns: Some(path),
            attachment: Some(Attachment {
                container: container.into(),
                interface: "eth0".into(),
                network: "net".into(),
            }),
            ..PodAdd::default()
        });
        netns
    };
    let lives = add("lives");
    let mut cat = std::process::Command::new("cat");
    cat.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut process = lives.enter(|| cat.spawn()).expect("namespace").expect("cat");
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);
    drop(add("forgotten"));
    let diagnosis = Diagnosis::of(&node);
    let row = diagnosis.row("leftover-pods");
    assert_eq!(diagnosis.red(), ["leftover-pods"], "{row}");
    assert!(
        row["seen"].as_str().is_some_and(
            |seen| seen.contains("no process is in pod forgotten-eth0") && !seen.contains("lives")
        ),
        "{row}"
    );
    assert!(diagnosis.advice("leftover-pods").starts_with("`netpath pod rm forgotten-eth0`"), "{row}");
    assert!(node.netpath(&["pod", "rm", "forgotten-eth0"]).status.success());
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);
    shell(&node, "umount --lazy /run/netns/lives");
    let row = Diagnosis::of(&node).row("leftover-pods").clone();
    process.kill().expect("killed");
    process.wait().expect("ended");
    // The file is there still, and no namespace.
    assert!(row["seen"].as_str().is_some_and(|seen| seen.contains("(/run/netns/lives) is gone")), "{row}");
}
