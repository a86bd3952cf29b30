//! The benchmark between nodes: clusters with a real etcd, and without one.

use std::{env, ffi::OsString};

use super::{ACROSS, REMOTE, bench, bench_with, document, machine, plausible, rows, set, traces, ways};

/// The search path without the directories that have an etcd.
fn path_without_etcd() -> OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    env::join_paths(env::split_paths(&own).filter(|dir| !dir.join("etcd").exists())).expect("path")
}

#[test]
fn bench_measures_between_nodes_of_a_real_etcd_and_leaves_nothing() {
    machine();
    let before = traces();
    let modes = ACROSS.join(",");
    let arguments = ["--quick", "--rounds", "1", "--paths", REMOTE, "--modes", &modes, "-o", "json"];
    let output = bench(&[&arguments[..], &["--workloads", "rr,crr,stream,pps"]].concat());
    assert_eq!(traces(), before);
    let document = document(&output);
    assert!(output.status.success(), "{:#} {:#}", document["failures"], document["skipped"]);
    assert_eq!(document["skipped"], serde_json::json!([]));
    assert!(document["environment"]["attach"].is_string(), "{:#}", document["environment"]);
    let all = set(&ACROSS.map(|mode| (mode, REMOTE)));
    for workload in ["rr", "crr", "stream", "pps"] {
        let rows = rows(&document, workload);
        assert_eq!(ways(&rows), all, "{workload}");
        rows.iter().for_each(|row| plausible(row));
    }
    for row in rows(&document, "rr") {
        let ipv6 = row["protocol"].as_str().is_some_and(|protocol| protocol.ends_with('6'));
        let peer = match row["mode"].as_str() {
            Some("netpath-direct") if !ipv6 => "routed",
            Some("netpath-vxlan") if !ipv6 => "vxlan",
            _ => {
                assert!(row["peer"].is_null() && row["ratio_peer"].is_null(), "{row}");
                continue;
            }
        };
        assert!(row["peer"] == peer && row["ratio_peer"].as_f64() > Some(0.0), "{row}");
    }
    let budgets = document["budgets"].as_array().expect("budgets").iter();
    let peers: Vec<_> = budgets.filter(|one| one["of"] == "ratio_peer").collect();
    assert!(peers.len() == 4 && peers.iter().all(|one| one["measured"].is_f64()), "{peers:#?}");
}

#[test]
fn bench_without_an_etcd_leaves_clusters_out_unless_they_are_asked_for() {
    machine();
    let quick = ["--quick", "--rounds", "1", "--paths", REMOTE, "--workloads", "rr", "-o", "json"];
    for asked in [false, true] {
        let modes: &[&str] = if asked { &["--modes", "direct,netpath-vxlan"] } else { &[] };
        let output = bench_with(&[&quick[..], modes].concat(), &path_without_etcd()).expect("netpath bench");
        let document = document(&output);
        assert_eq!(output.status.success(), !asked, "{:#}", document["skipped"]);
        let skipped = document["skipped"].as_array().expect("skipped").iter();
        let told =
            skipped.filter(|one| one["path"].is_null() && one["reason"].to_string().contains("etcd-server"));
        assert_eq!(told.count(), if asked { 1 } else { 2 }, "{:#}", document["skipped"]);
    }
}
