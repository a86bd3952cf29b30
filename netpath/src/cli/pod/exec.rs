//! `netpath pod exec`: a command in a pod's network namespace.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sched::{CloneFlags, setns},
};

use crate::{
    api::types::Pod,
    cli::failure::{Failed, NotRun},
};

/// Enters the namespace of `pod` of the agent with process id `agent`, and becomes `command`. Returns only if that fails.
///
/// Signals, the terminal and the exit status are the command's own then: nothing stands in between that could outlive
/// it or lose its status.
pub(super) fn replace_process(pod: &Pod, agent: u32, command: &[OsString]) -> anyhow::Error {
    let entered = open(&pod.netns, agent).and_then(|netns| Ok(setns(netns, CloneFlags::CLONE_NEWNET)?));
    if let Err(error) = entered {
        let hint = if error.kind() == io::ErrorKind::PermissionDenied {
            "run it as root"
        } else {
            "`netpath pod show` says whether the pod is ready; remove and add it again if its namespace is gone"
        };
        let what = format!("entering the network namespace {} of pod {}", pod.netns, pod.name);
        return Failed { what, reason: error.to_string(), hint }.into();
    }
    let Some((program, arguments)) = command.split_first() else {
        return NotRun::new(Path::new(""), &io::Error::from(io::ErrorKind::NotFound)).into();
    };
    let error = Command::new(program).args(arguments).exec();
    NotRun::new(Path::new(program), &error).into()
}

/// Opens a namespace's file as the agent sees it: it may live in another mount namespace.
pub(in crate::cli) fn open(netns: &str, agent: u32) -> io::Result<OwnedFd> {
    let root = format!("/proc/{agent}/root");
    let directory = File::open(&root)?;
    // With the agent's root as ours, so that links such as /var/run -> /run stay on its side.
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(&directory, netns, how) {
        // That mode refuses magic links, which /proc/PID/ns/net is; a plain walk follows them.
        Err(Errno::EXDEV | Errno::ELOOP) => Ok(File::open(format!("{root}/{netns}"))?.into()),
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn namespaces_open_by_plain_path_by_absolute_link_and_by_magic_link() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let own = std::process::id();
        for path in [&file, &link, &format!("/proc/{own}/ns/net").into()] {
            open(path.to_str().unwrap(), own).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        assert_eq!(open("/nowhere/at/all", own).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
