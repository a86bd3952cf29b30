//! Processes of a lab: known by pid and start time, so that a pid that was given to somebody else is never killed.

use std::{
    fs, io,
    os::{fd::OwnedFd, linux::fs::MetadataExt},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// How long a process may take to end after each signal, unless a test says otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The same of SIGKILL, at least: the kernel ends it when it next has a processor.
const DYING: Duration = Duration::from_secs(10);

/// A process, and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Process id.
    pub(super) pid: u32,
    /// Clock ticks after boot at which it began: field 22 of `/proc/PID/stat`.
    pub(super) start: u64,
}

impl Process {
    /// The process that has this pid now; `None` if none has, or it only waits to be reaped.
    pub(super) fn find(pid: u32) -> Option<Self> {
        let (state, start) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start })
    }

    /// This process.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub(super) fn current() -> io::Result<Self> {
        Self::find(std::process::id()).ok_or_else(|| io::Error::other("/proc does not show this process"))
    }

    /// Whether it still runs.
    pub(super) fn alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Inode of its mount namespace.
    pub(super) fn mount_namespace(self) -> Option<u64> {
        fs::metadata(format!("/proc/{}/ns/mnt", self.pid)).ok().map(|file| file.st_ino())
    }

    /// A handle that cannot come to mean another process; `None` if it is gone.
    fn open(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now: the pid could have changed hands before the handle was there.
        self.alive().then_some(handle)
    }
}

/// Processes in a mount namespace.
pub(super) fn in_mount_namespace(inode: u64) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::find)
        .filter(|process| process.mount_namespace() == Some(inode))
        .collect()
}

/// Ends processes: SIGTERM, and SIGKILL for those that do not listen within `patience`. Returns how many were there,
/// once all are gone.
///
/// # Errors
/// If one neither ends nor dies.
pub(super) fn end(processes: &[Process], patience: Duration) -> io::Result<usize> {
    let mut handles: Vec<OwnedFd> = processes.iter().filter_map(|process| process.open()).collect();
    let found = handles.len();
    for signal in [Signal::TERM, Signal::KILL] {
        for handle in &handles {
            // The only failure is that it is gone, which is what we want.
            let _ = pidfd_send_signal(handle, signal);
        }
        // Of SIGKILL it dies when the kernel gets round to it.
        let patience = if signal == Signal::KILL { patience.max(DYING) } else { patience };
        handles = wait(handles, patience)?;
    }
    if handles.is_empty() {
        Ok(found)
    } else {
        Err(io::Error::other("a process does not end, not even by SIGKILL"))
    }
}

/// Waits until all have ended or `patience` is over; returns those that have not.
fn wait(mut handles: Vec<OwnedFd>, patience: Duration) -> io::Result<Vec<OwnedFd>> {
    let deadline = Instant::now() + patience;
    while !handles.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut polled: Vec<_> = handles.iter().map(|handle| PollFd::new(handle, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        drop(polled);
        let mut ended = ended.into_iter();
        handles.retain(|_| !ended.next().unwrap_or(false));
    }
    Ok(handles)
}

/// State and start time from `/proc/PID/stat`. The name may hold spaces and parentheses, so count from its end.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn cat() -> std::process::Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn stat_with_a_hostile_name() {
        let stat = "42 (a) S 1 (x) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(stat), Some(('R', 777)));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (short) S 1"), None);
    }

    #[test]
    fn a_reused_pid_is_not_ours() {
        let mut child = cat();
        let process = Process::find(child.id()).unwrap();
        assert!(process.alive());
        let before_it = Process { start: process.start - 1, ..process };
        assert!(!before_it.alive());
        assert_eq!(end(&[before_it], PATIENCE).unwrap(), 0);
        assert!(process.alive());
        assert_eq!(end(&[process], PATIENCE).unwrap(), 1);
        assert!(!process.alive(), "a zombie does not count as running");
        child.wait().unwrap();
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed() {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "trap '' TERM; echo ready; read forever"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut ready = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let process = Process::find(child.id()).unwrap();
        assert_eq!(end(&[process], Duration::from_millis(50)).unwrap(), 1);
        child.wait().unwrap();
    }

    #[test]
    fn own_mount_namespace_holds_this_process() {
        let this = Process::current().unwrap();
        assert!(in_mount_namespace(this.mount_namespace().unwrap()).contains(&this));
    }
}
