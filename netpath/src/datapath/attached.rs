//! What of ours is attached, where, and by which kind, as the kernel tells; and what of it goes.

use std::collections::HashSet;

use netpath_common::abi::Program;
use nix::net::if_::if_indextoname;

use super::{
    Datapath,
    attach::{self, Attach, AttachKind},
    clsact::{self, Filter},
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

    /// Those of these interfaces of pods that lack a program, or its pin. One that is gone is not among them. Filters are looked
    /// for on an interface that has its `turn`, or may have lost a pin: who takes a filter away is announced.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn bare_pods(&mut self, interfaces: &[(u32, bool)]) -> Result<HashSet<u32>, DatapathError> {
        let Attach { pods, settles, .. } = self.attach;
        let mut found = Vec::new();
        if settles || pods == AttachKind::Tcx {
            found = attach::linked(&self.pins, |_| true)?;
        }
        let pinned: HashSet<(u32, String)> =
            found.iter().map(|one| (one.ifindex, one.program.clone())).collect();
        let is_pinned = |ifindex, program: Program| pinned.contains(&(ifindex, program.name().to_owned()));
        let has_filters = |(ifindex, turn): &(u32, bool)| {
            pods == AttachKind::Clsact && (*turn || settles && !is_pinned(*ifindex, Program::FromPod))
        };
        let looked_at: Vec<u32> = interfaces.iter().filter(|one| has_filters(one)).map(|one| one.0).collect();
        found.extend(clsact::on(self.pins.owner, &looked_at)?.iter().map(Attachment::from));
        let running: HashSet<_> = found.iter().map(|one| (one.ifindex, one.id)).collect();
        let mut bare = HashSet::new();
        for program in [Program::ToPod, Program::FromPod] {
            let info = load::classifier(&mut self.ebpf, program)?.info();
            let id = info.map_err(kernel(format!("reading {}", program.name())))?.id();
            let is_known =
                |one: &&(u32, bool)| pods == AttachKind::Tcx || has_filters(one) || is_pinned(one.0, program);
            let lacks = |one: &&(u32, bool)| is_known(one) && !running.contains(&(one.0, Some(id)));
            bare.extend(interfaces.iter().filter(lacks).map(|one| one.0));
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
        // One loading does not know the other's notes: where both kinds are, an agent has died in the middle of a change.
        let mut outcome = self.drop_behind(&clsact::everywhere(self.pins.owner, |_| true)?);
        // `from_pod` tells packets their tunnel, which an earlier build's `to_overlay` does not know of.
        let (mut links, mut filters) =
            (self.pins.all_links()?, clsact::everywhere(self.pins.owner, |_| true)?);
        links.sort_by_key(|(_, name, _)| name != Program::ToOverlay.name());
        filters.sort_by_key(|filter| filter.program != Program::ToOverlay.name());
        for (_, name, pin) in links {
            let Some(program) = known(&name) else { continue };
            let replaced = if program.is_xdp() {
                xdp::replace(load::xdp(&mut self.ebpf, program)?, &pin)
            } else {
                attach::replace(load::classifier(&mut self.ebpf, program)?, &pin)
            };
            outcome = outcome.and(replaced.map(drop));
        }
        for filter in filters {
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

    /// Removes filters that are behind a running link of the same program.
    pub(super) fn drop_behind(&self, filters: &[Filter]) -> Result<(), DatapathError> {
        let filtered: HashSet<u32> = filters.iter().map(|filter| filter.ifindex).collect();
        let linked = attach::linked(&self.pins, |ifindex| filtered.contains(&ifindex))?;
        let before: HashSet<(u32, &str)> = linked
            .iter()
            .filter(|one| one.kind.is_some() && one.id.is_some())
            .map(|one| (one.ifindex, one.program.as_str()))
            .collect();
        let behind = filters.iter().filter(|one| before.contains(&(one.ifindex, one.program.as_str())));
        behind.map(Filter::remove).fold(Ok(()), Result::and)
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
            outcome = filters.iter().map(Filter::remove).fold(outcome, Result::and);
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
            .filter(|one| one.kind.is_some() && !self.attach.is_unsettled(one) && one.id.is_some())
            .map(|one| (one.ifindex, one.program.as_str()))
            .collect();
        let goes = |one: &Attachment| {
            !known(one.ifindex)
                || !is_ours(&one.program)
                || (self.attach.is_unsettled(one) && own.contains(&(one.ifindex, one.program.as_str())))
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
