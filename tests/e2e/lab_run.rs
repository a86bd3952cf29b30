//! `netpath lab run`: what `cargo xtask run` runs.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use netpath_tests::{
    namespace::isolate,
    node::{PATIENCE, binary},
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

fn lab(arguments: &[&str]) -> std::process::Output {
    Command::new(binary()).arg("lab").args(arguments).output().expect("netpath lab")
}

/// Files a lab may leave.
fn left() -> Vec<&'static str> {
    ["/run/netpath/lab", "/var/lib/netpath/lab", "/run/netpath-lab/lab.json"]
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect()
}

#[test]
fn lab_run_once_prints_one_document_in_which_all_is_well() {
    machine();
    let output = lab(&["run", "--once", "-o", "json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{errors}"));
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
    let mut run =
        Command::new(binary()).args(["lab", "run", "--once"]).stdout(Stdio::null()).spawn().expect("lab run");
    let deadline = Instant::now() + PATIENCE;
    while !Path::new("/run/netpath/lab/agent.sock").exists() {
        assert!(
            Instant::now() < deadline && run.try_wait().unwrap().is_none(),
            "the lab's agent does not come up"
        );
        netpath_tests::wait::rest();
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
