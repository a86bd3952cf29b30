//! The one error of this module.

use std::io;

use nix::errno::Errno;

/// What can go wrong: what was being done on which object, the kernel's reason, and what to try where that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {reason}")]
pub struct NetError {
    /// What was being done, on which object.
    pub doing: String,
    /// The kernel's reason.
    pub reason: String,
    /// errno (positive), if the kernel gave one.
    pub errno: Option<i32>,
}

impl NetError {
    /// An error found before the kernel was asked, or one that it cannot explain.
    pub(super) fn new(doing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { doing: doing.into(), reason: reason.into(), errno: None }
    }

    /// The kernel's refusal; `detail` is what it adds in words (netlink's extended acknowledgement).
    pub(super) fn kernel(doing: impl Into<String>, errno: i32, detail: Option<&str>) -> Self {
        let mut reason = Errno::from_raw(errno).desc().to_owned();
        if let Some(detail) = detail {
            reason = format!("{reason} ({})", detail.trim_end_matches(['.', '\n']));
        }
        if let Some(advice) = advice(errno) {
            reason = format!("{reason}; {advice}");
        }
        Self { doing: doing.into(), reason, errno: Some(errno) }
    }

    /// A failed system call.
    pub(super) fn errno(doing: impl Into<String>, errno: Errno) -> Self {
        Self::kernel(doing, errno as i32, None)
    }

    /// A failed file or thread operation.
    pub(super) fn io(doing: impl Into<String>, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::kernel(doing, errno, None),
            None => Self::new(doing, error.to_string()),
        }
    }

    /// The same error with a hint about this very situation.
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.reason = format!("{}; {hint}", self.reason);
        self
    }

    /// The same error as a part of something larger.
    pub(super) fn within(mut self, whole: &str) -> Self {
        self.doing = format!("{whole}: {}", self.doing);
        self
    }

    /// Whether the kernel answered with this errno.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno as i32)
    }
}

/// What helps whatever the operation was.
fn advice(errno: i32) -> Option<&'static str> {
    match Errno::from_raw(errno) {
        Errno::EPERM | Errno::EACCES => Some("run as root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"),
        Errno::EROFS => Some("mount it writable, or run the agent outside this container"),
        Errno::EMFILE | Errno::ENFILE => Some("raise the limit of open files (LimitNOFILE= of the service)"),
        _ => None,
    }
}

/// Formats an Ethernet address.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_why_and_what_to_try() {
        let error = NetError::errno("set link eth0 up", Errno::EPERM);
        assert_eq!(
            error.to_string(),
            "set link eth0 up: Operation not permitted; run as root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
        );
        let error =
            NetError::kernel("make veth a", Errno::EINVAL as i32, Some("mtu less than device minimum."));
        assert_eq!(error.to_string(), "make veth a: Invalid argument (mtu less than device minimum)");
        assert!(error.is(Errno::EINVAL));
    }
}
