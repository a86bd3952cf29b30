//! libcni, the library that engines written in Go ask plugins by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use netpath::net::Netns;
use netpath_tests::{
    cni::{CONFIGURATIONS, PLUGINS, install},
    node::Node,
    tidy,
};
use serde_json::{Value, json};

use crate::cni::{namespace, pods};

/// Builds the client from Debian's sources of libcni, once.
fn client() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/libcni/main.go");
    let program = scratch.join("libcni-client");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&source);
    go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("CGO_ENABLED", "0");
    go.env("GOCACHE", scratch.join("go-cache")).env("GOFLAGS", "-p=1");
    let output = go.output().expect("go: Debian package golang-go");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn libcni_adds_checks_and_deletes_with_and_without_its_cache() {
    let client = client();
    let node = Node::start("");
    install(&node, "default");
    // Behind netpath a reference plugin, whose result is the one that CHECK and DEL get.
    let list = Path::new(CONFIGURATIONS).join("10-netpath.conflist");
    let mut plugins: Value = serde_json::from_slice(&fs::read(&list).expect("conflist")).expect("JSON");
    let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    plugins["plugins"].as_array_mut().expect("plugins").push(tuning);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        plugins["cniVersion"] = version.into();
        fs::write(&list, plugins.to_string()).expect("conflist");
        let netns = namespace("c1");
        let ask = |command: &str, cache: &str, netns: &str| {
            let mut run = Command::new(&client);
            run.args([command, &PLUGINS.join(":"), CONFIGURATIONS, cache, "netpath", "c1", netns, "eth0"]);
            let output = node.topology.node.netns.enter(|| run.output()).expect("namespace").expect("client");
            let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
            if output.status.success() { Ok(said) } else { Err(said) }
        };
        ask("validate", "/mnt/cache", "/run/netns/c1").expect(version);
        let result: Value =
            serde_json::from_str(&ask("add", "/mnt/cache", "/run/netns/c1").expect(version)).expect("JSON");
        println!("{result}");
        assert_eq!(
            (&result["cniVersion"], result["ips"].as_array().map(Vec::len)),
            (&version.into(), Some(2))
        );
        let check = || ask("check", "/mnt/cache", "/run/netns/c1");
        match version {
            "0.3.1" => assert!(check().expect_err("too old").contains("0.3.1")),
            _ => drop(check().expect(version)),
        }
        // Without what libcni kept, and without the namespace, as after a reboot.
        ask("del", "/mnt/no-cache", "").expect(version);
        assert_eq!(pods(&node), []);
        if version != "0.3.1" {
            let said = check().expect_err("it is gone");
            assert!(said.contains("no interface eth0"), "{said}");
        }
        ask("del", "/mnt/cache", "/run/netns/c1").expect("again");
        drop(netns);
        Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
        tidy::check(&node, &[]);
    }
}
