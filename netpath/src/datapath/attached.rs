//! What of ours is attached, where, and by which kind, as the kernel tells; and what of it goes.

use std::collections::HashSet;

use netpath_common::abi::Program;
use nix::net::if_::if_indextoname;

use super::{
    Datapath,
    attach::{self, AttachKind},
    clsact,
    error::{DatapathError, kernel},
    host_sock::{HOST, SOCKET_HOOKS},
    load::{self, PROGRAMS},
    moving,
    pins::Pins,
    xdp,
};

/// A program where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name in the ELF, perhaps that of a later build.
    pub program: String,
    /// Interface index; 0 for a hook of the node's sockets.
    pub ifindex: u32,
    /// How; absent for XDP and for hooks of sockets.
    pub kind: Option<AttachKind>,
    /// Kernel's id of the program; absent if a pin is left but nothing runs by it: the interface is gone, or somebody has
    /// detached the link.
    pub id: Option<u32>,
}

impl Attachment {
    /// Whether it is a hook of the node's sockets, on a cgroup.
    pub fn is_socket_hook(&self) -> bool {
        self.ifindex == HOST
    }
}

impl Datapath {
    /// Everything of this instance that is attached, whichever build attached it, and however.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attachments(&self) -> Result<Vec<Attachment>, DatapathError> {
        all(&self.pins)
    }

    /// Those of these interfaces of pods that lack a program, or its pin. One that is gone is not among them.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn bare_pods(&mut self, interfaces: &[u32]) -> Result<HashSet<u32>, DatapathError> {
        let found: Vec<Attachment> = match self.attach.pods {
            AttachKind::Tcx => attach::linked(&self.pins, |_| true)?,
            AttachKind::Clsact => {
                clsact::on(self.pins.owner, interfaces)?.iter().map(Attachment::from).collect()
            }
        };
        let running: HashSet<_> = found.iter().map(|one| (one.ifindex, one.id)).collect();
        let mut bare = HashSet::new();
        for program in [Program::ToPod, Program::FromPod] {
            let info = load::classifier(&mut self.ebpf, program)?.info();
            let id = info.map_err(kernel(format!("reading {}", program.name())))?.id();
            bare.extend(interfaces.iter().filter(|ifindex| !running.contains(&(**ifindex, Some(id)))));
        }
        bare.retain(|ifindex| if_indextoname(*ifindex).is_ok());
        Ok(bare)
    }

    /// Puts these programs into every link and filter of an earlier agent, each in one step. Links of interfaces that are
    /// gone lose their pins.
    ///
    /// # Errors
    /// The kernel's reason for the first that failed, after trying all.
    pub fn take_over(&mut self) -> Result<(), DatapathError> {
        let mut outcome = Ok(());
        for (_, name, pin) in self.pins.all_links()? {
            let Some(program) = known(&name) else { continue };
            let replaced = if program.is_xdp() {
                xdp::replace(load::xdp(&mut self.ebpf, program)?, &pin)
            } else {
                attach::replace(load::classifier(&mut self.ebpf, program)?, &pin)
            };
            outcome = outcome.and(replaced.map(drop));
        }
        for filter in clsact::everywhere(self.pins.owner, |_| true)? {
            let (Some(program), Ok(name)) = (known(&filter.program), if_indextoname(filter.ifindex)) else {
                continue;
            };
            let classifier = load::classifier(&mut self.ebpf, program)?;
            let owner = self.pins.owner;
            outcome = outcome.and(attach::filter(classifier, program, owner, &name.to_string_lossy()));
        }
        if self.changing {
            // No packet may have met one of the earlier programs, which leave no note, when it comes to one that is attached
            // behind it from now on.
            moving::grace();
        }
        outcome
    }

    /// Removes our programs and their pins from an interface; no error if none are there, or if it is gone.
    ///
    /// # Errors
    /// The kernel's reason, after trying all.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let pins = PROGRAMS.map(|program| self.pins.link(ifindex, program.name()));
        let mut outcome = pins.iter().map(|pin| xdp::remove(pin)).fold(Ok(()), Result::and);
        if self.attach.pods == AttachKind::Clsact {
            let filters = clsact::on(self.pins.owner, &[ifindex])?;
            outcome = filters.iter().map(clsact::Filter::remove).fold(outcome, Result::and);
        }
        outcome.and_then(|()| clsact::remove_qdisc(ifindex, &self.pins.qdisc(ifindex)))
    }

    /// Removes what of ours is not to be where it is: everything from an interface that is not `known`; what this build does
    /// not know (a later one has attached it); and what is of the other kind, where the same program of this kind is in its
    /// place. The clsact qdisc of a known interface stays even if it is empty: the kernel loses what leaves at that moment by
    /// an interface whose qdisc comes or goes. `known` tells of each interface whether it is to be looked at, which is a few system
    /// calls; of one that is not known, nothing.
    ///
    /// # Errors
    /// The kernel's reason, after trying all.
    pub fn drop_others(&mut self, known: impl Fn(u32) -> Option<bool> + Sync) -> Result<(), DatapathError> {
        // What is on no interface is nobody's to take away here.
        let asked = |ifindex| known(ifindex).unwrap_or(ifindex != HOST);
        let known = |ifindex| ifindex == HOST || known(ifindex).is_some();
        let linked = attach::linked(&self.pins, asked)?;
        let filters = clsact::everywhere(self.pins.owner, asked)?;
        let all: Vec<Attachment> = linked.iter().cloned().chain(filters.iter().map(Into::into)).collect();
        let own: HashSet<(u32, &str)> = all
            .iter()
            .filter(|one| one.kind.is_some() && !self.attach.is_other(one) && one.id.is_some())
            .map(|one| (one.ifindex, one.program.as_str()))
            .collect();
        let goes = |one: &Attachment| {
            !known(one.ifindex)
                || !is_ours(&one.program)
                || (self.attach.is_other(one) && own.contains(&(one.ifindex, one.program.as_str())))
        };
        let links: Vec<&Attachment> = linked.iter().filter(|one| goes(one)).collect();
        let mut outcome = attach::unlink(&self.pins, &links);
        links.into_iter().for_each(tell);
        for (filter, one) in filters.iter().map(|filter| (filter, Attachment::from(filter))) {
            if goes(&one) {
                outcome = outcome.and(filter.remove());
                tell(&one);
            }
        }
        for (ifindex, mark) in self.pins.all_qdiscs().into_iter().filter(|(ifindex, _)| !known(*ifindex)) {
            outcome = outcome.and(clsact::remove_qdisc(ifindex, &mark));
        }
        outcome
    }
}

/// Everything of an instance that is attached.
pub(super) fn all(pins: &Pins) -> Result<Vec<Attachment>, DatapathError> {
    let mut all = attach::linked(pins, |_| true)?;
    all.extend(clsact::everywhere(pins.owner, |_| true)?.iter().map(Attachment::from));
    Ok(all)
}

/// The program of this build with a name.
pub(super) fn known(name: &str) -> Option<Program> {
    PROGRAMS.into_iter().find(|program| program.name() == name)
}

/// Whether this build has a program with this name.
fn is_ours(name: &str) -> bool {
    known(name).is_some() || SOCKET_HOOKS.contains(&name)
}

fn tell(one: &Attachment) {
    let Attachment { program, ifindex, kind, .. } = one;
    tracing::info!(program, ifindex, kind = kind.map_or("xdp", AttachKind::name), "detached");
}
