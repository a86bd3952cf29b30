//! Programs on interfaces: tcx links where the kernel has them (6.6), clsact filters below.
//!
//! A program is never detached first: a pinned link is updated in place, so that no packet meets an interface without
//! its program (invariant 2).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::ErrorKind,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError},
};
use netpath_common::abi::Program;
use nix::errno::Errno;

use super::{
    Attachment, attached,
    bpf::{self, TcxHook},
    clsact::{self, Owner},
    error::{DatapathError, kernel},
    host_sock::HOST,
    load::kernel_has,
    pins::Pins,
    xdp,
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
    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// How the programs of pods and those of uplinks are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// On the host ends of pods, at once.
    pub pods: AttachKind,
    /// On uplinks.
    pub uplinks: AttachKind,
    /// Whether `from_pod` goes on to tcx once there is time for it: [`Settler`](super::Settler). Programs of pods may be of
    /// either kind then.
    pub settles: bool,
}

impl Attach {
    /// What suits each. An uplink is there before us, and others work on it: tcx where the kernel has it (6.6, e420bed02507),
    /// since adding a clsact qdisc to what is in use loses packets. A pod's host end is new and ours alone: filters, which
    /// take microseconds, where each program that comes to or leaves tcx waits for a grace period of the kernel (`tcx_entry_sync`),
    /// 8 to 16 ms with the kernel's one lock for links held. But a filter costs each packet more.
    pub fn best() -> Self {
        let settles = kernel_has(6, 6);
        let uplinks = if settles { AttachKind::Tcx } else { AttachKind::Clsact };
        Self { pods: AttachKind::Clsact, uplinks, settles }
    }

    /// How one of the tc programs is attached where it is not yet.
    pub(super) fn of(self, program: Program) -> AttachKind {
        match program {
            Program::FromPod | Program::ToPod => self.pods,
            _ => self.uplinks,
        }
    }

    /// How it is attached in the end. `to_pod` stays: no packet of a pod to another meets it, and each program on tcx holds
    /// everybody up for another grace period, when it comes and when its interface goes.
    fn settled(self, program: Program) -> AttachKind {
        if self.settles && program == Program::FromPod { AttachKind::Tcx } else { self.of(program) }
    }

    /// Whether something is attached otherwise than it ever is to be.
    pub(super) fn is_other(self, one: &Attachment) -> bool {
        let of_pod = |program| matches!(program, Program::FromPod | Program::ToPod);
        let either = self.settles && attached::known(&one.program).is_some_and(of_pod);
        !either && self.is_unsettled(one)
    }

    /// Whether something is attached otherwise than in the end.
    pub(crate) fn is_unsettled(self, one: &Attachment) -> bool {
        let wanted = attached::known(&one.program).map(|program| self.settled(program));
        one.kind.is_some_and(|kind| wanted.is_some_and(|wanted| kind != wanted))
    }

    /// Refuses what the kernel has not: its own words would be `Invalid argument`.
    pub(super) fn check(self) -> Result<(), DatapathError> {
        if [self.pods, self.uplinks].contains(&AttachKind::Tcx) && !kernel_has(6, 6) {
            return Err(DatapathError::NoTcx);
        }
        Ok(())
    }
}

impl From<AttachKind> for Attach {
    fn from(kind: AttachKind) -> Self {
        Self { pods: kind, uplinks: kind, settles: false }
    }
}

/// A link whose pin is removed lets go of its interface a little later, in a worker of the kernel; until then its program
/// runs, and the kernel refuses the same one a second time.
const RELEASE: Duration = Duration::from_secs(5);

