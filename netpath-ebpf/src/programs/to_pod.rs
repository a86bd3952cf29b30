//! tc egress of a pod's host interface: what the host stack sends to the pod.

use netpath_common::abi::{DropReason, ENDPOINT_INBOUND_ANY, ENDPOINT_PUBLISHES, Endpoint, TrafficClass};

use super::{embedded_headers, leave, published};
use crate::{
    packet::{Headers, Transport, parse, tc::Packet},
    stages::{
        endpoint, flow, fragment, metric,
        route::{self, Sender},
    },
    verdict::{self, Outcome, Verdict},
};

/// The node itself, pods whose packets took the stack, answers, and networks open to outside; nobody else.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    // Judged already, and here for the queue alone.
    if packet.take_finished() {
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Ok(Verdict::NEXT);
    }
    parse::ip(packet, headers, &frame)?;
    let headers = headers.settled();
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        return Ok(Verdict::NEXT);
    };
    if packet.ingress_ifindex() == 0 {
        if route::publishes() {
            verdict::from_code(of_node(packet, headers))?;
        }
    } else if let Some(source) = endpoint::find(&headers.key.src) {
        if !endpoint::is_from(packet.ingress_ifindex(), source) {
            return Err(DropReason::SpoofedSource);
        }
        if source.flags & ENDPOINT_PUBLISHES != 0 {
            verdict::from_code(published::answer(packet, headers, source.pod))?;
        }
    } else if !is_known(packet, headers, pod) {
        let sender = route::sender(headers, packet.ingress_ifindex())?;
        if sender == Sender::Outside && pod.flags & ENDPOINT_INBOUND_ANY == 0 {
            return Err(super::not_let_in(headers));
        }
        if sender != Sender::Pod {
            flow::track_new(packet, headers, Some(pod))?;
        }
    }
    metric::received(packet, pod);
    Ok(Verdict::counted(TrafficClass::FromStack))
}

/// What stands in a flow for the pod, if it is the node's own.
const NODE: u32 = 0;

/// A packet of the node itself, where ports are published. Not inlined: rare.
#[inline(never)]
fn of_node(packet: &Packet, headers: &mut Headers) -> u64 {
    verdict::to_code(own(packet, headers).map(|()| Verdict::NEXT))
}

#[inline(always)]
fn own(packet: &Packet, headers: &mut Headers) -> Result<(), DropReason> {
    // About what it was left to deliver for a published port.
    if headers.transport == Transport::Error {
        return leave::translate_error(packet, headers, NODE, false).map(drop);
    }
    fragment::resolve(headers);
    // The pod's answers would be led to the pod behind the port. A table without room must not stop the node.
    if leave::is_from_published(headers) {
        let _ = flow::track(packet, headers, None);
    }
    Ok(())
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
        || (pod.flags & ENDPOINT_PUBLISHES != 0 && flow::is_led(headers, pod.pod))
}

/// Not inlined: rare, and it would stand in the fast path's middle.
#[inline(never)]
fn is_related(packet: &Packet, headers: &Headers, pod: u32) -> bool {
    let about = |inner| flow::related(packet, headers, inner);
    embedded_headers().is_ok_and(|inner| about(inner).is_some_and(|about| about.pod == pod))
}
