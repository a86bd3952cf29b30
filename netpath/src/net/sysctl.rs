//! Sysctls of the calling thread's network namespace, by dotted or slashed key below `/proc/sys`.
//!
//! `/proc/sys/net` shows the namespace of the task that opens the file, not that of the mount: call these inside
//! [`Netns::enter`](super::Netns::enter) for another namespace.
//!
//! As in sysctl(8), the first separator of a key decides what separates: in `net/ipv4/conf/eth0.5/forwarding` dots
//! belong to names, and in `net.ipv4.conf.eth0/5.forwarding` a slash stands for the dot of `eth0.5`.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::errno::Errno;

use super::NetError;

/// Held by whoever writes. The kernel does not wait for its lock for links when a sysctl of a link is written: it sends the
/// writer round again (`restart_syscall`) until the lock is free. A few dozen writers at once would leave no time to who has it.
static WRITING: Mutex<()> = Mutex::new(());

/// Reads a value, trimmed. Fails on a malformed key, or if the kernel has no such key.
pub fn read(key: &str) -> Result<String, NetError> {
    let doing = || format!("read sysctl {key}");
    let path = path(key).map_err(|reason| NetError::new(doing(), reason))?;
    let text = read_at_once(&path).map_err(|error| explain(NetError::io(doing(), &error)))?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The kernel answers the first read of most sysctls, and ends there, however much did not fit. The standard library's
/// first read is of 32 bytes: a list of ports would be cut there, and what is written back for it would lack the rest.
fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut text = vec![0; 1024];
    loop {
        let length = file.read_at(&mut text, 0)?;
        if length < text.len() {
            text.truncate(length);
            return Ok(text);
        }
        text.resize(text.len() * 4, 0);
    }
}

/// Writes a value if it differs; returns what was there before, or `None` if nothing had to change. Fails on a
/// malformed key, if the kernel has no such key, or if it refuses the value.
pub fn write(key: &str, value: &str) -> Result<Option<String>, NetError> {
    let before = read(key)?;
    if before == value.trim() {
        return Ok(None);
    }
    let doing = || format!("set sysctl {key} to {value}");
    let path = path(key).map_err(|reason| NetError::new(doing(), reason))?;
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    // No truncation or creation: the file is a door to the kernel, and one write is one value.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| explain(NetError::io(doing(), &error)))?;
    Ok(Some(before))
}

/// The file of a key.
fn path(key: &str) -> Result<PathBuf, &'static str> {
    let slashed = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    };
    if slashed.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains('\0')) {
        return Err("not a sysctl key; write it like net.ipv4.ip_forward or net/ipv4/conf/eth0/forwarding");
    }
    Ok(PathBuf::from("/proc/sys").join(slashed))
}

/// A missing file means a missing feature or interface.
fn explain(error: NetError) -> NetError {
    if error.is(Errno::ENOENT) {
        error.hint("the kernel lacks this feature, or the interface is gone")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing;

    #[test]
    fn keys_become_paths() {
        for (key, file) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/5.forwarding", "net/ipv4/conf/eth0.5/forwarding"),
            ("net/ipv4/conf/eth0.5/forwarding", "net/ipv4/conf/eth0.5/forwarding"),
        ] {
            assert_eq!(path(key).unwrap(), PathBuf::from("/proc/sys").join(file), "{key}");
        }
    }

    #[test]
    fn keys_never_leave_proc_sys() {
        for key in
            ["", "/etc/passwd", "net/../../etc", "net/./x", "net..x", "..", "net/ipv4/", ".net", "a\0b"]
        {
            let error = read(key).unwrap_err();
            assert!(error.reason.contains("not a sysctl key"), "{key}: {error}");
            assert!(write(key, "1").is_err(), "{key}");
        }
    }

    #[test]
    fn writes_only_differences_and_tells_what_was_there() {
        testing::isolate();
        let key = "net.ipv4.ip_forward";
        assert_eq!(read(key).unwrap(), "0");
        assert_eq!(write(key, "1").unwrap().as_deref(), Some("0"));
        assert_eq!(write(key, "1").unwrap(), None);
        assert_eq!(write(key, "0").unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn a_long_value_is_read_whole() {
        testing::isolate();
        let key = "net.ipv4.ip_local_reserved_ports";
        for count in [1, 5, 6, 7, 170, 171, 700] {
            let ports: Vec<String> = (0..count).map(|n| (20_000 + 2 * n).to_string()).collect();
            let list = ports.join(",");
            write(key, &list).unwrap();
            assert_eq!(read(key).unwrap(), list, "{count} ports");
        }
    }

    #[test]
    fn errors_name_the_key_and_the_reason() {
        testing::isolate();
        let error = read("net.ipv4.conf.none0.forwarding").unwrap_err().to_string();
        assert_eq!(
            error,
            "read sysctl net.ipv4.conf.none0.forwarding: No such file or directory; \
             the kernel lacks this feature, or the interface is gone"
        );
        let error = write("net.ipv4.ip_forward", "many").unwrap_err().to_string();
        assert_eq!(error, "set sysctl net.ipv4.ip_forward to many: Invalid argument");
    }
}
