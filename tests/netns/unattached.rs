//! Pods in no network: alone, in the node's namespace, in another pod's.

use std::net::IpAddr;

use netpath::{
    api::types::{Pod, PodAdd},
    net::{Netns, sysctl},
};
use netpath_tests::{
    node::{Node, run_in},
    wait,
};

fn wanted(name: &str, network: &str) -> PodAdd {
    PodAdd { name: name.into(), networks: vec![network.into()], ..PodAdd::default() }
}

fn refused(node: &Node, wanted: &PodAdd) -> String {
    node.runtime.block_on(node.client.pod_add(wanted)).expect_err("refused").to_string()
}

fn inode(pod: &Pod) -> Option<u64> {
    Netns::open(pod.netns.as_ref()).ok().map(|netns| netns.inode())
}

fn pods(node: &Node) -> Vec<Pod> {
    node.runtime.block_on(node.client.pods()).expect("pods")
}

fn rm(node: &Node, name: &str) -> Result<(), String> {
    node.runtime.block_on(node.client.pod_rm(name)).map_err(|error| error.to_string())
}

/// A pod of each kind beside a usual one.
fn all(node: &Node) -> [Pod; 4] {
    let web = node.add(&PodAdd { name: "web".into(), ..PodAdd::default() });
    [
        web,
        node.add(&wanted("lone", "none")),
        node.add(&wanted("here", "host")),
        node.add(&wanted("side", "pod:web")),
    ]
}

