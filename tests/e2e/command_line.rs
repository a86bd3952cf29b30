//! Exit statuses and errors (DESIGN.md, "Command line"), and commands against a real agent.

use std::process::{Command, Output};

use netpath::net::Netns;
use netpath_tests::node::{Node, binary};
use serde_json::Value;

fn netpath(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("netpath")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn exit_statuses() {
    netpath_tests::namespace::isolate();
    let rows = [
        (vec!["--version"], 0, ""),
        (vec!["pod"], 2, "Usage"),
        (vec!["nonsense"], 2, "nonsense"),
        (vec!["--instance", "../x", "status"], 2, "instance"),
        (vec!["--instance", "nobody-there", "status"], 3, "agent"),
        (vec!["--instance", "nobody-there", "pod", "add", "web"], 3, "try:"),
        (vec!["agent", "run", "--block", "10.61.0.1/24"], 2, "10.61.0.0/24"),
        (vec!["agent", "run", "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
    ];
    for (arguments, status, word) in rows {
        let output = netpath(&arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(word), "{arguments:?}: {}", errors(&output));
    }
}

#[test]
fn without_root_it_says_so() {
    let bin = binary();
    let readable = tempfile::tempdir().unwrap();
    let copy = readable.path().join("netpath");
    std::fs::copy(&bin, &copy).unwrap();
    std::os::unix::fs::chown(readable.path(), Some(65534), Some(65534)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["agent", "run"])
        .output()
        .expect("setpriv");
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(errors(&output).contains("root"), "{}", errors(&output));
}

#[test]
fn commands_against_an_agent() {
    let node = Node::start("");
    let json = |arguments: &[&str]| -> Value {
        let output = node.netpath(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    let added = node.netpath(&["pod", "add", "web", "--label", "app=shop"]);
    assert!(added.status.success(), "{}", errors(&added));
    let pods = json(&["pod", "ls"]);
    assert_eq!(
        (&pods[0]["name"], &pods[0]["addresses"][0], &pods[0]["state"]),
        (&"web".into(), &"10.61.0.1".into(), &"ready".into())
    );
    let pod_ns = Netns::open(pods[0]["netns"].as_str().unwrap().as_ref()).expect("ip netns sees it");
    assert!(netpath_tests::node::run_in(&pod_ns, "ip", &["route"]).contains("default via 169.254.1.1"));
    let exec = node.netpath(&["pod", "exec", "web", "--", "ping", "-c", "1", "-W", "1", "198.18.1.2"]);
    assert!(exec.status.success(), "{}", String::from_utf8_lossy(&exec.stdout));
    let flows = json(&["flow", "ls", "--pod", "web"]);
    assert_eq!(
        (&flows[0]["protocol"], &flows[0]["translated_source"]),
        (&"icmp".into(), &"198.18.0.2".into())
    );
    assert_eq!(json(&["network", "ls"])[0]["subnets"][0], "10.61.0.0/24");
    assert_eq!(json(&["drop", "ls"]), Value::Array(vec![]), "a clean run drops nothing");
    let status = json(&["status"]);
    assert_eq!(
        (&status["pods"], status["problems"].as_array().map(Vec::len)),
        (&1.into(), Some(0)),
        "{status}"
    );
    let programs: Vec<_> =
        status["programs"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(programs.len(), 4, "{programs:?}");
    assert_eq!(node.netpath(&["pod", "add", "web"]).status.code(), Some(1), "it exists");
    assert!(node.netpath(&["pod", "rm", "web"]).status.success());
    assert_eq!(json(&["pod", "ls"]), Value::Array(vec![]));
}

#[test]
fn networks_from_the_command_line_ipv4_and_ipv6() {
    let node = Node::start("");
    let run = |line: &str| node.netpath(&line.split(' ').collect::<Vec<_>>());
    let well = |line: &str| {
        let output = run(line);
        assert!(output.status.success(), "{line}: {}", errors(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let refused = |line: &str, status: i32, word: &str| {
        let output = run(line);
        assert_eq!(output.status.code(), Some(status), "{line}: {}", errors(&output));
        assert!(errors(&output).contains(word), "{line}: {}", errors(&output));
    };
    well("network add back --subnet 10.62.0.0/24 --subnet fd00:62::/64 --masquerade no");
    refused("network add back --subnet 10.63.0.0/24", 1, "network 'back' exists already");
    refused("network add more --subnet 10.62.0.0/16", 1, "overlaps 10.62.0.0/24 of the network 'back'");
    refused("network add more --subnet 198.18.0.0/24", 1, "198.18.0.2, an address of up0");
    refused("network add more --subnet 10.63.0.1/24", 2, "write 10.63.0.0/24");
    refused("network add more --subnet ten", 2, "invalid value");
    refused("network set back --masquerade perhaps", 2, "write yes or no");
    refused("network rm default", 2, "every node's");
    well("pod add web --network default --network back --no-masquerade --allow-address 203.0.113.80");
    refused("network rm back", 1, "network 'back' has 1 pods");
    let set = well("network set default --no-masquerade 192.168.0.0/16 --no-masquerade fd00::/8 --mtu 1400");
    assert!(set.contains("yes, not to 192.168.0.0/16,fd00::/8") && set.contains("1400"), "{set}");
    let pods: Value = serde_json::from_str(&well("pod ls -o json")).expect("json");
    let interfaces = &pods[0]["interfaces"];
    assert_eq!(interfaces[1]["name"], "eth1");
    assert_eq!(interfaces[1]["addresses"], serde_json::json!(["10.62.0.1", "fd00:62::1"]));
    assert_eq!((&pods[0]["mtu"], &pods[0]["network"]), (&1400.into(), &"default".into()));
    assert_eq!(pods[0]["interface"], interfaces[0]["interface"]);
    well("pod rm web");
    well("network rm back");
    let left: Value = serde_json::from_str(&well("network ls -o json")).expect("json");
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left[0]["no_masquerade"], serde_json::json!(["192.168.0.0/16", "fd00::/8"]));
}
