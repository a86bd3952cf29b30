//! tc ingress of an uplink: what the wire brings.

use netpath_common::abi::{DropReason, TrafficClass};

use crate::{
    packet::{Headers, parse, rewrite, tc::Packet},
    stages::{deliver, endpoint, flow, metric, route},
    verdict::{Outcome, Verdict},
};

/// Answers to translated flows go straight to their pod; a pod's own address is reached only by who may; all else is
/// the node's.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    // Another VLAN of a trunk is not this uplink's.
    if packet.vlan_present() {
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if frame.kind != parse::IPV4 {
        return Ok(Verdict::NEXT);
    }
    // Damaged packets for the node are the node's to judge; it counts them where its users look.
    if parse::ipv4(packet, headers).is_err() {
        return Ok(Verdict::NEXT);
    }
    let known = flow::lookup(packet, headers);
    if let Some(translation) = known.and_then(flow::translation) {
        // A packet of the original direction: a pod's address cannot come from the wire.
        if translation.source {
            return Err(DropReason::SpoofedSource);
        }
        // A pod that has just gone: the stack answers its peer with a reset.
        let Some(pod) = endpoint::find(&translation.addr) else {
            return Ok(Verdict::NEXT);
        };
        if headers.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        rewrite::translate(packet, headers, &translation)?;
        metric::received(packet, pod);
        return deliver::to_pod(packet, pod, TrafficClass::Reply);
    }
    // Forwarded, it would leave as the pod's; delivered, the node would take it for the pod's.
    if endpoint::find(&headers.key.src).is_some() {
        return Err(DropReason::SpoofedSource);
    }
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        return Ok(Verdict::NEXT);
    };
    if known.is_none() {
        if !route::inbound_any() {
            return Err(DropReason::InboundDenied);
        }
        flow::track(packet, headers, pod.pod)?;
    }
    if deliver::needs_stack(packet, headers, pod.mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, pod, TrafficClass::Inbound)
}
