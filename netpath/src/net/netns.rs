//! Network namespaces as files.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    panic,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs, statfs},
};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::NetError;

/// Marks a directory as made by netpath, for whichever instance is the last one to leave it.
const MADE: &str = "trusted.netpath";

/// The namespace of the calling thread, which in a threaded program need not be the process's.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as this handle or a clone of it.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    inode: u64,
    path: Option<PathBuf>,
}

impl Netns {
    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetError> {
        let doing = "open the current network namespace";
        let file = File::open(OWN).map_err(|error| NetError::io(doing, &error).hint("is /proc mounted?"))?;
        Self::from_file(file, None, doing)
    }

    /// An existing namespace by its file (`/run/netns/NAME`, `/proc/PID/ns/net`). Fails if there is none, or if the
    /// file is something else.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let namespace = Self::open_unchecked(path)?;
        // Entering is the one way without an ioctl to tell a network namespace from another kind.
        namespace.enter(|| ()).map_err(|error| match error.errno {
            Some(errno) if errno == Errno::EINVAL as i32 => NetError::new(
                format!("open network namespace {}", path.display()),
                "this is a namespace, but not a network namespace",
            ),
            _ => error,
        })?;
        Ok(namespace)
    }

    /// The same for who enters it at once, and so finds out whether it is one of the network.
    pub(super) fn open_unchecked(path: &Path) -> Result<Self, NetError> {
        let doing = format!("open network namespace {}", path.display());
        // Not blocking: somebody may have put a FIFO there.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|error| NetError::io(doing.as_str(), &error))?;
        let kind = fstatfs(&file).map_err(|errno| NetError::errno(doing.as_str(), errno))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NetError::new(
                doing,
                "this file is not a namespace; `ip netns list` shows those with a name",
            ));
        }
        Self::from_file(file, Some(path.to_owned()), &doing)
    }

    /// Whether there is a namespace, of any kind, at `path`.
    pub fn is_at(path: &Path) -> bool {
        is_namespace(path).unwrap_or(false)
    }

    /// A new, empty namespace, bind-mounted at `path` so that `ip netns` sees it. Leaves nothing behind on failure.
    /// Fails if there is anything at `path` already.
    pub fn create(path: &Path) -> Result<Self, NetError> {
        Self::mounted(path, || unshare(CloneFlags::CLONE_NEWNET))
    }

    /// Gives this namespace one more file, as [`create`](Self::create) does a new one.
    pub fn bind(&self, path: &Path) -> Result<Self, NetError> {
        Self::mounted(path, || setns(self, CloneFlags::CLONE_NEWNET))
    }

    /// Mounts the namespace that `enter` brings a thread into.
    fn mounted(path: &Path, enter: impl FnOnce() -> nix::Result<()> + Send) -> Result<Self, NetError> {
        let doing = format!("make network namespace {}", path.display());
        let directories = make_parents(path).map_err(|error| NetError::io(doing.as_str(), &error))?;
        let created = create_file(path, &doing).and_then(|()| {
            mount_own(path, enter, &doing).and_then(|()| Self::open(path)).inspect_err(|_| {
                // Not mounted is what is wanted here; a failure to clean up must not hide the cause.
                let _ = umount2(path, MntFlags::MNT_DETACH);
                let _ = fs::remove_file(path);
            })
        });
        if created.is_err() {
            for directory in directories.iter().rev() {
                let _ = fs::remove_dir(directory);
            }
        }
        created
    }

    /// Unmounts and removes a namespace's file; no error if it is not there. Refuses files that hold something else.
    /// The namespace itself goes when its last process and handle do.
    pub fn delete(path: &Path) -> Result<(), NetError> {
        let doing = || format!("remove network namespace {}", path.display());
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(NetError::io(doing(), &error)),
        };
        if !metadata.is_file() {
            return Err(NetError::new(
                doing(),
                "this is not a namespace file that netpath or `ip netns` made",
            ));
        }
        // Mounts stack: every one has to go before the file can.
        while is_namespace(path).map_err(|errno| NetError::errno(doing(), errno))? {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| NetError::errno(doing(), errno))?;
        }
        let left = fs::symlink_metadata(path).map_err(|error| NetError::io(doing(), &error))?;
        if left.len() != 0 {
            return Err(NetError::new(
                doing(),
                "the file has contents, so it never was a namespace; it stays",
            ));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetError::io(doing(), &error)),
            _ => Ok(()),
        }
    }

    /// Removes a directory of namespaces' files, and those above it, as far as [`create`](Self::create) made them. Stays if
    /// there is something in it, or if `ip netns` has made it a mount; both mean that somebody uses it.
    pub fn leave_directory(directory: &Path) {
        let was_made = |directory: &&Path| getxattr(*directory, MADE, &mut [0; 8]).is_ok();
        for directory in directory.ancestors().take_while(was_made) {
            if fs::remove_dir(directory).is_err() {
                return;
            }
        }
    }

    /// Inode of the namespace: equal for handles of the same namespace, different for different living ones.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The file it was opened by, if there was one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Runs `f` on a short-lived thread inside the namespace. Sockets opened there, and processes spawned there, stay
    /// in it. Blocks; fails if the namespace cannot be entered, and panics if `f` does.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        let doing = || format!("enter {self}");
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    setns(self, CloneFlags::CLONE_NEWNET)?;
                    Ok(f())
                })
                .map_err(|error| NetError::io(doing(), &error))?;
            match worker.join() {
                Ok(done) => done.map_err(|errno| NetError::errno(doing(), errno)),
                Err(panicked) => panic::resume_unwind(panicked),
            }
        })
    }

    /// [`enter`](Self::enter) for async callers: waits on the runtime's blocking threads.
    pub(super) async fn enter_async<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetError> {
        let namespace = self.clone();
        match tokio::task::spawn_blocking(move || namespace.enter(f)).await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panicked) => panic::resume_unwind(panicked),
                Err(_) => Err(NetError::new(format!("enter {self}"), "the runtime is shutting down")),
            },
        }
    }

    fn from_file(file: File, path: Option<PathBuf>, doing: &str) -> Result<Self, NetError> {
        let inode = file.metadata().map_err(|error| NetError::io(doing, &error))?.ino();
        Ok(Self { file: Arc::new(file), inode, path })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl std::fmt::Display for Netns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "network namespace {}", path.display()),
            None => write!(f, "network namespace net:[{}]", self.inode),
        }
    }
}

