//! Isolation: a test lives in network and mount namespaces of its own and leaves nothing when its process ends.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// Moves the calling thread into new network and mount namespaces with an empty `/run` and a bpffs; threads and
/// processes it starts from now on follow. nextest gives each test a process, so nothing of another test is moved.
///
/// # Panics
/// Without root.
pub fn isolate() {
    assert!(Uid::effective().is_root(), "these tests make namespaces: run them as root");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("netpath-test"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs on /run");
    std::fs::create_dir("/run/netns").expect("/run/netns");
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("bpffs");
}
