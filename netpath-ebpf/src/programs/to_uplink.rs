//! tc egress of an uplink: the last look at what leaves. Invariant 1 is held here.

use netpath_common::abi::{DropReason, Program, RouteKind};

use super::bind;
use crate::{
    packet::{Headers, parse, rewrite, tc::Packet},
    stages::{endpoint, flow, route},
    verdict::{Outcome, Verdict},
};

/// What `from_pod` finished passes; what the node says itself passes; what the stack forwarded for a pod is translated
/// here or dropped.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    if packet.take_finished() {
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if frame.kind != parse::IPV4 {
        return Ok(Verdict::NEXT);
    }
    // Judged by its source even if what follows the addresses is damaged.
    let sound = parse::ipv4(packet, headers);
    let uplink = route::uplink(packet.ifindex());
    if uplink == Some(headers.key.src) {
        return Ok(Verdict::NEXT);
    }
    let Some(pod) = endpoint::find(&headers.key.src) else {
        // An address of the block without a pod: one that has just gone.
        let forwarded = packet.ingress_ifindex() != 0;
        if forwarded && route::lookup(&headers.key.src).kind == RouteKind::Stack as u8 {
            return Err(DropReason::Untranslated);
        }
        return Ok(Verdict::NEXT);
    };
    sound?;
    let masquerade = route::lookup(&headers.key.dst).masquerade;
    let translation = match flow::lookup_leaving(packet, headers, masquerade) {
        Some(known) => flow::translation(known),
        None if masquerade => Some(bind(packet, headers, pod.pod, uplink, Program::ToUplink)?),
        None => None,
    };
    if let Some(translation) = translation {
        rewrite::translate(packet, headers, &translation)?;
    }
    Ok(Verdict::NEXT)
}
