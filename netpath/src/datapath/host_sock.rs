//! Hooks of the node's own sockets: programs on a cgroup, by pinned links, for all processes in it and below.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::{
    Datapath, bpf,
    error::{DatapathError, kernel},
    load,
    pins::Pins,
    xdp,
};

/// In place of an interface's index, in the names of pins.
pub(super) const HOST: u32 = 0;

/// Every hook. What tells whom a socket has asked comes before what has it asked elsewhere.
pub const SOCKET_HOOKS: [&str; 8] = [
    "host_recvmsg4",
    "host_recvmsg6",
    "host_peername4",
    "host_peername6",
    "host_sendmsg4",
    "host_sendmsg6",
    "host_connect4",
    "host_connect6",
];

/// Where the hierarchy of cgroup version 2 is mounted.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    })
}

impl Datapath {
    /// Has the hooks on a cgroup, and on no other; without one, on none. Idempotent. At no moment a hook that stays is away:
    /// on another cgroup it is attached before it is taken off the earlier one.
    ///
    /// # Errors
    /// The verifier's or the kernel's reason, or that the directory is no cgroup.
    pub fn attach_socket_hooks(&mut self, cgroup: Option<&Path>) -> Result<(), DatapathError> {
        let Some(path) = cgroup else {
            let pins = SOCKET_HOOKS.iter().rev().map(|name| self.pins.link(HOST, name));
            return pins.map(|pin| xdp::remove(&pin)).fold(Ok(()), Result::and);
        };
        let doing = || format!("opening the cgroup {}", path.display());
        let cgroup = File::open(path).map_err(kernel(doing()))?;
        if fstatfs(&cgroup).map_err(kernel(doing()))?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            let reason = "it is not on a mount of cgroup version 2".to_owned();
            return Err(DatapathError::Kernel { doing: doing(), reason });
        }
        let pins = self.pins.clone();
        SOCKET_HOOKS
            .into_iter()
            .try_for_each(|name| attach(self.socket_hook(name)?, name, &pins, (&cgroup, path)))
    }

    /// A hook, verified at its first use: a kernel that has none for cgroups runs everything else.
    ///
    /// # Errors
    /// The verifier's reason.
    pub fn socket_hook(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, DatapathError> {
        let hook: &mut CgroupSockAddr = load::typed(&mut self.ebpf, name)?;
        if hook.fd().is_err() {
            hook.load().map_err(load::refused(name))?;
        }
        Ok(hook)
    }
}

/// Attaches a hook, or puts it into the link that is there.
fn attach(
    hook: &mut CgroupSockAddr,
    name: &str,
    pins: &Pins,
    (cgroup, path): (&File, &Path),
) -> Result<(), DatapathError> {
    let (pin, doing) = (pins.link(HOST, name), || format!("attaching {name} to {}", path.display()));
    // On kernels of 64 bits a cgroup's id is its inode's number.
    let wanted = cgroup.metadata().map_err(kernel(doing()))?.ino();
    let own = hook.info().map_err(kernel(doing()))?.id();
    let link = bpf::cgroup_link(&pin).map_err(kernel(format!("reading the link {}", pin.display())))?;
    match link.filter(|link| link.cgroup == Some(wanted)) {
        // Replacing a program by itself would have the kernel go through all cgroups below.
        Some(link) if link.program == own => Ok(()),
        Some(_) => {
            let program = hook.fd().map_err(kernel(doing()))?.as_fd();
            bpf::update_pinned(&pin, program)
                .map_err(kernel(format!("replacing the program of the link {}", pin.display())))
        }
        None => {
            // For a link this lets programs of others be there as well; kernels of before 6.17 refuse the flag that says so.
            let id = hook.attach(cgroup, CgroupAttachMode::Single).map_err(kernel(doing()))?;
            let link: FdLink =
                hook.take_link(id).map_err(kernel(doing()))?.try_into().map_err(kernel(doing()))?;
            // On another cgroup, or of one that is gone. What both lead to a pod is led once: the second sees the pod.
            xdp::remove(&pin)?;
            link.pin(&pin).map_err(kernel(format!("pinning the link of {name}")))?;
            Ok(())
        }
    }
}
