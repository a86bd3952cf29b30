//! The agent's process as `/proc` shows it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Numbers of capabilities (include/uapi/linux/capability.h).
pub(in crate::doctor) mod capability {
    /// Links, routes, sysctls of the network.
    pub(in crate::doctor) const NET_ADMIN: u32 = 12;
    /// Namespaces and mounts.
    pub(in crate::doctor) const SYS_ADMIN: u32 = 21;
    /// What the verifier allows only to those who may see kernel memory.
    pub(in crate::doctor) const PERFMON: u32 = 38;
    /// Programs and tables.
    pub(in crate::doctor) const BPF: u32 = 39;
}

/// A process.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Process {
    pub(in crate::doctor) pid: u32,
    /// Effective capabilities, a bit each.
    pub(in crate::doctor) capabilities: u64,
    /// Files it has open.
    pub(in crate::doctor) open_files: usize,
    /// How many it may have, if there is a limit.
    pub(in crate::doctor) open_files_limit: Option<usize>,
    /// Least limit of memory of its cgroups (version 2), bytes.
    pub(in crate::doctor) memory_limit: Option<u64>,
    /// Whether its network namespace is another than that of process 1, or nobody can tell.
    pub(in crate::doctor) own_netns: bool,
}

impl Process {
    /// Reads a process; `None` if it is gone.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(dir.join("status")).ok()?;
        let limits = fs::read_to_string(dir.join("limits")).ok()?;
        let cgroups = fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
        Some(Self {
            pid,
            capabilities: capabilities(&status)?,
            open_files: fs::read_dir(dir.join("fd")).map_or(0, Iterator::count),
            open_files_limit: open_files_limit(&limits),
            memory_limit: crate::datapath::cgroup2().and_then(|mount| memory_limit(&mount, &cgroups)),
            own_netns: has_own_netns(pid),
        })
    }
}

/// A path as the agent sees it: `ip netns exec`, for one, gives a shell a `/sys` without bpffs.
pub(super) fn seen_by(agent: Option<u32>, path: &Path) -> PathBuf {
    match (agent, path.strip_prefix("/")) {
        (Some(pid), Ok(below)) => PathBuf::from(format!("/proc/{pid}/root")).join(below),
        _ => path.to_owned(),
    }
}

/// Directories of all processes that can be seen.
pub(super) fn all() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries.filter(move |entry| is_number(&entry.file_name())).map(|entry| entry.path())
}

/// Whether a program of this name runs, as the kernel cuts it.
pub(super) fn is_running(name: &str) -> bool {
    all().any(|process| fs::read_to_string(process.join("comm")).is_ok_and(|own| own.trim() == name))
}

/// Whether a process has another network namespace than process 1, or nobody can tell.
pub(super) fn has_own_netns(pid: u32) -> bool {
    let inode = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/net")).map(|file| file.ino());
    !matches!((inode(pid), inode(1)), (Ok(own), Ok(first)) if own == first)
}

/// The process that holds a lock file locked.
pub(super) fn holder(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        // By following it: file systems may show another device among the locks.
        open.filter_map(|entry| fs::metadata(entry.path()).ok())
            .any(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
    };
    candidates(&fs::read_to_string("/proc/locks").ok()?, file.ino()).into_iter().find(holds)
}

/// Processes that hold a lock of flock(2) on a file of this number.
fn candidates(locks: &str, inode: u64) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        // A waiter's line has an arrow before the kind.
        let [_, "FLOCK", _, _, pid, file, ..] = words[..] else { return None };
        (file.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
    };
    locks.lines().filter_map(holder).collect()
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn open_files_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The least of the limits of a process's cgroup and of those above it.
fn memory_limit(mount: &Path, cgroups: &str) -> Option<u64> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let read = |dir: &Path| fs::read_to_string(mount.join(dir).join("memory.max")).ok()?.trim().parse().ok();
    Path::new(own).ancestors().filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        let locks = "1: FLOCK  ADVISORY  WRITE 42 00:2e:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 43 00:2e:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 44 00:2e:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 45 00:2e:770 0 EOF\n";
        assert_eq!(candidates(locks, 77), [42]);
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        assert_eq!(
            open_files_limit("Max open files            1024                 4096        files\n"),
            Some(1024)
        );
        assert_eq!(open_files_limit("Max open files            unlimited  unlimited  files\n"), None);
    }

    #[test]
    fn the_least_limit_of_a_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/netpath.service");
        fs::create_dir_all(&own).unwrap();
        let limit = || memory_limit(root.path(), "1:name=systemd:/x\n0::/system.slice/netpath.service\n");
        fs::write(own.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(), None);
        fs::write(root.path().join("system.slice/memory.max"), "1048576\n").unwrap();
        assert_eq!(limit(), Some(1 << 20));
    }

    #[test]
    fn who_holds_a_lock_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder(&path), None);
        file.try_lock().unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        let own = Process::read(std::process::id()).unwrap();
        assert!(own.open_files > 3 && own.capabilities != 0, "{own:?}");
    }
}