#[test]
fn each_is_in_its_namespace_ipv4_and_ipv6() {
    let node = Node::start("");
    let [web, lone, host, side] = all(&node);
    assert_eq!(inode(&host), Some(node.topology.node.netns.inode()));
    assert_eq!(inode(&side), inode(&web));
    assert_eq!((&side.network[..], &side.addresses), ("pod:web", &web.addresses));
    assert!(side.interfaces.is_empty() && side.interface.is_empty(), "{side:?}");
    let alone = Netns::open(lone.netns.as_ref()).expect("namespace");
    let links = run_in(&alone, "ip", &["-br", "link"]);
    assert!(links.lines().count() == 1 && links.starts_with("lo "), "{links}");
    for address in web.addresses.iter().map(IpAddr::to_string) {
        for pod in ["here", "side", "web"] {
            let output = node.netpath(&["pod", "exec", pod, "--", "ping", "-c", "1", "-W", "3", &address]);
            assert!(output.status.success(), "{pod}: {output:?}");
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        let said = run_in(&alone, "ping", &["-c", "1", "-W", "3", loopback]);
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    // Whoever shares a namespace that is shared shares the first one's.
    let again = node.add(&wanted("again", "pod:side"));
    assert_eq!((&again.network[..], inode(&again)), ("pod:web", inode(&web)));
    assert_eq!(node.add(&wanted("other", "pod:here")).network, "host");
    assert_eq!(inode(&node.add(&wanted("pair", "pod:lone"))), inode(&lone));
    let traced = node.netpath(&["trace", "side", "node"]);
    assert!(traced.status.success(), "{traced:?}");
    let shown = String::from_utf8(node.netpath(&["pod", "ls"]).stdout).unwrap();
    assert!(shown.contains("side   pod:web"), "{shown}");
}

#[test]
fn a_pod_stays_while_others_share_its_namespace() {
    let node = Node::start("");
    let spaces = || run_in(&node.topology.node.netns, "ls", &["/run/netns"]);
    let before = spaces();
    all(&node);
    let error = rm(&node, "web").expect_err("shared");
    assert!(error.contains("its namespace is shared by side"), "{error}");
    assert!(pods(&node).iter().all(|pod| pod.state == "ready"), "{:?}", pods(&node));
    rm(&node, "side").expect("removed");
    rm(&node, "web").expect("removed");
    rm(&node, "here").expect("removed");
    rm(&node, "lone").expect("removed");
    assert_eq!(spaces(), before);
    assert!(run_in(&node.topology.node.netns, "ip", &["-br", "link"]).contains("up0"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let node = Node::start("");
    let subnets = vec!["10.62.0.0/24".parse().unwrap()];
    for name in ["none", "host"] {
        let network = netpath::api::types::NetworkAdd {
            name: name.into(),
            subnets: subnets.clone(),
            ..Default::default()
        };
        let error =
            node.runtime.block_on(node.client.network_add(&network)).expect_err("reserved").to_string();
        assert!(error.contains("the name stands for pods in no network"), "{error}");
    }
    for wanted in [
        PodAdd { addresses: vec!["10.61.0.9".parse().unwrap()], ..wanted("a", "none") },
        PodAdd { mac: Some("02:00:00:00:00:01".into()), ..wanted("a", "pod:b") },
        PodAdd { publish: vec!["8080:80".into()], ..wanted("a", "host") },
        PodAdd { mtu: Some(1400), ..wanted("a", "host") },
        PodAdd { netns: Some("/run/netns/x".into()), ..wanted("a", "none") },
    ] {
        let error = refused(&node, &wanted);
        assert!(error.contains("it has no interface of its own"), "{error}");
    }
    let two = PodAdd { networks: vec!["default".into(), "none".into()], ..wanted("a", "none") };
    assert!(refused(&node, &two).contains("it can have no other"));
    assert!(refused(&node, &wanted("a", "pod:b")).contains("pod 'b' does not exist"));
    assert!(refused(&node, &wanted("a", "pod:")).contains("is empty"));
    node.add(&wanted("lone", "none"));
    let set = node.netpath(&["pod", "set", "lone", "--publish", "8080:80"]);
    assert!(!set.status.success() && pods(&node).len() == 1, "{set:?}");
}

#[test]
fn files_come_back_and_a_restart_changes_nothing() {
    let mut node = Node::start("");
    let all = all(&node);
    let before: Vec<_> = all.iter().map(inode).collect();
    node.kill();
    node.restart();
    assert_eq!(all.iter().map(inode).collect::<Vec<_>>(), before);
    // Somebody takes two away, one of them with its file, and puts another namespace in the place of the third.
    let space = &node.topology.node.netns;
    assert_eq!(run_in(space, "umount", &[&all[2].netns]), "");
    assert_eq!(run_in(space, "ip", &["netns", "delete", "side"]), "");
    assert_eq!(run_in(space, "ip", &["netns", "delete", "lone"]), "");
    wait::until("those are what they were", || {
        [2, 3].iter().all(|at| inode(&all[*at]) == before[*at]) && inode(&all[1]).is_some()
    });
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert_eq!(status.problems, Vec::<String>::new());
    // With the node's own namespace bound there nothing of the node's goes.
    node.runtime.block_on(node.client.uninstall()).expect("uninstalled");
    assert!(!std::path::Path::new("/run/netns/here").exists());
    node.topology.node.netns.enter(|| sysctl::read("net/ipv4/conf/up0/forwarding")).unwrap().expect("up0");
}

#[test]
fn what_somebody_puts_in_the_place_of_a_file_stays() {
    let node = Node::start("");
    let all = all(&node);
    let own: Vec<_> = all.iter().map(inode).collect();
    let space = &node.topology.node.netns;
    let problems = || node.runtime.block_on(node.client.status()).expect("status").problems.join("\n");
    run_in(space, "ip", &["netns", "add", "theirs"]);
    let theirs = Netns::open("/run/netns/theirs".as_ref()).expect("namespace").inode();
    for at in [2, 3] {
        run_in(space, "mount", &["--bind", "/run/netns/theirs", &all[at].netns]);
    }
    wait::until("both are told", || {
        let told = problems();
        [2, 3].iter().all(|at| told.contains(&format!("another namespace at {}", all[*at].netns)))
    });
    assert_eq!([2, 3].map(|at: usize| inode(&all[at])), [Some(theirs); 2], "{}", problems());
    // What it says to do brings the pod's own back.
    run_in(space, "umount", &[&all[2].netns]);
    wait::until("it is well", || !problems().contains(&all[2].netns));
    assert_eq!(inode(&all[2]), own[2]);
    rm(&node, "side").expect("removed");
    assert_eq!(inode(&all[3]), Some(theirs), "it is not ours to remove");
}

#[test]
fn who_shares_a_namespace_that_is_made_again_follows() {
    let node = Node::start("");
    let [web, _, _, side] = all(&node);
    let before = inode(&web);
    run_in(&node.topology.node.netns, "ip", &["netns", "delete", "web"]);
    wait::until("both are in the new one", || {
        let now = inode(&web);
        now.is_some() && now != before && inode(&side) == now
    });
    wait::until("all is well", || {
        node.runtime.block_on(node.client.status()).expect("status").problems.is_empty()
    });
}
