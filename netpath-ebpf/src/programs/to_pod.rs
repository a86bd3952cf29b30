//! tc egress of a pod's host interface: what the host stack sends to the pod.

use netpath_common::abi::{DropReason, TrafficClass};

use crate::{
    packet::{Headers, parse, tc::Packet},
    stages::{endpoint, flow, metric, route},
    verdict::{Outcome, Verdict},
};

/// The node itself, pods whose packets took the stack, answers, and networks open to outside; nobody else.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    let frame = parse::ethernet(packet)?;
    if frame.kind != parse::IPV4 {
        return Ok(Verdict::NEXT);
    }
    parse::ipv4(packet, headers)?;
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        return Ok(Verdict::NEXT);
    };
    let local = packet.ingress_ifindex() == 0 || endpoint::find(&headers.key.src).is_some();
    if !local && flow::lookup(packet, headers).is_none() {
        if !route::inbound_any() {
            return Err(DropReason::InboundDenied);
        }
        flow::track(packet, headers, pod.pod)?;
    }
    metric::received(packet, pod);
    Ok(Verdict::counted(TrafficClass::FromStack))
}
