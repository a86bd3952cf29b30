//! tc ingress of an uplink: what the wire brings.

use netpath_common::abi::{DropReason, ENDPOINT_INBOUND_ANY, Endpoint, FLOW_LOCAL, TrafficClass};

use super::{embedded_headers, protected, published};
use crate::{
    packet::{
        AnyPacket, Headers, Transport, embedded, parse,
        rewrite::{self, Translation},
        tc::Packet,
    },
    stages::{
        deliver, endpoint, flow, fragment, metric,
        route::{self, Sender},
    },
    verdict::{self, Outcome, Verdict},
};

/// Answers to translated flows go straight to their pod; a pod's own address is reached only by who may: pods and nodes of the
/// cluster, and whoever a network lets in; all else is the node's.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    // Another VLAN of a trunk is not this uplink's.
    if packet.is_of_vlan() {
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Ok(Verdict::NEXT);
    }
    let sound = parse::ip(packet, headers, &frame);
    let headers = headers.settled();
    if sound.is_err() {
        return verdict::from_code(unsound_code(packet, headers));
    }
    if headers.transport == Transport::Error {
        return verdict::from_code(error_code(packet, headers));
    }
    let spoilt = fragment::resolve(headers);
    let known = flow::lookup_arriving(packet, headers)?;
    if spoilt && known.is_some_and(|flow| flow.pod != 0) {
        return Err(DropReason::FragmentOutOfOrder);
    }
    if known.is_some_and(flow::is_published) {
        return verdict::from_code(published::from_outside(packet, headers, known, spoilt));
    }
    if let Some((flow, translation)) = known.and_then(|flow| Some((flow, flow::translation(flow)?))) {
        return reply(packet, headers, &translation, flow.pod);
    }
    // Forwarded, it would leave as the pod's; delivered, the node would take it for the pod's.
    if endpoint::find(&headers.key.src).is_some() {
        return Err(DropReason::SpoofedSource);
    }
    let sender = route::sender(headers, packet.ifindex())?;
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        if headers.transport == Transport::Unknown {
            // Perhaps a pod's, but nobody can tell whose before its first part comes.
            fragment::note_early(headers);
        }
        // Its own node refuses it as well, if it has the same setting.
        if sender == Sender::Pod {
            protected::refuse(headers)?;
        }
        if known.is_none() && route::publishes() {
            return verdict::from_code(published::from_outside(packet, headers, None, spoilt));
        }
        return Ok(Verdict::NEXT);
    };
    let is_new = !flow::is_of(headers, known, pod.pod);
    if is_new && sender == Sender::Outside && pod.flags & ENDPOINT_INBOUND_ANY == 0 {
        return Err(super::not_let_in(headers));
    }
    // From pod to pod no flow is needed, wherever they are. What a node says needs one, so that the answers leave as they are.
    inbound(packet, headers, pod, is_new && sender != Sender::Pod)
}

/// A packet that a translation is known for: an answer to a pod, or to the node itself where a pod had its port.
#[inline(always)]
fn reply(packet: &Packet, headers: &Headers, translation: &Translation, number: u32) -> Outcome {
    if number == 0 {
        rewrite::translate(packet, headers, translation)?;
        return Ok(Verdict::NEXT);
    }
    // A pod that has gone, and perhaps another has its address now: the stack answers its peer with a reset.
    let Some(pod) = endpoint::find(&translation.addr).filter(|pod| pod.pod == number) else {
        return Ok(Verdict::NEXT);
    };
    // Nobody can tell its sender: it is addressed to the node, whose stack would take it for its own and reset the
    // connection; translated, it would be answered about a packet that the sender has never sent.
    if headers.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    rewrite::translate(packet, headers, translation)?;
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Reply)
}

/// A packet for a pod's own address. What the stack must answer (no hops left, too big) it gets as it came, so that
/// `traceroute` from outside shows the node, if its stack forwards for the uplink. That makes no flow: what the stack
/// forwards is tracked on its way into the pod.
#[inline(always)]
fn inbound(packet: &Packet, headers: &Headers, pod: &Endpoint, is_new: bool) -> Outcome {
    if deliver::needs_stack(packet, headers, pod.mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    if is_new {
        flow::track_new(packet, headers, Some(pod))?;
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Inbound)
}

/// A packet that netpath does not understand, which the node may: but it is as little of a pod as any other. Damaged packets for the
/// node are the node's to judge; it counts them where its users look. Not inlined, as `error_code`.
#[inline(never)]
fn unsound_code(packet: &Packet, headers: &Headers) -> u64 {
    if endpoint::find(&headers.key.src).is_some() {
        return verdict::to_code(Err(DropReason::SpoofedSource));
    }
    verdict::to_code(route::sender(headers, packet.ifindex()).map(|_| Verdict::NEXT))
}

/// Not inlined: rare, and it would stand in the fast path's middle.
#[inline(never)]
fn error_code(packet: &Packet, headers: &Headers) -> u64 {
    verdict::to_code(error(packet, headers))
}

/// An ICMP error: goes to whoever sent what it embeds, which may come from any router on the way.
#[inline(always)]
fn error(packet: &Packet, headers: &Headers) -> Outcome {
    if endpoint::find(&headers.key.src).is_some() {
        return Err(DropReason::SpoofedSource);
    }
    let sender = route::sender(headers, packet.ifindex())?;
    let inner = embedded_headers()?;
    let about = flow::related(packet, headers, inner);
    let Some(flow::About { pod: number, translation: Some(translation), .. }) = about else {
        let Some(pod) = endpoint::find(&headers.key.dst) else { return Ok(Verdict::NEXT) };
        let known = about.is_some_and(|about| about.pod == pod.pod) || sender != Sender::Outside;
        if !known && pod.flags & ENDPOINT_INBOUND_ANY == 0 {
            return Err(DropReason::InboundDenied);
        }
        return inbound(packet, headers, pod, false);
    };
    if translation.source || about.is_some_and(|about| about.flags & FLOW_LOCAL != 0) {
        return Err(DropReason::SpoofedSource);
    }
    if number == 0 {
        embedded::translate(packet, headers, inner, &translation)?;
        return Ok(Verdict::NEXT);
    }
    let Some(pod) = endpoint::find(&translation.addr).filter(|pod| pod.pod == number) else {
        return Ok(Verdict::NEXT);
    };
    if headers.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    embedded::translate(packet, headers, inner, &translation)?;
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Reply)
}
