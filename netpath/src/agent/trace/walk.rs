//! From program to program, and the answer back.

use netpath_common::abi::{self, DropReason, Program, TraceStage, TraceStep, TrafficClass};

use super::{
    super::AgentError,
    packet::{Packet, read},
    view::View,
};
use crate::{
    api::types::{Trace, TracedPacket, TracedProgram, TracedWay},
    datapath::{At, DryRun},
    model::GATEWAY_MAC,
};

/// A frame at the program that it meets first.
pub(super) struct Start {
    pub(super) program: Program,
    pub(super) ifindex: u32,
    pub(super) frame: Vec<u8>,
}

/// A program that a packet met, and what it told.
pub(super) struct Hop {
    pub(super) program: Program,
    pub(super) ifindex: u32,
    /// The packet as it came.
    pub(super) packet: TracedPacket,
    pub(super) trace: abi::Trace,
}

impl Hop {
    /// The decision of a stage.
    pub(super) fn step(&self, stage: TraceStage) -> Option<&TraceStep> {
        self.steps().find_map(|(own, step)| (own == stage).then_some(step))
    }

    /// All decisions, in order.
    pub(super) fn steps(&self) -> impl Iterator<Item = (TraceStage, &TraceStep)> {
        let used = self.trace.steps.iter().take(self.trace.count as usize);
        used.filter_map(|step| Some((TraceStage::from_u8(step.stage)?, step)))
    }

    /// Why the packet was dropped, if it was.
    pub(super) fn reason(&self) -> Option<DropReason> {
        DropReason::from_u8(u8::try_from(self.trace.row).ok()?)
    }

    /// What it was counted as, if it was.
    pub(super) fn class(&self) -> Option<TrafficClass> {
        TrafficClass::ALL.into_iter().find(|class| *class as u32 == self.trace.row)
    }

    /// Whether a flow would be made for the packet.
    pub(super) fn makes_flow(&self) -> bool {
        [TraceStage::Bound, TraceStage::Tracked, TraceStage::Published]
            .into_iter()
            .any(|stage| self.step(stage).is_some())
    }

    /// Where a packet ends if no other program follows.
    pub(super) fn end(&self) -> End {
        use TrafficClass as C;
        match (self.reason(), self.class(), self.program) {
            (Some(_), _, _) => End::Dropped,
            (_, Some(C::Local | C::Reply | C::Inbound | C::Published | C::FromStack), _) => End::Pod,
            (_, Some(C::Neighbour), _) => End::Answered,
            (_, None, Program::ToUplink) => End::Wire,
            (_, Some(C::Routed), _) if self.is_tunnelled() => End::Tunnel,
            _ => End::Stack,
        }
    }

    /// Whether it goes by a tunnel.
    pub(super) fn is_tunnelled(&self) -> bool {
        self.step(TraceStage::Route).is_some_and(|step| step.code == abi::RouteKind::Tunnel as u8)
    }

    /// The uplink that it hands the packet to.
    fn uplink(&self) -> Option<u32> {
        let leaves = matches!(self.class(), Some(TrafficClass::Translated | TrafficClass::Routed));
        self.step(TraceStage::NextHop).filter(|_| leaves).map(|step| step.number)
    }
}

/// Where a packet ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In the pod that has its destination address.
    Pod,
    /// On the wire of an uplink.
    Wire,
    /// On its way to another node, by a tunnel.
    Tunnel,
    /// In the node's stack.
    Stack,
    /// Back where it came from, as an answer.
    Answered,
    /// Nowhere.
    Dropped,
}

/// The programs, and the names for what they tell.
pub(super) struct Walk<'a> {
    pub(super) dry_run: &'a mut DryRun,
    pub(super) view: View,
}

impl Walk<'_> {
    /// The way of a packet, and that of its answer.
    pub(super) fn both_ways(mut self, start: Start) -> Result<Trace, AgentError> {
        let (hops, packet) = self.hops(start)?;
        let reply = match self.answer(&hops, &packet) {
            Some(start) => {
                let (hops, packet) = self.hops(start)?;
                Some(self.tell(&hops, packet))
            }
            None => None,
        };
        let is_new = hops.iter().any(Hop::makes_flow);
        let no_reply = match reply {
            Some(_) => None,
            None if is_new => {
                Some("no flow is known yet; what its first packet makes will lead answers back")
            }
            None => Some("it reaches nobody whose answer the programs would see"),
        };
        let no_reply = no_reply.map(str::to_owned);
        Ok(Trace { forward: self.tell(&hops, packet), reply, no_reply })
    }

    /// The programs that a packet meets, and the packet as they leave it.
    fn hops(&mut self, start: Start) -> Result<(Vec<Hop>, TracedPacket), AgentError> {
        let (mut hops, mut frame, mut mark, mut from) = (Vec::new(), start.frame, 0, 0);
        let denied = start.program == Program::FromUplink && self.view.denying;
        let first = if denied { Program::XdpUplink } else { start.program };
        let mut next = Some((first, start.ifindex));
        while let Some((program, ifindex)) = next {
            let packet = read(&frame).ok_or(AgentError::UnreadablePacket(program.name()))?;
            let at = At { frame: &frame, ifindex, ingress_ifindex: from, mark };
            let ran = self.dry_run.run(program, at)?;
            let hop = Hop { program, ifindex, packet, trace: ran.trace };
            (frame, mark) = (ran.frame, ran.mark);
            from = if program.is_xdp() { 0 } else { ifindex };
            next = match program {
                Program::XdpUplink => hop.reason().is_none().then_some((Program::FromUplink, ifindex)),
                _ => hop.uplink().map(|uplink| (Program::ToUplink, uplink)),
            };
            hops.push(hop);
        }
        let left = read(&frame).ok_or(AgentError::UnreadablePacket("the last program"))?;
        Ok((hops, left))
    }

    /// Where the answer to a packet begins, if its way can be told.
    fn answer(&self, hops: &[Hop], packet: &TracedPacket) -> Option<Start> {
        let (first, last) = (hops.first()?, hops.last()?);
        if hops.iter().any(Hop::makes_flow) {
            return None;
        }
        let answer = Packet::answer_to(packet, first.trace.key.proto);
        match last.end() {
            End::Pod => {
                let (ifindex, mac) = self.view.way_to(packet.destination)?;
                let frame = answer.frame(mac, GATEWAY_MAC).ok()?;
                Some(Start { program: Program::FromPod, ifindex, frame })
            }
            End::Wire => {
                let frame = answer.frame(GATEWAY_MAC, self.view.mac_of(last.ifindex)).ok()?;
                Some(Start { program: Program::FromUplink, ifindex: last.ifindex, frame })
            }
            End::Tunnel | End::Stack | End::Answered | End::Dropped => None,
        }
    }

    fn tell(&self, hops: &[Hop], packet: TracedPacket) -> TracedWay {
        let program = |hop: &Hop| TracedProgram {
            program: hop.program.name().to_owned(),
            interface: self.view.interface_name(hop.ifindex),
            stages: self.view.stages(hop),
        };
        let (verdict, detail) =
            hops.last().map_or(("", String::new()), |hop| self.view.verdict(hop, &packet));
        let reason = hops.iter().find_map(Hop::reason);
        TracedWay {
            programs: hops.iter().map(program).collect(),
            verdict: verdict.to_owned(),
            detail,
            reason: reason.map(|reason| reason.name().to_owned()),
            advice: reason.map(|reason| reason.advice().to_owned()),
            packet,
        }
    }
}
