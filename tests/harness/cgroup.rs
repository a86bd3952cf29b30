//! A cgroup (version 2) of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use nix::mount::{MsFlags, mount};

use crate::{node::PATIENCE, wait};

/// Where the hierarchy is, in the test's own mount namespace.
const ROOT: &str = "/run/cgroup";
/// Name of a test's group, before the number of its process.
const NAME: &str = "netpath-test-";

/// A cgroup; gone with this value, which has to outlive all that is put in.
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Where this process was, if it is in there.
    left: Option<PathBuf>,
}

impl Cgroup {
    /// Makes an empty one, in mounts that [`isolate`](crate::namespace::isolate) has made.
    ///
    /// # Panics
    /// If the kernel refuses. Needs cgroup2.
    pub fn make() -> Self {
        fs::create_dir_all(ROOT).expect(ROOT);
        mount(Some("cgroup2"), ROOT, Some("cgroup2"), MsFlags::empty(), None::<&str>).expect("cgroup2");
        remove_abandoned(Path::new(ROOT));
        let path = Path::new(ROOT).join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&path).expect("cgroup");
        Self { path, left: None }
    }

    /// The same with this process in it, and all it starts from now on.
    ///
    /// # Panics
    /// As [`make`](Self::make).
    pub fn enter() -> Self {
        // First: the kernel tells a process's cgroup only once the hierarchy has been mounted anywhere.
        let mut made = Self::make();
        let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup2");
        move_to(&made.path).expect("entered");
        made.left = Some(Path::new(ROOT).join(own));
        made
    }

    /// The line of configuration that has the hooks of sockets in there.
    pub fn configuration(&self) -> String {
        format!("[datapath]\ncgroup = \"{}\"", self.path.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // No panic here, which may be another one's end; what stays goes with the next test that has one.
        let _ = self.left.as_deref().map(move_to);
        let deadline = Instant::now() + PATIENCE;
        while remove(&self.path).is_err() && Instant::now() < deadline {
            wait::rest();
        }
    }
}

/// Puts this process into a cgroup.
fn move_to(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Removes the groups of tests that were killed.
fn remove_abandoned(groups: &Path) {
    for entry in fs::read_dir(groups).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(NAME) else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a cgroup and those below it.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
