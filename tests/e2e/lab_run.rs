//! `netpath lab run`: what `cargo xtask run` runs.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use netpath_tests::{
    namespace::isolate,
    node::{PATIENCE, binary, unpacked},
    wait,
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A machine of its own as far as files go: the lab writes below /run and /var/lib, and both are empty here.
fn machine() {
    isolate();
    mount(Some("netpath-test"), "/var/lib", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
}

/// `netpath lab`, with etcd and BIRD where tests have them.
fn command(arguments: &[&str]) -> Command {
    let servers = [unpacked("etcd-server", "etcd"), unpacked("bird2", "bird")];
    let mut path: Vec<_> = servers.iter().filter_map(|server| server.parent()).map(Path::to_owned).collect();
    path.extend(std::env::split_paths(&std::env::var_os("PATH").expect("PATH")));
    let mut command = Command::new(binary());
    command.arg("lab").args(arguments).env("PATH", std::env::join_paths(path).expect("PATH"));
    command
}

fn lab(arguments: &[&str]) -> Output {
    command(arguments).output().expect("netpath lab")
}

/// What a program has printed.
fn document(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{errors}"))
}

/// Removes whatever is left of a lab, however a test ends.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        lab(&["down"]);
    }
}

/// Files a lab may leave.
fn left() -> Vec<String> {
    let instances = ["lab", "lab1", "lab2", "lab3"];
    let dirs =
        instances.iter().flat_map(|one| [format!("/run/netpath/{one}"), format!("/var/lib/netpath/{one}")]);
    dirs.chain(["/run/netpath-lab/lab.json".to_owned()]).filter(|path| Path::new(path).exists()).collect()
}

/// Processes that the lab has written down and that still run, by name and number.
fn processes() -> Vec<(String, u64)> {
    let state = std::fs::read_to_string("/run/netpath-lab/lab.json").unwrap_or_default();
    let state: Value = serde_json::from_str(&state).unwrap_or_default();
    let others = state["others"].as_array().into_iter().flatten();
    others.filter_map(|one| Some((running(one["pid"].as_u64()?)?, one["pid"].as_u64()?))).collect()
}

/// The name of a process; none if it has ended.
fn running(pid: u64) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let name = status.lines().next()?.strip_prefix("Name:")?.trim().to_owned();
    (!status.contains("State:\tZ")).then_some(name)
}

