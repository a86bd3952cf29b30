//! Whether etcd is still the one that was listened to: restored from a backup, with much to catch up, written to late.

use netpath::store::{Change, Check, EtcdStore, Store, Write};
use netpath_tests::{cluster::Cluster, etcd::Etcd, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Runtime;

use super::{etcd, heard};

const BACKUP: &str = "/mnt/backup";

fn put(runtime: &Runtime, store: &EtcdStore, key: &str, value: &str) -> Change {
    runtime.block_on(store.put(key, value.as_bytes().to_vec())).expect("written");
    Change::Put(key.to_owned(), value.as_bytes().to_vec())
}

/// Restores the backup, writes something, and goes on until nobody can tell by the revision.
fn restore(etcd: &mut Etcd, key: &str, value: &str) {
    let before = etcd.revision();
    etcd.restore(BACKUP);
    let restored = etcd.revision();
    assert!(restored < before, "{restored} and {before}");
    assert_eq!(etcd.ctl(&["put", key, value]).trim(), "OK");
    while etcd.revision() <= before {
        assert_eq!(etcd.ctl(&["put", "/elsewhere", "x"]).trim(), "OK");
    }
}

/// Three watches: the last that they have seen is a value, a removal, and a listing.
#[test]
fn etcd_restored_from_a_backup_is_noticed_and_one_that_was_not_is_not_read_again() {
    let (mut etcd, store, runtime) = etcd();
    let put = |key: &str, value: &str| put(&runtime, &store, key, value);
    let listed = |prefix: &str, of: &[(&str, &str)]| {
        let one = |(key, value): &(&str, &str)| (format!("{prefix}{key}"), value.as_bytes().to_vec());
        [Change::All(of.iter().map(one).collect())]
    };
    let prefixes = ["/value/", "/removal/", "/listing/"];
    for prefix in prefixes {
        put(&format!("{prefix}a"), "1");
        put(&format!("{prefix}b"), "1");
    }
    let [mut value, mut removal, mut listing] = prefixes.map(|prefix| store.watch(prefix));
    assert_eq!(heard(&runtime, &mut value), listed("/value/", &[("a", "1"), ("b", "1")]));
    assert_eq!(heard(&runtime, &mut removal), listed("/removal/", &[("a", "1"), ("b", "1")]));
    etcd.back_up(BACKUP);
    let change = put("/value/c", "1");
    assert_eq!(heard(&runtime, &mut value), [change]);
    runtime.block_on(store.delete("/removal/a")).expect("deleted");
    assert_eq!(heard(&runtime, &mut removal), [Change::Deleted("/removal/a".into())]);
    put("/listing/c", "1");
    put("/elsewhere", "so that etcd's last change is not the listing's");
    assert_eq!(heard(&runtime, &mut listing), listed("/listing/", &[("a", "1"), ("b", "1"), ("c", "1")]));

    restore(&mut etcd, "/elsewhere", "x");
    let mut watches = [value, removal, listing];
    for (prefix, watch) in prefixes.iter().zip(&mut watches) {
        put(&format!("{prefix}b"), "other");
        assert_eq!(heard(&runtime, watch), listed(prefix, &[("a", "1"), ("b", "other")]));
    }
    put("/elsewhere", "again");
    // Connections that break, and nothing else: once after a listing, once after a value, once after a removal.
    for round in 0..3 {
        etcd.kill_all();
        etcd.restart();
        for (prefix, watch) in prefixes.iter().zip(&mut watches) {
            let key = format!("{prefix}{round}");
            let change = put(&key, "1");
            assert_eq!(heard(&runtime, watch), [change], "round {round}");
            if round == 1 {
                runtime.block_on(store.delete(&key)).expect("deleted");
                assert_eq!(heard(&runtime, watch), [Change::Deleted(key)]);
            }
        }
    }
}

#[test]
fn etcd_restored_from_a_backup_is_noticed_by_agents() {
    let mut cluster = Cluster::start(1);
    cluster.etcd.back_up(BACKUP);
    cluster.join();
    cluster.wait_known();
    let blocks = cluster.nodes[1].blocks();
    let agents = [0, 1].map(|at: usize| {
        let agent = cluster.nodes[at].agent_pid();
        Pid::from_raw(agent.try_into().expect("process id"))
    });
    // Both meet etcd when it has caught up.
    agents.iter().for_each(|agent| kill(*agent, Signal::SIGSTOP).expect("the agent runs"));
    let ghost = r#"{"version":1,"value":{"node":"ghost","uid":"g","addresses":["198.18.0.99"]}}"#;
    restore(&mut cluster.etcd, "/netpath/default/nodes/ghost", ghost);
    agents.iter().for_each(|agent| kill(*agent, Signal::SIGCONT).expect("the agent runs"));
    for block in &blocks {
        let key = format!("/netpath/default/blocks/{}-{}", block.network(), block.prefix_len());
        wait::until("the node's block is its own again", || {
            cluster.etcd.ctl(&["get", &key]).contains("node2")
        });
    }
    for node in &cluster.nodes {
        wait::until("what was written meanwhile is seen", || {
            let known = node.known();
            known.len() == 3 && known.iter().any(|one| one.name == "ghost")
        });
        wait::until("nothing is wrong", || node.problems().is_empty());
    }
}

/// More than the client takes in one answer; and the connection breaks in the middle of a revision.
#[test]
fn etcd_watches_take_long_answers_in_parts() {
    let (mut etcd, store, runtime) = etcd();
    let mut watch = store.watch("/w/");
    put(&runtime, &store, "/w/a", "1");
    assert!(matches!(&heard(&runtime, &mut watch)[..], [Change::All(_)]));
    let change = put(&runtime, &store, "/w/b", "1");
    assert_eq!(heard(&runtime, &mut watch), [change]);
    etcd.kill_all();
    etcd.restart();
    let mut keys = Vec::new();
    for at in 0..5 {
        keys.push(format!("/w/large{at}"));
        put(&runtime, &store, &keys[at], &"x".repeat(1_200_000));
    }
    let parts: Vec<_> = (0..4).map(|at| format!("/w/part{at}")).collect();
    let writes = parts.iter().map(|key| Write::Put(key.clone(), vec![b'x'; 300_000], None));
    assert!(runtime.block_on(store.commit(Vec::new(), writes.collect())).expect("written"));
    keys.extend(parts);
    let mut seen = Vec::new();
    let mut more = |seen: &mut Vec<String>| {
        for change in heard(&runtime, &mut watch) {
            let Change::Put(key, _) = change else { panic!("all is read again") };
            seen.push(key);
        }
    };
    while !seen.contains(&keys[5]) {
        more(&mut seen);
    }
    assert!(seen.len() < keys.len(), "one revision, in parts: {seen:?}");
    etcd.kill_all();
    etcd.restart();
    while seen.len() < keys.len() {
        more(&mut seen);
    }
    assert_eq!(seen, keys, "each once");
}

/// A removal that etcd does when nobody waits for it any more.
#[test]
fn etcd_writes_that_come_late_do_not_meet_the_same_bytes_written_again() {
    let (etcd, store, runtime) = etcd();
    put(&runtime, &store, "/w/a", "mine");
    let find = || runtime.block_on(store.find("/w/a")).expect("an answer").expect("there");
    let found = find();
    let remove = |found| {
        let checks = vec![Check::Is("/w/a".into(), found)];
        runtime.block_on(store.commit(checks, vec![Write::Delete("/w/a".into())])).expect("an answer")
    };
    runtime.block_on(store.delete("/w/a")).expect("deleted");
    put(&runtime, &store, "/w/a", "mine");
    assert_eq!(*found, *find());
    assert!(!remove(found), "another one");
    assert!(etcd.ctl(&["get", "/w/a"]).contains("mine"));
    assert!(remove(find()));
    // By value where that is meant.
    put(&runtime, &store, "/w/a", "mine");
    let swap = |from: &str| store.compare_and_swap("/w/a", Some(from.as_bytes().to_vec()), b"new".to_vec());
    assert!(runtime.block_on(swap("mine")).expect("an answer") && !runtime.block_on(swap("mine")).unwrap());
}
