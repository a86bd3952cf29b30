//! Programs on interfaces: tcx links where the kernel has them (6.6), clsact filters below.
//!
//! A program is never detached first: a pinned link is updated in place, so that no packet meets an interface without
//! its program (invariant 2).

use std::{
    io::ErrorKind,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_detach_program},
};
use netpath_common::abi::Program;
use nix::errno::Errno;

use super::{
    error::{DatapathError, kernel},
    load::kernel_has,
    pins::Pins,
    qdisc,
};

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachKind {
    /// tcx links, pinned.
    Tcx,
    /// Filters on the clsact qdisc; they outlive the agent by themselves.
    Clsact,
}

impl AttachKind {
    /// The best the kernel has: tcx since 6.6 (e420bed02507).
    pub fn best() -> Self {
        if kernel_has(6, 6) { Self::Tcx } else { Self::Clsact }
    }

    /// Refuses what the kernel has not: its own words would be `Invalid argument`.
    pub(super) fn check(self) -> Result<(), DatapathError> {
        if self == Self::Tcx && !kernel_has(6, 6) {
            return Err(DatapathError::NoTcx);
        }
        Ok(())
    }

    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Priority of our clsact filters: the first, so that what we drop nobody else sees.
const PRIORITY: u16 = 1;
/// Handle of our clsact filters, fixed so that a later agent replaces them instead of adding to them.
const HANDLE: TcHandle = TcHandle::new(0, 0x6e70);

/// A link whose pin is removed lets go of its interface a little later, in a worker of the kernel, and until then the
/// kernel refuses the same program a second time.
const RELEASE: Duration = Duration::from_secs(1);

/// Which hook a program is for.
pub(super) fn hook(program: Program) -> TcAttachType {
    match program {
        Program::FromPod | Program::FromUplink => TcAttachType::Ingress,
        Program::ToPod | Program::ToUplink => TcAttachType::Egress,
    }
}

/// Attaches a loaded program, or replaces what an earlier agent attached. Idempotent.
pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: Program,
    pins: &Pins,
    kind: AttachKind,
    (ifname, ifindex): (&str, u32),
) -> Result<(), DatapathError> {
    let doing = format!("attaching {} to {ifname}", program.name());
    match kind {
        AttachKind::Tcx => tcx(classifier, program, &pins.link(ifindex, program.name()), ifname, &doing),
        AttachKind::Clsact => {
            // A pod's interface is ours as a whole.
            let shared = matches!(program, Program::FromUplink | Program::ToUplink);
            qdisc::ensure(ifname, shared.then(|| pins.qdisc(ifindex)).as_deref())?;
            clsact(classifier, program, ifname, &doing)
        }
    }
}

fn tcx(
    classifier: &mut SchedClassifier,
    program: Program,
    pin: &Path,
    ifname: &str,
    doing: &str,
) -> Result<(), DatapathError> {
    if attached_id(classifier, program, ifname, doing)? && pin.exists() {
        return Ok(());
    }
    if pin.exists() && replace(classifier, pin)? {
        if attached_id(classifier, program, ifname, doing)? {
            return Ok(());
        }
        // Somebody detached the link: its pin holds nothing any more.
        std::fs::remove_file(pin).map_err(kernel(format!("removing the stale pin {}", pin.display())))?;
    }
    // First on the way in; last on the way out, where to_uplink looks at what really leaves.
    let order = || if program == Program::ToUplink { LinkOrder::last() } else { LinkOrder::first() };
    let deadline = Instant::now() + RELEASE;
    let id = loop {
        match classifier.attach_with_options(ifname, hook(program), TcAttachOptions::TcxOrder(order())) {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(1));
            }
            outcome => break outcome.map_err(kernel(doing))?,
        }
    };
    let link: FdLink = classifier.take_link(id).map_err(kernel(doing))?.try_into().map_err(kernel(doing))?;
    link.pin(pin).map_err(kernel(format!("pinning the link of {} on {ifname}", program.name())))?;
    Ok(())
}

/// Puts a program into a pinned link, in one step. Returns false if the link's interface is gone; its pin is then as well.
pub(super) fn replace(classifier: &mut SchedClassifier, pin: &Path) -> Result<bool, DatapathError> {
    let doing = || format!("replacing the program of the link {}", pin.display());
    let old = PinnedLink::from_pin(pin).map_err(kernel(doing()))?;
    let link: SchedClassifierLink = FdLink::from(old).try_into().map_err(kernel(doing()))?;
    match classifier.attach_to_link(link) {
        // aya would hold the link, and removing its pin would detach nothing.
        Ok(id) => classifier.take_link(id).map(|_| true).map_err(kernel(doing())),
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            std::fs::remove_file(pin).map_err(kernel(format!("removing the stale pin {}", pin.display())))?;
            Ok(false)
        }
        Err(error) => Err(kernel(doing())(error)),
    }
}

/// Whether this very program is among the interface's tcx programs.
fn attached_id(
    classifier: &SchedClassifier,
    program: Program,
    ifname: &str,
    doing: &str,
) -> Result<bool, DatapathError> {
    let own = classifier.info().map_err(kernel(doing))?.id();
    let (_, programs) = SchedClassifier::query_tcx(ifname, hook(program)).map_err(kernel(doing))?;
    Ok(programs.iter().any(|info| info.id() == own))
}

fn clsact(
    classifier: &mut SchedClassifier,
    program: Program,
    ifname: &str,
    doing: &str,
) -> Result<(), DatapathError> {
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = match classifier.attach_with_options(ifname, hook(program), TcAttachOptions::Netlink(options)) {
        Ok(id) => id,
        Err(ProgramError::TcError(TcError::NetlinkError(_))) => {
            let link = SchedClassifierLink::attached(ifname, hook(program), PRIORITY, HANDLE, None)
                .map_err(kernel(doing))?;
            classifier.attach_to_link(link).map_err(kernel(doing))?
        }
        Err(error) => return Err(kernel(doing)(error)),
    };
    // aya detaches a filter when its link is dropped.
    std::mem::forget(classifier.take_link(id).map_err(kernel(doing))?);
    Ok(())
}

/// Removes our clsact filters from an interface; no error if there are none.
pub(super) fn detach_clsact(program: Program, ifname: &str) -> Result<(), DatapathError> {
    match qdisc_detach_program(ifname, hook(program), program.name()) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(kernel(format!("detaching {} from {ifname}", program.name()))(error)),
    }
}
