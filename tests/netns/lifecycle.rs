//! Adding and removing pods: errors say what is wrong and change nothing (invariant 8).

use netpath::api::{
    client::ClientError,
    types::{FailureCode, PodAdd},
};
use netpath_tests::{
    for_both_families,
    kernel::lacks,
    node::{Node, PATIENCE, UNUSED, add_address, run_in},
    scene::Family,
    side::Side,
    tidy::settled,
    wait,
};

for_both_families!(
    a_spoofing_pod_reaches_nobody_and_is_named,
    programs_removed_by_somebody_else_come_back,
    an_interface_removed_by_somebody_else_comes_back,
);

fn add(name: &str) -> PodAdd {
    PodAdd { name: name.into(), ..PodAdd::default() }
}

/// What of the node pods may change.
fn picture(node: &Node) -> String {
    let netns = &node.topology.node.netns;
    let links = run_in(netns, "ip", &["-o", "link"]);
    let names: Vec<_> = links.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    let routes = run_in(netns, "ip", &["route", "show", "table", "all"]);
    let neighbours = run_in(netns, "ip", &["neigh", "show", "nud", "permanent"]);
    let spaces = run_in(netns, "ls", &["/run/netns"]);
    let pins = run_in(netns, "find", &["/sys/fs/bpf"]);
    format!("{names:?}\n{routes}\n{neighbours}\n{spaces}\n{pins}")
}

#[test]
fn what_is_refused_changes_nothing() {
    let node = Node::start("");
    node.pod("a");
    // The kernel gives the link its own address a moment after it is up.
    wait::until("the host end has its address", || picture(&node).contains("anycast fe80:: dev "));
    settled(&node);
    let before = picture(&node);
    let rows = [
        (add("a"), FailureCode::Conflict, "exists"),
        (add("a/b"), FailureCode::Invalid, "letters"),
        (
            PodAdd { addresses: vec!["10.61.0.1".parse().unwrap()], ..add("b") },
            FailureCode::Conflict,
            "that of the pod 'a'",
        ),
        (
            PodAdd { addresses: vec!["192.0.2.1".parse().unwrap()], ..add("b") },
            FailureCode::Invalid,
            "10.61.0",
        ),
        (PodAdd { networks: vec!["nowhere".into()], ..add("b") }, FailureCode::NotFound, "network"),
        (PodAdd { mac: Some("01:00:5e:00:00:01".into()), ..add("b") }, FailureCode::Invalid, "group"),
    ];
    for (wanted, code, word) in rows {
        match node.runtime.block_on(node.client.pod_add(&wanted)) {
            Err(ClientError::Refused(failure)) => {
                assert_eq!(failure.code, code, "{wanted:?}: {failure:?}");
                assert!(failure.message.contains(word), "{wanted:?}: {failure:?}");
            }
            other => panic!("{wanted:?}: {other:?}"),
        }
        assert_eq!(picture(&node), before, "{wanted:?}");
    }
}

#[test]
fn a_failure_in_the_middle_undoes_every_step_and_releases_the_address() {
    let node = Node::start("");
    // The namespace is there but not one: found after the address is taken.
    std::fs::write("/mnt/no-namespace", "").unwrap();
    // The pod's interface name is taken: found after the namespace is open.
    let taken = netpath::net::Netns::create("/run/netns/taken".as_ref()).unwrap();
    run_in(&taken, "ip", &["link", "add", "eth0", "type", "bridge"]);
    let before = picture(&node);
    for netns in ["/mnt/no-namespace", "/run/netns/nowhere", "/run/netns/taken"] {
        let wanted = PodAdd { netns: Some(netns.into()), addresses: vec![UNUSED.into()], ..add("x") };
        let error = node.runtime.block_on(node.client.pod_add(&wanted)).expect_err(netns);
        println!("{netns}: {error}");
        assert_eq!(picture(&node), before, "{netns}");
    }
    // The address is routed elsewhere: found after the pod's own namespace has been made.
    let elsewhere = format!("{UNUSED}/32");
    let node_ns = &node.topology.node.netns;
    run_in(node_ns, "ip", &["route", "add", &elsewhere, "dev", "up0"]);
    let routed = picture(&node);
    let wanted = PodAdd { addresses: vec![UNUSED.into()], ..add("x") };
    println!("{}", node.runtime.block_on(node.client.pod_add(&wanted)).expect_err("routed elsewhere"));
    assert_eq!(picture(&node), routed, "routed elsewhere");
    run_in(node_ns, "ip", &["route", "del", &elsewhere, "dev", "up0"]);
    let pod = node.add(&wanted);
    assert_eq!(pod.addresses[0], std::net::IpAddr::from(UNUSED), "the address is free again");
    node.runtime.block_on(node.client.pod_rm("x")).unwrap();
    assert_eq!(picture(&node), before);
    assert!(
        matches!(node.runtime.block_on(node.client.pod_rm("x")), Err(ClientError::Refused(f)) if f.code == FailureCode::NotFound)
    );
}

