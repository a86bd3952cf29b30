//! Where programs' links and tables are pinned, so that they outlive the agent (invariant 2).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netpath_common::abi::PIN_SCHEME;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    clsact::{self, Filter, Owner},
    error::{DatapathError, kernel},
    xdp,
};

const QDISCS: &str = "qdiscs";

/// Directories of one instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    /// `…/vN/maps`, a file a table.
    pub(super) maps: PathBuf,
    /// `…/vN/links`, a file a link, named `IFINDEX-PROGRAM`.
    pub(super) links: PathBuf,
    /// `…/vN/qdiscs`, a directory a qdisc that we added, named `IFINDEX`; see [`clsact`].
    qdiscs: PathBuf,
    /// Whose clsact filters are this instance's.
    pub(super) owner: Owner,
}

impl Pins {
    /// Makes the directories below an instance's pin directory.
    pub(super) fn create(pin_dir: &Path) -> Result<Self, DatapathError> {
        let version = pin_dir.join(format!("v{PIN_SCHEME}"));
        let (maps, links, qdiscs) = (version.join("maps"), version.join("links"), version.join(QDISCS));
        let pins = Self { maps, links, qdiscs, owner: Owner::of(pin_dir) };
        for dir in [&pins.maps, &pins.links, &pins.qdiscs] {
            fs::create_dir_all(dir).map_err(kernel(format!("making the pin directory {}", dir.display())))?;
        }
        Ok(pins)
    }

    /// The pin of a program's link on an interface.
    pub(super) fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links.join(format!("{ifindex}-{program}"))
    }

    /// The mark of an interface's clsact qdisc.
    pub(super) fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.qdiscs.join(ifindex.to_string())
    }

    /// The marks of all clsact qdiscs that we added, with the indexes of their interfaces.
    pub(super) fn all_qdiscs(&self) -> Vec<(u32, PathBuf)> {
        // Without a mark there is no directory.
        let marks = fs::read_dir(&self.qdiscs).into_iter().flatten().flatten().map(|entry| entry.path());
        marks.filter_map(|mark| Some((marked(&mark)?, mark))).collect()
    }

    /// All pinned links as (interface index, program, path).
    pub(super) fn all_links(&self) -> Result<Vec<(u32, String, PathBuf)>, DatapathError> {
        let doing = || format!("listing pinned links in {}", self.links.display());
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.links).map_err(kernel(doing()))? {
            let path = entry.map_err(kernel(doing()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some((ifindex, program)) = name.split_once('-')
                && let Ok(ifindex) = ifindex.parse()
            {
                links.push((ifindex, program.to_owned(), path));
            }
        }
        links.sort();
        Ok(links)
    }
}

/// Whether there is a bpffs on `path`.
///
/// # Errors
/// [`DatapathError::Bpffs`] with the kernel's reason.
pub fn is_bpffs(path: &Path) -> Result<bool, DatapathError> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == BPF_FS_MAGIC),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(DatapathError::Bpffs { path: path.to_owned(), source: errno.into() }),
    }
}

/// Mounts bpffs on `path`, readable by root only.
///
/// # Errors
/// [`DatapathError::Bpffs`] with the kernel's reason.
pub fn mount_bpffs(path: &Path) -> Result<(), DatapathError> {
    let failed = |source: io::Error| DatapathError::Bpffs { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| failed(errno.into()))
}

/// Removes everything an instance attached and pinned: filters and links first, so that its programs are detached, then the
/// qdiscs it added and nobody uses, then tables. No error if nothing is there.
///
/// # Errors
/// The first failure, after trying all.
pub fn remove_programs(pin_dir: &Path) -> Result<(), DatapathError> {
    let filters = clsact::everywhere(Owner::of(pin_dir), |_| true);
    let mut first = filters.and_then(|all| all.iter().map(Filter::remove).fold(Ok(()), Result::and));
    let versions = match fs::read_dir(pin_dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return first,
        Err(error) => return Err(kernel(format!("listing pins in {}", pin_dir.display()))(error)),
    };
    for (kind, remove) in
        [("links", xdp::remove as fn(&Path) -> _), (QDISCS, remove_qdisc), ("maps", remove_pin)]
    {
        for version in &versions {
            let outcome = remove_dir(&version.join(kind), remove);
            first = first.and(outcome);
        }
    }
    for dir in versions.iter().map(PathBuf::as_path).chain([pin_dir]) {
        let outcome =
            fs::remove_dir(dir).map_err(kernel(format!("removing the pin directory {}", dir.display())));
        first = first.and(outcome);
    }
    first
}

fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    fs::remove_file(path).map_err(kernel(format!("removing the pin {}", path.display())))
}

fn remove_qdisc(mark: &Path) -> Result<(), DatapathError> {
    marked(mark).map_or(Ok(()), |ifindex| clsact::remove_qdisc(ifindex, mark))
}

/// The interface of a mark.
fn marked(mark: &Path) -> Option<u32> {
    mark.file_name().and_then(|name| name.to_str()?.parse().ok())
}

/// Removes what is in one directory, and it. (bpffs has no recursive removal of its own.)
fn remove_dir(dir: &Path, remove: fn(&Path) -> Result<(), DatapathError>) -> Result<(), DatapathError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(kernel(format!("listing pins in {}", dir.display()))(error)),
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        remove(&path)?;
    }
    fs::remove_dir(dir).map_err(kernel(format!("removing the pin directory {}", dir.display())))
}
