//! Links of cgroups, which aya 0.14 can make and neither update nor tell of, and the namespace they are for; links of tcx made
//! beside whoever else works on aya's program.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
    path::Path,
};

use nix::libc;

use super::{OBJ_PIN, Pinned, TcxHook, bpf, open_link};

const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Since Linux 5.7.
const LINK_UPDATE: libc::c_long = 29;
/// Since Linux 5.7; for tcx since 6.6.
const LINK_CREATE: libc::c_long = 28;
/// `BPF_F_BEFORE`: before all others, if none is named.
const BEFORE: u32 = 1 << 3;
/// `enum bpf_link_type`.
const OF_CGROUP: u32 = 3;

/// What a cgroup's link tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datapath) struct CgroupLink {
    /// Kernel's id of the program.
    pub(in crate::datapath) program: u32,
    /// Kernel's id of the cgroup; absent once it is gone, or somebody has detached the link.
    pub(in crate::datapath) cgroup: Option<u64>,
}

/// Reads the link that is pinned here; `None` if there is none of a cgroup.
pub(in crate::datapath) fn cgroup_link(pin: &Path) -> io::Result<Option<CgroupLink>> {
    let link = match open_link(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        link => link?,
    };
    let mut info = LinkInfo::default();
    let arguments = Info {
        fd: link.as_raw_fd(),
        length: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes at `info`, which is borrowed for the call; any bytes are one.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &raw const arguments) }?;
    let cgroup = Some(info.cgroup).filter(|id| *id != 0);
    Ok((info.kind == OF_CGROUP).then_some(CgroupLink { program: info.program, cgroup }))
}

/// Puts a program into the link that is pinned here, in one step.
pub(in crate::datapath) fn update_pinned(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open_link(pin)?;
    let arguments = Update { link: link.as_raw_fd(), program: program.as_raw_fd(), flags: 0, earlier: 0 };
    // SAFETY: the kernel reads the numbers of two descriptors, which are open through the call.
    unsafe { bpf(LINK_UPDATE, &raw const arguments) }.map(drop)
}

/// Attaches a program to a tcx hook, before all that are there, by a link with a pin of its own. Waits for a grace period, in which
/// the program runs already.
pub(in crate::datapath) fn pin_first(
    program: BorrowedFd<'_>,
    (ifindex, hook): (u32, TcxHook),
    pin: &Path,
) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let (program, hook) = (program.as_raw_fd(), hook as u32);
    let arguments = Create { program, ifindex, hook, flags: BEFORE, relative: 0, pad: 0, revision: 0 };
    // SAFETY: the kernel reads numbers; that of the descriptor is open through the call.
    let link = unsafe { bpf(LINK_CREATE, &raw const arguments) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    let arguments = Pinned { path: path.as_ptr() as u64, fd: link.as_raw_fd().cast_unsigned(), flags: 0 };
    // SAFETY: the kernel reads the path up to its zero byte; it is borrowed for the call, in which the descriptor is open.
    unsafe { bpf(OBJ_PIN, &raw const arguments) }.map(drop)
}

/// Number of this thread's network namespace, never given again before the next boot; since Linux 5.14 (e8b9eab99232).
///
/// # Errors
/// If there is no descriptor left.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes at `cookie`, and `length` itself; both are borrowed for the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// `struct { … } info` of `union bpf_attr`.
#[repr(C)]
struct Info {
    fd: i32,
    length: u32,
    info: u64,
}

/// `struct { … } link_update` of `union bpf_attr`.
#[repr(C)]
struct Update {
    link: i32,
    program: i32,
    flags: u32,
    earlier: u32,
}

/// `struct { … } link_create` of `union bpf_attr`, with what its union has of tcx.
#[repr(C)]
struct Create {
    program: i32,
    ifindex: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// The beginning of `struct bpf_link_info`, with what its union has of a cgroup's link.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    hook: u32,
    end: u32,
}
