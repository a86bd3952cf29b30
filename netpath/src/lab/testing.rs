//! What the tests of lab and benchmark share.

use std::path::Path;

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{
    state::{LAB, Places},
    topology::{Spec, Topology},
};

impl Places {
    /// Those of a lab in a directory.
    pub(crate) fn below(dir: &Path) -> Self {
        Self {
            instance: LAB.into(),
            lab: dir.join("lab"),
            runtime: dir.join("run/netpath/lab"),
            store: dir.join("var/netpath/lab"),
        }
    }
}

/// Runs a test on a topology in a mount namespace of the calling thread, so that nothing of it outlives the thread.
pub(crate) fn with_topology<F: Future<Output = ()>>(mtu: Option<u32>, test: impl FnOnce(Topology) -> F) {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("namespaces need root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    let dir = Path::new("/mnt");
    mount(Some("lab-test"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs on /mnt");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let spec = Spec { dir: dir.into(), prefix: "t-".into(), uplink_mtu: mtu };
        test(Topology::build(spec).await.expect("topology")).await;
    });
}
