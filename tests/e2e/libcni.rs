//! libcni, the library that engines written in Go ask plugins by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use netpath::net::Netns;
use netpath_tests::{
    cni::{CONFIGURATIONS, PLUGINS, install},
    node::{Node, binary},
    tidy,
};
use serde_json::{Value, json};

use crate::cni::{add_back, namespace, pods};

/// The client; its program goes with it.
struct Client(PathBuf);

impl Client {
    /// Builds it with the Go and the libcni that `cargo xtask setup` unpacks.
    fn build() -> Self {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/libcni/main.go");
        let unpacked = binary().ancestors().nth(2).expect("target").join("xtask/libcni/usr");
        // Tests run beside each other: one of its own for each, made from one cache.
        let program = scratch.join(format!("libcni-client-{}", std::process::id()));
        let mut go = Command::new(unpacked.join("lib/go-1.24/bin/go"));
        go.args(["build", "-o"]).arg(&program).arg(&source);
        go.env("GO111MODULE", "off").env("GOPATH", unpacked.join("share/gocode")).env("CGO_ENABLED", "0");
        go.env("GOROOT", unpacked.join("lib/go-1.24")).env("GOTOOLCHAIN", "local");
        go.env("GOCACHE", scratch.join("go-cache")).env("GOFLAGS", "-p=1");
        let output = go.output().expect("go: `cargo xtask setup` unpacks it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(program)
    }

    /// Asks on a node for a network's interface eth0 of a container; what the client says.
    fn ask(&self, node: &Node, command: &str, cache: &str, of: [&str; 3]) -> Result<String, String> {
        let mut run = Command::new(&self.0);
        run.args([command, &PLUGINS.join(":"), CONFIGURATIONS, cache]).args(of).arg("eth0");
        let output = node.topology.node.netns.enter(|| run.output()).expect("namespace").expect("client");
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a network's list in a version; around netpath reference plugins, if they know it.
fn write_list(name: &str, version: &str) {
    let path = Path::new(CONFIGURATIONS).join(format!("10-{name}.conflist"));
    let mut list: Value = serde_json::from_slice(&fs::read(&path).expect("conflist")).expect("JSON");
    list["cniVersion"] = version.into();
    // libcni would take the newest of these.
    list.as_object_mut().expect("list").remove("cniVersions");
    let plugins = list["plugins"].as_array_mut().expect("plugins");
    plugins.retain(|plugin| plugin["type"] == "netpath-cni");
    // Those of Debian 12 and 13 know nothing newer than 1.0.0.
    if version < "1.1.0" {
        plugins.insert(0, json!({"type": "loopback"}));
        // Its result is the one that CHECK and DEL get.
        plugins.push(json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}));
    }
    fs::write(&path, list.to_string()).expect("conflist");
}

/// Addresses of the interface eth0 in a result, told by the result's own index.
fn addresses(result: &Value) -> usize {
    let of = |ip: &&Value| {
        let index = usize::try_from(ip["interface"].as_u64().expect("index")).expect("index");
        result["interfaces"][index]["name"] == "eth0"
    };
    result["ips"].as_array().expect("ips").iter().filter(of).count()
}

#[test]
fn libcni_adds_checks_and_deletes_with_and_without_its_cache() {
    let node = Node::start("");
    let client = Client::build();
    install(&node, "default");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        write_list("netpath", version);
        let netns = namespace("c1");
        let ask = |command: &str, cache: &str, netns: &str| {
            client.ask(&node, command, cache, ["netpath", "c1", netns])
        };
        ask("validate", "/mnt/cache", "/run/netns/c1").expect(version);
        let result: Value =
            serde_json::from_str(&ask("add", "/mnt/cache", "/run/netns/c1").expect(version)).expect("JSON");
        println!("{result}");
        assert_eq!((&result["cniVersion"], addresses(&result)), (&version.into(), 2));
        // Those of the loopback, which the plugin before netpath told.
        let all = result["ips"].as_array().map(Vec::len);
        assert_eq!(all, Some(if version < "1.1.0" { 4 } else { 2 }), "{result}");
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

#[test]
fn libcni_asks_for_status_with_an_agent_and_without() {
    let mut node = Node::start("");
    install(&node, "default");
    write_list("netpath", "1.1.0");
    let client = Client::build();
    let status = |node: &Node| client.ask(node, "status", "/mnt/cache", ["netpath", "", ""]);
    assert_eq!(status(&node), Ok(String::new()));
    node.stop();
    let said = status(&node).expect_err("no agent");
    assert!(said.starts_with("code 50: ") && said.contains("netpath agent run"), "{said}");
    node.restart();
    assert_eq!(status(&node), Ok(String::new()));
}

#[test]
fn libcni_collects_what_is_not_valid_any_more() {
    let node = Node::start("");
    let client = Client::build();
    add_back(&node);
    for (network, name) in [("default", "netpath"), ("back", "back")] {
        install(&node, network);
        write_list(name, "1.1.0");
    }
    // What libcni remembers it removes by DEL; what it has forgotten, as `lost`, only the plugin's GC does.
    let added = [
        ("valid", "netpath", "/mnt/cache"),
        ("stale", "netpath", "/mnt/cache"),
        ("lost", "netpath", "/mnt/forgotten"),
        ("other", "back", "/mnt/cache"),
    ];
    let namespaces = added.map(|(container, network, cache)| {
        let netns = namespace(container);
        let path = format!("/run/netns/{container}");
        client.ask(&node, "add", cache, [network, container, &path]).expect(container);
        netns
    });
    let left = || {
        let attachments = pods(&node).into_iter().map(|pod| pod.attachment.expect("attachment").container);
        let mut left: Vec<_> = attachments.collect();
        left.sort();
        left
    };
    assert_eq!(left(), ["lost", "other", "stale", "valid"]);
    client.ask(&node, "gc", "/mnt/cache", ["netpath", "valid", ""]).expect("collected");
    assert_eq!(left(), ["other", "valid"]);
    client.ask(&node, "check", "/mnt/cache", ["netpath", "valid", "/run/netns/valid"]).expect("as it was");
    client.ask(&node, "gc", "/mnt/cache", ["netpath", "", ""]).expect("collected");
    assert_eq!(left(), ["other"]);
    client.ask(&node, "gc", "/mnt/cache", ["back", "", ""]).expect("collected");
    assert_eq!(left(), [""; 0]);
    drop(namespaces);
    for (container, ..) in added {
        Netns::delete(Path::new(&format!("/run/netns/{container}"))).expect("namespace");
    }
    tidy::check(&node, &[]);
}
