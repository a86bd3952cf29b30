//! The machine: kernel, mounts, clock, and the checkout that the binary was built in.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::process::{has_own_netns, is_running, seen_by};
use crate::{
    config::Paths,
    datapath::{cgroup2, probe},
};

/// Where a kernel with BTF shows it.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Programs that set the clock, as the kernel cuts their names.
const TIME_SERVICES: [&str; 7] =
    ["chronyd", "ntpd", "ntp-daemon", "openntpd", "phc2sys", "ptp4l", "systemd-timesyn"];
/// Made by systemd-timesyncd when it has set the clock.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// The kernel, by what it lets this build do.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Kernel {
    pub(in crate::doctor) release: String,
    pub(in crate::doctor) btf: bool,
    /// What the verifier says of this build's programs.
    pub(in crate::doctor) programs: Result<(), String>,
    pub(in crate::doctor) tcx: bool,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            release: release.trim().to_owned(),
            btf: Path::new(BTF).exists(),
            programs: probe::try_load().map_err(|error| error.to_string()),
            tcx: probe::has_tcx(),
        }
    }
}

/// The rest of the machine.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Host {
    /// Whether the pin directory is on a bpffs.
    pub(in crate::doctor) bpffs: bool,
    /// Whether that bpffs is the one that process 1 has there; absent if the node is a namespace of its own, and its pins
    /// are to go with it.
    pub(in crate::doctor) bpffs_of_host: Option<bool>,
    /// Where cgroup version 2 is mounted.
    pub(in crate::doctor) cgroup2: Option<PathBuf>,
    pub(in crate::doctor) clock: Clock,
    /// Absent for an installed binary.
    pub(in crate::doctor) checkout: Option<Checkout>,
}

/// What is known of the clock.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Clock {
    pub(in crate::doctor) now: SystemTime,
    /// When this binary was written.
    pub(in crate::doctor) built: SystemTime,
    /// Programs that run here and set the clock.
    pub(in crate::doctor) services: Vec<String>,
    /// Whether systemd-timesyncd says that it has.
    pub(in crate::doctor) synchronized: bool,
}

/// A source tree, and what it lacks to be built again.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Checkout {
    pub(in crate::doctor) root: PathBuf,
    pub(in crate::doctor) lacking: Vec<String>,
}

impl Host {
    /// Reads it, for the agent if one runs, else for this process.
    pub(super) fn read(paths: &Paths, agent: Option<u32>, own_netns: bool) -> Self {
        let pid = agent.unwrap_or_else(std::process::id);
        let mounts = |pid: u32| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let shared = || device(&mounts(pid), &paths.pin_dir) == device(&mounts(1), &paths.pin_dir);
        Self {
            bpffs: is_bpffs(&seen_by(agent, &paths.pin_dir)),
            bpffs_of_host: (!own_netns && !has_own_netns(std::process::id())).then(shared),
            cgroup2: cgroup2(),
            clock: Clock::read(),
            checkout: env::current_exe().ok().and_then(|exe| checkout(&exe)),
        }
    }
}

/// Whether what is at a path, or would be, is on a bpffs.
fn is_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.and_then(|path| statfs(path).ok()).is_some_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC)
}

/// Device number of the mount that a path is on, out of a `mountinfo`.
fn device(mountinfo: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let (device, point) = (words.get(2)?, Path::new(words.get(4)?));
        path.starts_with(point).then(|| (point.components().count(), (*device).to_owned()))
    };
    // Of mounts on one place the last covers the others.
    mountinfo.lines().filter_map(mount).max_by_key(|(depth, _)| *depth).map(|(_, device)| device)
}

impl Clock {
    fn read() -> Self {
        let services = TIME_SERVICES.into_iter().filter(|name| is_running(name)).map(str::to_owned).collect();
        let built = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
        Self {
            now: SystemTime::now(),
            built: built.unwrap_or(SystemTime::UNIX_EPOCH),
            services,
            synchronized: Path::new(SYNCHRONIZED).exists(),
        }
    }
}

/// The source tree around a binary below its `target`, and what of `cargo xtask setup` is missing.
fn checkout(exe: &Path) -> Option<Checkout> {
    let root = exe.ancestors().find(|dir| dir.join("xtask/Cargo.toml").exists())?;
    let mut lacking = Vec::new();
    let home = |name: &str, dir: &str| env::var_os(name).map(|home| Path::new(&home).join(dir));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places =
        env::split_paths(&path).chain(home("CARGO_HOME", "bin")).chain(home("HOME", ".cargo/bin"));
    if !places.any(|dir| dir.join("cargo").is_file()) {
        lacking.push("cargo".to_owned());
    }
    let recorded = fs::read_to_string(root.join("target/xtask/toolchain.env")).unwrap_or_default();
    let linker = env::var("NETPATH_BPF_LINKER").ok().or_else(|| {
        let line = recorded.lines().find_map(|line| line.strip_prefix("NETPATH_BPF_LINKER="));
        line.map(str::to_owned)
    });
    if !linker.is_some_and(|linker| Path::new(&linker).is_file()) {
        lacking.push("the toolchain of the eBPF programs".to_owned());
    }
    Some(Checkout { root: root.to_owned(), lacking })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_the_last_of_the_deepest() {
        let mountinfo = "22 1 0:20 / / rw - ext4 /dev/x rw\n\
                         30 22 0:25 / /sys/fs/bpf rw - bpf bpf rw\n\
                         31 30 0:26 / /sys/fs/bpf rw - bpf bpf rw\n\
                         29 22 0:24 / /sys rw - sysfs sysfs rw\n";
        let of = |path: &str| device(mountinfo, path.as_ref());
        assert_eq!(of("/sys/fs/bpf/netpath/default").as_deref(), Some("0:26"));
        assert_eq!(of("/sys/fs/cgroup").as_deref(), Some("0:24"));
        assert_eq!(of("/var").as_deref(), Some("0:20"));
    }

    #[test]
    fn a_checkout_is_told_from_an_installed_binary() {
        assert!(checkout("/usr/bin/netpath".as_ref()).is_none());
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("xtask")).unwrap();
        fs::write(root.path().join("xtask/Cargo.toml"), "").unwrap();
        let found = checkout(&root.path().join("target/debug/netpath")).unwrap();
        assert_eq!(found.root, root.path());
    }
}
