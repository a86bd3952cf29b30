//! tc egress of an uplink: the last look at what leaves. Invariant 1 is held here.

use netpath_common::abi::{DropReason, Program, RouteKind};

use super::leave::{self, Leaving, bind};
use crate::{
    packet::{AnyPacket, Headers, SCTP, Transport, is_icmp, parse, rewrite, tc::Packet},
    stages::{
        endpoint, flow, fragment,
        route::{self, Whose},
    },
    verdict::{Outcome, Verdict},
};

/// What `from_pod` finished passes; what the node says itself passes, translated where a pod holds its port; what the
/// stack forwarded for a pod is translated here or dropped.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    if packet.take_finished() {
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Ok(Verdict::NEXT);
    }
    // Judged by its source even if what follows the addresses is damaged.
    let sound = parse::ip(packet, headers, &frame);
    let headers = headers.settled();
    let uplink = route::uplink(headers, packet.ifindex());
    if uplink.is_some_and(|uplink| route::is_source_of(uplink, headers)) {
        return if sound.is_ok() { own(packet, headers) } else { Ok(Verdict::NEXT) };
    }
    let Some(pod) = endpoint::find(&headers.key.src) else {
        return match route::whose(&headers.key.src) {
            // The block's, without a pod: one that has just gone.
            Whose::Block if packet.ingress_ifindex() != 0 => Err(DropReason::Untranslated),
            // The node's on another interface, as a route's `src` may be.
            Whose::Node if sound.is_ok() => own(packet, headers),
            _ => Ok(Verdict::NEXT),
        };
    };
    if !endpoint::is_from(packet.ingress_ifindex(), pod) {
        return Err(DropReason::SpoofedSource);
    }
    sound?;
    fragment::resolve(headers);
    let way = route::lookup(pod, &headers.key.dst);
    // To the node or to a pod: not to the wire, whatever the stack's own rules say.
    if way.kind != RouteKind::Fib as u8 {
        return Err(DropReason::Untranslated);
    }
    if way.plain {
        return Ok(Verdict::NEXT);
    }
    let leaving = Leaving {
        pod,
        masquerade: way.masquerade,
        uplink: uplink.ok_or(DropReason::NotReady)?,
        routed: None,
        program: Program::ToUplink,
    };
    leave::translate(packet, headers, &leaving)?;
    Ok(Verdict::NEXT)
}

/// What stands in a flow for the pod, if it is the node's own.
const NODE: u32 = 0;

/// A packet of the node itself. If a pod's binding has its port, the answers would go to the pod: it gets another one.
#[inline(always)]
fn own(packet: &Packet, headers: &mut Headers) -> Outcome {
    if headers.transport == Transport::Error {
        leave::translate_error(packet, headers, NODE, false)?;
        return Ok(Verdict::NEXT);
    }
    fragment::resolve(headers);
    if headers.transport != Transport::Ports || !may_meet_a_pods(headers) {
        return Ok(Verdict::NEXT);
    }
    let translation = match flow::lookup(packet, headers) {
        Some(known) => flow::translation(known),
        None if flow::is_taken_by_pod(headers) => {
            let sources = route::own_source(&headers.key.src)?;
            Some(bind(packet, headers, None, sources, Program::ToUplink)?)
        }
        // What the node says, or masquerades for others, without a socket that a pod's binding would meet: the entry is
        // what it meets. A table without room must not stop the node.
        None => {
            if !is_icmp(headers.key.proto) || headers.is_echo_request() {
                let _ = flow::track_new(packet, headers, None);
            }
            None
        }
    };
    if let Some(translation) = translation {
        rewrite::translate(packet, headers, &translation)?;
    }
    Ok(Verdict::NEXT)
}

/// Whether answers to a packet of the node may be taken for a pod's. SCTP keeps its port, whatever that is; all else is
/// translated to ports of the range. And to a published port they would be led to the pod behind it.
#[inline(always)]
fn may_meet_a_pods(headers: &Headers) -> bool {
    let key = &headers.key;
    key.proto == SCTP || route::is_snat_port(key.sport) || leave::is_from_published(headers)
}
