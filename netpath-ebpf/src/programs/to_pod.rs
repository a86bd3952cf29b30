//! tc egress of a pod's host interface: what the host stack sends to the pod.

use netpath_common::abi::{ENDPOINT_INBOUND_ANY, Endpoint, TrafficClass};

use super::embedded_headers;
use crate::{
    packet::{Headers, Transport, parse, tc::Packet},
    stages::{endpoint, flow, fragment, metric},
    verdict::{Outcome, Verdict},
};

/// The node itself, pods whose packets took the stack, answers, and networks open to outside; nobody else.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Ok(Verdict::NEXT);
    }
    parse::ip(packet, headers, &frame)?;
    let headers = headers.settled();
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        return Ok(Verdict::NEXT);
    };
    let local = packet.ingress_ifindex() == 0 || endpoint::find(&headers.key.src).is_some();
    if !local && !is_known(packet, headers, pod) {
        if pod.flags & ENDPOINT_INBOUND_ANY == 0 {
            return Err(super::not_let_in(headers));
        }
        flow::track_new(packet, headers, Some(pod))?;
    }
    metric::received(packet, pod);
    Ok(Verdict::counted(TrafficClass::FromStack))
}

/// Whether a packet belongs to a flow of this pod that was let through before.
#[inline(always)]
fn is_known(packet: &Packet, headers: &mut Headers, pod: &Endpoint) -> bool {
    if headers.transport == Transport::Error {
        return is_related(packet, headers, pod.pod);
    }
    fragment::resolve(headers);
    let known = flow::lookup(packet, headers);
    flow::is_of(headers, known, pod.pod)
}

/// Not inlined: rare, and it would stand in the fast path's middle.
#[inline(never)]
fn is_related(packet: &Packet, headers: &Headers, pod: u32) -> bool {
    let about = |inner| flow::related(packet, headers, inner);
    embedded_headers().is_ok_and(|inner| about(inner).is_some_and(|about| about.pod == pod))
}