/// Which hook a tc program is for.
pub(super) fn hook(program: Program) -> TcAttachType {
    match program {
        Program::ToPod | Program::ToUplink | Program::ToOverlay => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

/// What is attached by pinned links, or was, to the interfaces that are asked for.
pub(super) fn linked(pins: &Pins, asked: impl Fn(u32) -> bool) -> Result<Vec<Attachment>, DatapathError> {
    let mut on_hooks = BTreeMap::new();
    let mut found = Vec::new();
    for (ifindex, program, pin) in pins.all_links()?.into_iter().filter(|(ifindex, ..)| asked(*ifindex)) {
        if ifindex == HOST {
            let link = bpf::cgroup_link(&pin).ok().flatten();
            let id = link.filter(|link| link.cgroup.is_some()).map(|link| link.program);
            found.push(Attachment { program, ifindex, kind: None, id });
            continue;
        }
        let link = PinnedLink::from_pin(&pin).and_then(|link| FdLink::from(link).info());
        // A pin that cannot be read holds no link: its program is attached anew.
        let id = link.ok().map(|link| link.program_id());
        if attached::known(&program).is_some_and(Program::is_xdp) {
            found.push(Attachment { program, ifindex, kind: None, id });
            continue;
        }
        let running = match on_hooks.entry(ifindex) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(running(ifindex)?),
        };
        let id = id.filter(|id| running.contains(id));
        found.push(Attachment { program, ifindex, kind: Some(AttachKind::Tcx), id });
    }
    Ok(found)
}

/// Ids of the programs on an interface's tcx hooks; none if it is gone.
fn running(ifindex: u32) -> Result<Vec<u32>, DatapathError> {
    let mut ids = Vec::new();
    for hook in [TcxHook::Ingress, TcxHook::Egress] {
        match bpf::attached(ifindex, hook) {
            Ok(found) => ids.extend(found),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {}
            Err(error) => {
                return Err(kernel(format!("reading the programs of the interface with index {ifindex}"))(
                    error,
                ));
            }
        }
    }
    Ok(ids)
}

/// Removes a link's pin.
pub(super) fn unpin(pin: &Path) -> Result<(), DatapathError> {
    std::fs::remove_file(pin).map_err(kernel(format!("removing the pin {}", pin.display())))
}

/// Removes the pins of these links, and waits until nothing runs by them. Tries all.
pub(super) fn unlink(pins: &Pins, links: &[&Attachment]) -> Result<(), DatapathError> {
    let mut outcome = Ok(());
    for link in links {
        outcome = outcome.and(xdp::remove(&pins.link(link.ifindex, &link.program)));
    }
    // XDP lets go at once; and below 6.6 there are no hooks of tcx to ask.
    let hooked = links.iter().filter(|link| link.kind == Some(AttachKind::Tcx));
    for (ifindex, id) in hooked.filter_map(|link| Some((link.ifindex, link.id?))) {
        let deadline = Instant::now() + RELEASE;
        while running(ifindex)?.contains(&id) {
            if Instant::now() > deadline {
                let doing = format!("detaching the program {id} from the interface with index {ifindex}");
                return outcome.and(Err(kernel(doing)(std::io::Error::from(ErrorKind::TimedOut))));
            }
            sleep(Duration::from_millis(1));
        }
    }
    outcome
}

/// Attaches a loaded program, or replaces what an earlier agent attached. Idempotent.
pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: Program,
    pins: &Pins,
    kind: AttachKind,
    (ifname, ifindex): (&str, u32),
) -> Result<(), DatapathError> {
    match kind {
        AttachKind::Tcx => {
            let doing = format!("attaching {} to {ifname}", program.name());
            tcx(classifier, program, &pins.link(ifindex, program.name()), ifname, &doing)
        }
        AttachKind::Clsact => {
            clsact::ensure_qdisc(ifname, &pins.qdisc(ifindex))?;
            filter(classifier, program, pins.owner, ifname)
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
        unpin(pin)?;
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
        Ok(id) => {
            // The pin alone is to hold the link: kept open here, it would outlive its pin.
            drop(classifier.take_link(id).map_err(kernel(doing()))?);
            Ok(true)
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            unpin(pin)?;
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

/// Attaches a program as a filter, or puts it into the filter that is there, in one step (cls_bpf exchanges the program
/// under RCU).
pub(super) fn filter(
    classifier: &mut SchedClassifier,
    program: Program,
    owner: Owner,
    ifname: &str,
) -> Result<(), DatapathError> {
    let doing = format!("attaching {} to {ifname}", program.name());
    let place = owner.place(program);
    let NlOptions { priority, handle, classid } = place;
    let id = match classifier.attach_with_options(ifname, hook(program), TcAttachOptions::Netlink(place)) {
        Ok(id) => id,
        Err(ProgramError::TcError(TcError::NetlinkError(_))) => {
            let link = SchedClassifierLink::attached(ifname, hook(program), priority, handle, classid)
                .map_err(kernel(&doing))?;
            classifier.attach_to_link(link).map_err(kernel(&doing))?
        }
        Err(error) => return Err(kernel(doing)(error)),
    };
    // aya detaches a filter when its link is dropped.
    std::mem::forget(classifier.take_link(id).map_err(kernel(doing))?);
    Ok(())
}