#[test]
fn lab_run_once_prints_one_document_in_which_all_is_well() {
    machine();
    let output = lab(&["run", "--once", "-o", "json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let document = document(&output);
    let checks = document["checks"].as_array().expect("checks");
    assert!(checks.len() >= 14, "{} checks", checks.len());
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty() && output.status.success(), "{failed:#?}\n{errors}");
    let rows = document["latency"].as_array().expect("latency");
    for (mode, path) in [
        ("direct", "pod-pod"),
        ("bridge", "pod-pod"),
        ("netpath", "pod-pod"),
        ("bridge", "pod-outside"),
        ("netpath", "pod-outside"),
    ] {
        for protocol in ["tcp", "udp"] {
            let row = rows.iter().find(|row| {
                (&row["mode"], &row["path"], &row["protocol"])
                    == (&mode.into(), &path.into(), &protocol.into())
            });
            let row = row.unwrap_or_else(|| panic!("{mode} {path} {protocol} in {rows:#?}"));
            assert!(row["median_us"].as_f64() > Some(0.0), "{row}");
            assert_eq!(row["ratio_direct"].is_null(), path == "pod-outside", "{row}");
        }
    }
    assert!(left().is_empty(), "{:?}", left());
}

#[test]
fn lab_that_crashed_is_removed_by_lab_down() {
    machine();
    let _down = Down;
    let mut run =
        Command::new(binary()).args(["lab", "run", "--once"]).stdout(Stdio::null()).spawn().expect("lab run");
    let deadline = Instant::now() + PATIENCE;
    while !Path::new("/run/netpath/lab/agent.sock").exists() {
        assert!(
            Instant::now() < deadline && run.try_wait().unwrap().is_none(),
            "the lab's agent does not come up"
        );
        wait::rest();
    }
    kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    assert!(!left().is_empty(), "a crash leaves something to remove");
    let down = lab(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert!(left().is_empty(), "{:?}", left());
    let again = lab(&["down"]);
    assert!(again.status.success() && String::from_utf8_lossy(&again.stdout).contains("no lab"), "{again:?}");
}

/// Three nodes on two links: those on one link reach each other by direct routes, the others by VXLAN; outside reaches all
/// pods by what BIRD has told the router.
#[test]
fn lab_run_joins_three_nodes_by_etcd_with_direct_routes_vxlan_and_bird_ipv4_and_ipv6() {
    machine();
    let _down = Down;
    let output = lab(&["up", "--nodes", "3", "--subnets", "2", "--bgp", "-o", "json"]);
    let document = document(&output);
    let checks = document["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(failed.is_empty() && output.status.success(), "{failed:#?}\n{errors}");
    let named = |name: &str| checks.iter().filter(|check| check["name"] == name).count();
    // The first and the third node are on one link.
    for (from, to, backend) in [(1, 2, "vxlan"), (1, 3, "direct"), (2, 3, "vxlan")] {
        for (from, to) in [(from, to), (to, from)] {
            let (from, to) = (format!("lab{from}"), format!("lab{to}"));
            for check in
                ["ICMP", "TCP 1 MB", "UDP 1 byte", "ICMP, ipv6", "TCP 1 MB, ipv6", "UDP 1 byte, ipv6"]
            {
                let name = format!("{from} → {to}, {check}");
                assert_eq!(named(&name), 1, "{name}");
            }
            assert_eq!(way(&from, &to), backend, "{from} → {to}");
            let rows = document["latency"].as_array().expect("latency").iter();
            let rows = rows.filter(|row| row["from"] == *from && row["to"] == *to);
            let rows: Vec<_> = rows.map(|row| (&row["mode"], &row["path"], &row["protocol"])).collect();
            let mode = Value::from(format!("netpath-{backend}"));
            let all = ["tcp", "udp", "icmp"].map(Value::from);
            let path = Value::from("pod-pod-remote");
            let want: Vec<_> = all.iter().map(|protocol| (&mode, &path, protocol)).collect();
            assert!(want.iter().all(|row| rows.contains(row)) && rows.len() == 3, "{rows:?}");
        }
    }
    for name in
        ["outside → lab2, by BGP, TCP", "outside → lab2, by BGP, TCP, ipv6", "lab2 → outside, TCP, ipv6"]
    {
        assert_eq!(named(name), 1, "{name}");
    }
    let down = lab(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert!(left().is_empty(), "{:?}", left());
}

/// How a node says that it sends to another.
fn way(from: &str, to: &str) -> String {
    let output = Command::new(binary()).args(["--instance", from, "node", "ls", "-o", "json"]).output();
    let nodes = document(&output.expect("netpath node ls"));
    let other = nodes.as_array().into_iter().flatten().find(|node| node["name"] == to);
    other.and_then(|node| node["backend"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn lab_of_nodes_that_crashed_is_removed_with_its_etcd() {
    machine();
    let _down = Down;
    let mut run = command(&["run", "--nodes", "2", "--once"]).stdout(Stdio::null()).spawn().expect("lab run");
    let all = || ["etcd", "etcd", "etcd", "netpath", "netpath"].map(str::to_owned);
    let names = |found: &[(String, u64)]| found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let mut found = Vec::new();
    wait::until("etcd and both agents run", || {
        found = processes();
        let ended = run.try_wait().expect("lab run");
        assert!(ended.is_none(), "lab run has ended: {ended:?}");
        names(&found) == all() && Path::new("/run/netpath/lab2/agent.sock").exists()
    });
    kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    assert_eq!(names(&processes()), all(), "a crash leaves something to remove");
    let down = lab(&["down"]);
    assert!(down.status.success(), "{down:?}");
    let still: Vec<_> = found.iter().filter(|(name, pid)| running(*pid).as_ref() == Some(name)).collect();
    assert!(left().is_empty() && still.is_empty(), "{:?} {still:?}", left());
}

#[test]
fn lab_run_without_etcd_says_what_to_install() {
    machine();
    let _down = Down;
    let output = command(&["run", "--nodes", "1", "--once"]).env("PATH", "/nonexistent").output();
    let output = output.expect("netpath lab");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("etcd-server"), "{output:?}");
    assert!(left().is_empty(), "{:?}", left());
}
