//! The CNI plugin while the agent is away or comes back, while the engine dies, many at once, and its installation.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use netpath::net::Netns;
use netpath_tests::{
    cni::{CONFIGURATIONS, Container, PLUGINS, ask, conflist, install, said, start},
    node::Node,
    tidy, wait,
};
use serde_json::{Value, json};

use crate::cni::{namespace, pods};

/// Where the agent of [`Node`] looks for removals.
const SPOOL: &str = "/mnt/state/cni-del";

fn queued() -> Vec<PathBuf> {
    fs::read_dir(SPOOL).map_or_else(|_| Vec::new(), |files| files.flatten().map(|file| file.path()).collect())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

#[test]
fn cni_del_without_an_agent_is_done_by_the_next() {
    let mut node = Node::start("");
    let config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    ask(&node, "ADD", &config, &container).expect("added");
    node.kill();
    let error = ask(&node, "ADD", &config, &Container { interface: "eth1", ..container.clone() })
        .expect_err("no agent");
    assert_eq!(error["code"], 11, "{error}");
    for _ in 0..2 {
        assert_eq!(ask(&node, "DEL", &config, &container), Ok(Value::Null));
        assert_eq!((queued().len(), mode(&queued()[0]), mode(Path::new(SPOOL))), (1, 0o600, 0o700));
    }
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    node.restart();
    assert_eq!((pods(&node).len(), queued().len()), (0, 0), "before anybody can ask it anything");
    tidy::check(&node, &[]);

    // One that was away from the plugin's point of view only.
    let mut astray = config.clone();
    astray["socket"] = "/nowhere/agent.sock".into();
    namespace("c1");
    ask(&node, "ADD", &config, &container).expect("added");
    assert_eq!(ask(&node, "DEL", &astray, &container), Ok(Value::Null));
    wait::until("the running agent takes it up", || pods(&node).is_empty() && queued().is_empty());

    // Asked for before the next ADD: it must not hit what that makes.
    for _ in 0..5 {
        ask(&node, "DEL", &astray, &container).expect("queued");
        ask(&node, "ADD", &config, &container).expect("added");
        assert_eq!((pods(&node).len(), queued().len()), (1, 0));
    }
    tidy::check(&node, &[]);
}

#[test]
fn cni_del_that_cannot_be_queued_is_asked_for_again() {
    let mut node = Node::start("");
    let mut config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    ask(&node, "ADD", &config, &container).expect("added");
    node.kill();
    fs::create_dir_all(SPOOL).expect(SPOOL);
    fs::set_permissions(SPOOL, fs::Permissions::from_mode(0o777)).expect(SPOOL);
    let error = ask(&node, "DEL", &config, &container).expect_err("anybody could write there");
    assert_eq!(error["code"], 11, "{error}");
    fs::set_permissions(SPOOL, fs::Permissions::from_mode(0o700)).expect(SPOOL);
    fs::write(Path::new(SPOOL).join("nonsense.json"), "{").expect(SPOOL);
    assert_eq!(ask(&node, "DEL", &config, &container), Ok(Value::Null));
    // Where no agent has ever been there is nothing to remove, and nothing is left.
    config["spool"] = "/mnt/nobody/cni-del".into();
    assert_eq!(ask(&node, "DEL", &config, &container), Ok(Value::Null));
    assert!(!Path::new("/mnt/nobody").exists());
    node.restart();
    assert_eq!((pods(&node).len(), queued().len()), (0, 0));
}

#[test]
fn cni_containers_outlive_a_restart_of_the_agent() {
    let mut node = Node::start("");
    let config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    let result = ask(&node, "ADD", &config, &container).expect("added");
    node.kill();
    node.restart();
    let mut check = config.clone();
    check["prevResult"] = result.clone();
    assert_eq!(ask(&node, "CHECK", &check, &container), Ok(Value::Null));
    assert_eq!(ask(&node, "ADD", &config, &container).expect("once more"), result);
    tidy::check(&node, &[]);
    node.stop();
    node.restart();
    assert_eq!(ask(&node, "DEL", &config, &container), Ok(Value::Null));
    assert_eq!(pods(&node), []);
}

#[test]
fn cni_plugin_killed_in_the_middle_leaves_nothing_after_del() {
    let node = Node::start("");
    let config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    for round in 0..30_u64 {
        let mut child = start(&node, "ADD", &config, &container);
        // The moment is the test's subject: from before it connects until after its answer.
        std::thread::sleep(Duration::from_micros(round * 700));
        child.kill().expect("kill");
        child.wait().expect("wait");
        if round % 2 == 0 {
            ask(&node, "ADD", &config, &container).expect("an engine that tries again");
        }
        assert_eq!(ask(&node, "DEL", &config, &container), Ok(Value::Null));
        assert_eq!(pods(&node), [], "round {round}");
    }
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    tidy::check(&node, &[]);
}

#[test]
fn cni_add_that_nobody_waits_for_is_undone() {
    let node = Node::start("");
    let config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    let mut child = start(&node, "ADD", &config, &container);
    // As of an engine that is killed: the plugin goes on.
    drop(child.stdout.take());
    assert!(child.wait().expect("plugin").success());
    assert_eq!(pods(&node), []);
    ask(&node, "ADD", &config, &container).expect("added");
    ask(&node, "DEL", &config, &container).expect("removed");
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    tidy::check(&node, &[]);
}

#[test]
fn cni_port_and_addresses_of_a_namespace_that_is_gone_are_for_the_next_container_ipv4_and_ipv6() {
    let node = Node::start("");
    let mut config = install(&node, "default");
    config["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "ips": ["10.61.0.77/24", "fd00:61::77/64"],
    });
    let add = |id| ask(&node, "ADD", &config, &Container::new(id));
    for id in ["c1", "c2"] {
        namespace(id);
    }
    add("c1").expect("added");
    let refused = add("c2").expect_err("c1 is there");
    let own = format!("netpath pod rm {}", pods(&node)[0].name);
    assert!(refused["code"] == 101 && refused["details"].to_string().contains(&own), "{refused}");
    // Its engine has been killed, and forgets it.
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    let result = add("c2").expect("nobody else has its port and addresses");
    assert_eq!((&result["ips"][0]["address"], pods(&node).len()), (&json!("10.61.0.77/32"), 1), "{result}");
    for id in ["c1", "c2"] {
        assert_eq!(ask(&node, "DEL", &config, &Container::new(id)), Ok(Value::Null));
    }
    Netns::delete(Path::new("/run/netns/c2")).expect("namespace");
    tidy::check(&node, &[]);
}

