//! A store in a real etcd of three members: calls, claims and watches, whatever becomes of members.

mod blocks;
mod heard;
mod history;
mod later;
mod node;
mod secure;

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use netpath::{
    model::Holder,
    net::Netns,
    store::{Change, EtcdStore, Store, Watch},
};
use netpath_tests::{
    etcd::Etcd,
    namespace::isolate,
    node::{PATIENCE, run_in},
};
use nix::mount::{MsFlags, mount};
use tokio::runtime::{Builder, Runtime};

const DIR: &str = "/mnt/etcd";

/// A namespace with nothing in it but a loopback interface, and room for files.
fn alone() -> (Netns, Runtime) {
    isolate();
    mount(Some("netpath-test"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
    let netns = Netns::current().expect("own namespace");
    assert_eq!(run_in(&netns, "ip", &["link", "set", "lo", "up"]), "");
    (netns, Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime"))
}

fn etcd() -> (Etcd, EtcdStore, Runtime) {
    let (netns, runtime) = alone();
    let etcd = Etcd::start(&netns, [127, 0, 0, 1].into(), DIR);
    let store = EtcdStore::new(&etcd.access()).expect("store");
    (etcd, store, runtime)
}

fn holder(name: &str) -> Holder {
    Holder { node: name.to_owned(), uid: format!("uid-of-{name}") }
}

#[test]
fn etcd_calls_go_on_without_an_endpoint_and_without_a_leader() {
    let (mut etcd, store, runtime) = etcd();
    let store: &(dyn Store + 'static) = &store;
    // The one that is asked first is dead.
    etcd.kill(0);
    for at in 0..10 {
        runtime.block_on(store.write(&format!("/a/{at}"), &at)).expect("written");
    }
    etcd.restart();
    etcd.kill(etcd.leader());
    let begun = Instant::now();
    assert!(runtime.block_on(store.create("/a/new", &10)).expect("a new leader"));
    let late = begun.elapsed();
    assert!(!runtime.block_on(store.create("/a/new", &11)).expect("an answer"), "it is there");
    assert_eq!(
        runtime.block_on(store.read_all::<u32>("/a/")).unwrap(),
        (0..=10).collect::<Vec<_>>(),
        "{late:?}"
    );
    assert!(!runtime.block_on(store.compare_and_swap("/a/0", Some(b"x".to_vec()), b"y".to_vec())).unwrap());
    runtime.block_on(store.delete("/a/0")).expect("deleted");
    assert_eq!(runtime.block_on(store.get("/a/0")).unwrap(), None);
    // More than one page.
    let some =
        (0..2500).map(|at| store.put(Box::leak(format!("/many/{at:04}").into_boxed_str()), Vec::new()));
    runtime.block_on(try_join_all(some)).expect("written");
    let many = runtime.block_on(store.list("/many/")).expect("listed");
    assert!(many.len() == 2500 && many.is_sorted(), "{}", many.len());
    etcd.kill_all();
    let begun = Instant::now();
    let error = runtime.block_on(store.get("/a/1")).expect_err("nobody is there").to_string();
    assert!(
        begun.elapsed() < Duration::from_secs(20) && error.contains("reading in etcd http://127.0.0.1:2379"),
        "{error}"
    );
}

/// The next changes that a watch tells, whatever has to be tried again.
fn heard(runtime: &Runtime, watch: &mut Watch) -> Vec<Change> {
    let deadline = Instant::now() + PATIENCE;
    runtime.block_on(async {
        loop {
            match tokio::time::timeout(PATIENCE, watch.next()).await.expect("a change") {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => return changes,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    })
}

#[test]
fn etcd_watches_miss_nothing() {
    let (mut etcd, store, runtime) = etcd();
    let put = |key: &str, value: &str| {
        runtime.block_on(store.put(key, value.as_bytes().to_vec())).expect("written");
    };
    let change = |key: &str, value: &str| Change::Put(key.to_owned(), value.as_bytes().to_vec());
    let mut watch = store.watch("/w/");
    let mut next = || heard(&runtime, &mut watch);
    put("/w/a", "1");
    put("/x/a", "not below it");
    assert_eq!(next(), [Change::All(vec![("/w/a".into(), b"1".to_vec())])]);
    put("/w/a", "2");
    assert_eq!(next(), [change("/w/a", "2")]);
    // Every member is gone once, with changes in between.
    for at in 0..3 {
        etcd.kill(at);
        put("/w/b", &at.to_string());
        assert_eq!(next(), [change("/w/b", &at.to_string())], "without member {at}");
        etcd.restart();
    }
    runtime.block_on(store.delete("/w/b")).expect("deleted");
    assert_eq!(next(), [Change::Deleted("/w/b".into())]);
    // The connection breaks, and what is missed meanwhile is compacted.
    etcd.kill_all();
    etcd.restart();
    for at in 0..5 {
        put("/w/c", &at.to_string());
    }
    runtime.block_on(store.delete("/w/a")).expect("deleted");
    let compacted = etcd.ctl(&["compact", &etcd.revision().to_string()]);
    assert!(compacted.contains("compacted revision"), "{compacted}");
    assert_eq!(next(), [Change::All(vec![("/w/c".into(), b"4".to_vec())])]);
    put("/w/d", "5");
    assert_eq!(next(), [change("/w/d", "5")]);
}
