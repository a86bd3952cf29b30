//! tc ingress of a pod's host interface: everything the pod sends.

use netpath_common::abi::{DropReason, Program, RouteKind, TrafficClass};

use super::bind;
use crate::{
    packet::{Headers, arp, parse, rewrite, tc::Packet},
    stages::{arp_nd, deliver, endpoint, flow, gateway, guard, metric, route},
    verdict::{Outcome, Verdict},
};

/// parse → guard → a local pod, or: route → flow → nat → the wire. ARP is answered at once.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    // The kernel takes a tag off before we see the frame and puts it back on the way out: a pod would choose the VLAN.
    if packet.vlan_present() {
        return Err(DropReason::UnsupportedProtocol);
    }
    let frame = parse::ethernet(packet)?;
    match frame.kind {
        parse::IPV4 => parse::ipv4(packet, headers)?,
        parse::ARP => return answer_arp(packet, headers, &frame),
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    let source = guard::check(packet, &frame, endpoint::find(&headers.key.src))?;
    metric::sent(packet, source);

    if let Some(pod) = endpoint::find(&headers.key.dst) {
        if deliver::needs_stack(packet, headers, pod.mtu) {
            return Ok(Verdict::counted(TrafficClass::ToStack));
        }
        metric::received(packet, pod);
        return deliver::to_pod(packet, pod, TrafficClass::Local);
    }
    if gateway::is_addressed(&headers.key.dst) {
        gateway::answer(packet, headers)?;
        return deliver::back(packet, source.mac, TrafficClass::Neighbour);
    }
    route::refuse_unroutable(&headers.key.dst)?;
    let way = route::lookup(&headers.key.dst);
    if way.kind == RouteKind::Drop as u8 {
        return Err(DropReason::RouteDrop);
    }
    if way.kind == RouteKind::Stack as u8 {
        return Ok(Verdict::counted(TrafficClass::ToNode));
    }
    to_outside(packet, headers, source.pod, way.masquerade)
}

#[inline(always)]
fn to_outside(packet: &Packet, headers: &Headers, pod: u32, masquerade: bool) -> Outcome {
    // What the stack must answer (no hops left, too big, no route) it must see before translation: afterwards the
    // source is an address of its own, hence a martian.
    let Some(hop) = route::next_hop(packet, headers) else {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    };
    if !hop.uplink {
        // A VPN, docker0: the stack's business, untranslated; tracked, so that the answers are let in.
        flow::track(packet, headers, pod)?;
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    let translation = match flow::lookup_leaving(packet, headers, masquerade) {
        Some(known) => flow::translation(known),
        None if masquerade => Some(bind(packet, headers, pod, hop.source, Program::FromPod)?),
        None => {
            flow::track(packet, headers, pod)?;
            None
        }
    };
    match translation {
        Some(translation) => {
            rewrite::translate(packet, headers, &translation)?;
            deliver::to_wire(packet, hop.ifindex, hop.next, TrafficClass::Translated)
        }
        None => deliver::to_wire(packet, hop.ifindex, hop.next, TrafficClass::Routed),
    }
}

#[inline(always)]
fn answer_arp(packet: &Packet, headers: &mut Headers, frame: &parse::Ethernet) -> Outcome {
    let question = arp::read(packet)?;
    headers.key.dst = question.target;
    let sender = question.sender.and_then(|address| {
        headers.key.src = address;
        endpoint::find(&address)
    });
    let target = endpoint::find(&question.target);
    match arp_nd::decide(packet, frame, &question, sender, target)? {
        arp_nd::Decision::Answered => deliver::back(packet, frame.source_mac(), TrafficClass::Neighbour),
        arp_nd::Decision::Leave => Ok(Verdict::NEXT),
    }
}