#[test]
fn cni_gives_addresses_of_another_ipam_back_without_an_agent() {
    let mut node = Node::start("");
    let mut config = install(&node, "default");
    let data = Path::new("/mnt/host-local");
    config["ipam"] = json!({"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.61.0.0/24"}]]});
    let held = || {
        let files = fs::read_dir(data.join("netpath")).into_iter().flatten().flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count()
    };
    for id in ["c1", "c2"] {
        namespace(id);
    }
    ask(&node, "ADD", &config, &Container::new("c1")).expect("added");
    assert_eq!(held(), 1);
    node.kill();
    ask(&node, "ADD", &config, &Container::new("c2")).expect_err("no agent");
    assert_eq!(held(), 1, "only the first one's");
    ask(&node, "DEL", &config, &Container::new("c1")).expect("queued");
    assert_eq!((held(), queued().len()), (0, 1));
    node.restart();
    let result = ask(&node, "ADD", &config, &Container::new("c2")).expect("the address is free again");
    assert_eq!((held(), pods(&node).len()), (1, 1), "{result}");
    ask(&node, "DEL", &config, &Container::new("c2")).expect("removed");
    assert_eq!((held(), pods(&node).len()), (0, 0));
}

#[test]
fn cni_install_and_uninstall() {
    let mut node = Node::start("");
    let plugin = Path::new(PLUGINS[0]).join("netpath-cni");
    let list = Path::new(CONFIGURATIONS).join("10-netpath.conflist");
    for _ in 0..2 {
        install(&node, "default");
        assert_eq!((mode(&plugin), mode(&list)), (0o755, 0o644));
    }
    let conflist = conflist("netpath");
    assert_eq!(
        conflist["plugins"][0]["spool"], SPOOL,
        "this agent's state is not where it usually is: {conflist}"
    );
    assert_eq!(
        conflist["plugins"][0]["capabilities"],
        json!({"ips": true, "mac": true, "aliases": true, "dns": true, "portMappings": true, "bandwidth": true})
    );
    let run = |arguments: &[&str]| {
        let output = node.netpath(arguments);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    fs::write(Path::new(CONFIGURATIONS).join("10-theirs.conflist"), "{}").expect("conflist");
    let theirs =
        ["cni", "install", "--cni-dir", PLUGINS[0], "--conf-dir", CONFIGURATIONS, "--name", "theirs"];
    let (status, said) = run(&theirs);
    assert!(status == Some(1) && said.contains("another plugin"), "{said}");
    assert_eq!(run(&["cni", "install", "--name", "a/b"]).0, Some(2));
    fs::remove_file(Path::new(CONFIGURATIONS).join("10-theirs.conflist")).expect("conflist");

    let (status, said) = run(&["cni", "uninstall"]);
    assert!(status == Some(0) && said.contains(list.to_str().unwrap()), "{said}");
    assert!(!Path::new("/mnt/cni").exists(), "directories that were made go as well");
    assert_eq!(run(&["cni", "uninstall"]).0, Some(0));

    install(&node, "default");
    namespace("c1");
    ask(&node, "ADD", &install(&node, "default"), &Container::new("c1")).expect("added");
    node.kill();
    fs::create_dir(SPOOL).expect(SPOOL);
    assert_eq!(node.netpath(&["uninstall"]).status.code(), Some(0));
    assert!(!Path::new("/mnt/cni").exists() && !Path::new("/mnt/state").exists());
    node.restart();
    install(&node, "default");
    assert_eq!(node.netpath(&["uninstall"]).status.code(), Some(0), "by the running agent");
    assert!(!Path::new("/mnt/cni").exists());
}

#[test]
fn cni_plugin_needs_no_library_but_libc() {
    netpath_tests::namespace::isolate();
    let plugin = netpath_tests::node::binary().with_file_name("netpath-cni");
    let libraries = Command::new("ldd").arg(&plugin).output().expect("ldd");
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for line in libraries.lines() {
        let own = ["linux-vdso", "libgcc_s", "libm.so", "libc.so", "ld-linux"]
            .iter()
            .any(|name| line.contains(name));
        assert!(own, "{line} in\n{libraries}");
    }
}

#[test]
fn cni_fifty_containers_at_once() {
    let node = Node::start("");
    let config = install(&node, "default");
    let ids: Vec<String> = (0..50).map(|number| format!("c{number}")).collect();
    let containers: Vec<_> = ids.iter().map(|id| Container::new(id)).collect();
    for id in &ids {
        namespace(id);
    }
    let all = |command: &str| {
        let running: Vec<_> =
            containers.iter().map(|container| start(&node, command, &config, container)).collect();
        running
            .into_iter()
            .map(|child| said(&child.wait_with_output().expect("plugin")).expect(command))
            .collect::<Vec<_>>()
    };
    let results = all("ADD");
    let mut addresses: Vec<_> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 50);
    tidy::check(&node, &[]);
    all("DEL");
    assert_eq!(pods(&node), []);
}