/// Makes the directories above `path` that are missing, mode 0755 as iproute2 does; those it made, outermost first.
fn make_parents(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<_> = path
        .ancestors()
        .skip(1)
        .take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists())
        .map(Path::to_owned)
        .collect();
    let mut made: Vec<PathBuf> = Vec::new();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => {
                // Where the file system knows no such mark the directory stays in the end.
                let _ = setxattr(&directory, MADE, b"", XattrFlags::empty());
                made.push(directory);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                for directory in made.iter().rev() {
                    let _ = fs::remove_dir(directory);
                }
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// Makes the empty file the namespace is mounted on.
fn create_file(path: &Path, doing: &str) -> Result<(), NetError> {
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map(drop).map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        let error = NetError::io(doing, &error);
        match (exists, is_namespace(path)) {
            (false, _) => error,
            (true, Ok(true)) => {
                error.hint("use another name, or remove that namespace with `ip netns delete`")
            }
            (true, _) => error.hint("there is a file that is not a namespace; remove it if nobody needs it"),
        }
    })
}

/// Mounts the namespace that `enter` brings a thread into over the file at `path`.
fn mount_own(
    path: &Path,
    enter: impl FnOnce() -> nix::Result<()> + Send,
    doing: &str,
) -> Result<(), NetError> {
    let mounted = thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            enter()?;
            mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        })?;
        Ok(worker.join())
    })
    .map_err(|error: io::Error| NetError::io(doing, &error))?;
    match mounted {
        Ok(done) => done.map_err(|errno| NetError::errno(doing, errno)),
        Err(panicked) => panic::resume_unwind(panicked),
    }
}

/// Whether a namespace of any kind is mounted at `path`.
fn is_namespace(path: &Path) -> nix::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == NSFS_MAGIC)
}

#[cfg(test)]
mod tests;