fn a_spoofing_pod_reaches_nobody_and_is_named(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let forged = side.nobody.to_string();
    add_address(&a.netns, side.nobody, "lo");
    let target = side.address(&b).to_string();
    for to in [&target, &side.outside.to_string()] {
        let out = run_in(&a.netns, "ping", &["-c", "2", "-i", "0.01", "-W", "1", "-I", &forged, to]);
        assert!(out.contains("100% packet loss"), "{out}");
    }
    assert!(node.drops("SpoofedSource") >= 4);
    let own = run_in(&a.netns, "ping", &["-c", "1", "-W", "1", &target]);
    assert!(own.contains(" 0% packet loss"), "{own}");
    assert!(own.contains("ttl=63"), "one hop: {own}");
}

/// Waits until a pod reaches outside.
fn wait_reached(node: &Node, pod: &str, side: &Side) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let path = format!("/run/netns/{pod}");
        let netns = netpath::net::Netns::open(path.as_ref()).expect("namespace");
        let said = run_in(&netns, "ping", &["-c", "1", "-W", "1", &side.outside.to_string()]);
        if said.contains(" 0% packet loss") {
            return;
        }
        let status = node.runtime.block_on(node.client.status()).expect("status");
        assert!(std::time::Instant::now() < deadline, "{said}\n{:?}", status.problems);
    }
}

/// Filters have no pins: `reconcile::pods` removes those.
fn programs_removed_by_somebody_else_come_back(family: Family) {
    if lacks((6, 6), "tcx") {
        return;
    }
    let side = Side::of(&family);
    let node = Node::start("[datapath]\nattach = \"tcx\"");
    node.pod("a");
    wait_reached(&node, "a", &side);
    let programs = |node: &Node| node.runtime.block_on(node.client.status()).expect("status").programs;
    let before = programs(&node);
    // The last reference to a tcx link is its pin: the kernel detaches at once.
    let pins = ["/sys/fs/bpf/netpath/default", "-path", "*link*", "-type", "f", "-delete"];
    run_in(&node.topology.node.netns, "find", &pins);
    assert!(programs(&node).len() < before.len(), "nothing was removed: the pins are elsewhere");
    let deadline = std::time::Instant::now() + PATIENCE;
    while programs(&node).len() < before.len() {
        assert!(std::time::Instant::now() < deadline, "{:?}", programs(&node));
        wait::rest();
    }
    wait_reached(&node, "a", &side);
}

fn an_interface_removed_by_somebody_else_comes_back(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let pod = node.pod("a");
    wait_reached(&node, "a", &side);
    let said = run_in(&node.topology.node.netns, "ip", &["link", "del", &pod.pod.interface]);
    assert_eq!(said, "");
    wait_reached(&node, "a", &side);
    let now = node.runtime.block_on(node.client.pods()).expect("pods").remove(0);
    assert_eq!((&now.addresses, &now.mac), (&pod.pod.addresses, &pod.pod.mac), "who it was");
    assert_ne!(now.ifindex, pod.pod.ifindex);
}

/// A pod of a name comes and goes without anybody waiting for the removals, and the agent dies in the middle of one.
#[test]
fn what_nobody_waited_for_is_gone_after_a_crash() {
    let mut node = Node::start("");
    let before = picture(&node);
    for _ in 0..3 {
        for _ in 0..5 {
            node.pod("a");
            let removed = node.netpath(&["pod", "rm", "--no-wait", "a"]);
            assert!(removed.status.success(), "{removed:?}");
        }
        node.kill();
        node.restart();
        assert_eq!(picture(&node), before);
        assert!(node.runtime.block_on(node.client.pods()).expect("pods").is_empty());
    }
}

/// A namespace that vanished under its pod, and a removal asked for twice.
#[test]
fn a_pod_without_its_namespace_is_removed_and_a_second_time_is_no_harm() {
    let node = Node::start("");
    let theirs = netpath::net::Netns::create("/run/netns/theirs".as_ref()).expect("namespace");
    let before = picture(&node);
    node.add(&PodAdd { netns: Some("/run/netns/theirs".into()), ..add("a") });
    drop(theirs);
    netpath::net::Netns::delete("/run/netns/theirs".as_ref()).expect("deleted");
    node.runtime.block_on(node.client.pod_rm("a")).expect("removed");
    match node.runtime.block_on(node.client.pod_rm("a")) {
        Err(ClientError::Refused(failure)) => assert_eq!(failure.code, FailureCode::NotFound),
        other => panic!("{other:?}"),
    }
    assert_eq!(picture(&node), before.replace("theirs\n", ""), "nothing is left");
}

#[test]
fn a_pod_that_is_gone_answers_host_unreachable() {
    let node = Node::start("");
    let a = node.pod("a");
    let out = run_in(&a.netns, "ping", &["-c", "1", "-W", "2", &UNUSED.to_string()]);
    assert!(out.contains("Unreachable"), "{out}");
    let traced = run_in(&a.netns, "ping", &["-c", "1", "-t", "1", "-W", "2", "198.18.1.2"]);
    assert!(traced.contains("Time to live exceeded"), "the node is a hop: {traced}");
    let big = run_in(&a.netns, "ping", &["-c", "1", "-M", "do", "-s", "1473", "-W", "2", "198.18.1.2"]);
    assert!(big.contains("too long") || big.contains("Frag needed"), "{big}");
}
