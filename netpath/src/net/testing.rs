//! What the tests of this module share: a namespace of their own, so that the machine's is never touched.

use std::path::{Path, PathBuf};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

use super::{Netlink, Netns};

/// Moves the calling thread into new network and mount namespaces; threads it starts from now on follow.
pub(super) fn isolate() {
    assert!(Uid::effective().is_root(), "the tests of net make namespaces: run them as root");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("mounts made private");
}

/// The same, and an empty directory that only this thread sees, gone with the test.
pub(super) fn isolate_with_directory() -> PathBuf {
    isolate();
    let directory = Path::new("/mnt");
    mount(Some("netpath-test"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .expect("tmpfs on /mnt");
    directory.to_owned()
}

/// A node and a pod, each a namespace with its netlink connection.
pub(super) struct Pair {
    pub(super) node_ns: Netns,
    pub(super) node: Netlink,
    pub(super) pod_ns: Netns,
    pub(super) pod: Netlink,
    pub(super) directory: PathBuf,
}

/// Runs a test in a node's namespace, with a pod's beside it, on a runtime whose threads are in the node's.
pub(super) fn with_pair<F: Future<Output = ()>>(test: impl FnOnce(Pair) -> F) {
    let directory = isolate_with_directory();
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(async {
        let node_ns = Netns::current().expect("own namespace");
        let pod_ns = Netns::create(&directory.join("pod")).expect("pod namespace");
        let node = Netlink::connect(&node_ns).await.expect("netlink in the node");
        let pod = Netlink::connect(&pod_ns).await.expect("netlink in the pod");
        test(Pair { node_ns, node, pod_ns, pod, directory }).await;
    });
}
