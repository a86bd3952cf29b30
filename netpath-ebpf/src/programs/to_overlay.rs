//! tc egress of the tunnels' device: every packet that does not know it yet is told which tunnel it takes.

use netpath_common::abi::{Addr, DropReason, RouteKind};

use crate::{
    packet::{Headers, parse, tc::Packet},
    stages::{
        deliver, endpoint,
        route::{self, Whose},
    },
    verdict::{Outcome, Verdict},
};

/// What `from_pod` has finished goes; what the stack forwards for a pod, if its network has a way there; what the node says. What is
/// told no tunnel the device drops.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    if packet.is_told() {
        packet.set_finished();
        return Ok(Verdict::NEXT);
    }
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Ok(Verdict::NEXT);
    }
    parse::ip(packet, headers, &frame)?;
    let headers = headers.settled();
    let Some(tunnel) = route::tunnel(&headers.key.dst) else {
        // What the stack and its users say on every link.
        return if is_group(&headers.key.dst) { Ok(Verdict::NEXT) } else { Err(DropReason::RouteDrop) };
    };
    // An earlier build's `from_pod` finishes with a packet and leaves its tunnel to this program.
    if !packet.take_finished() {
        may_pass(packet, headers)?;
    }
    deliver::tell_tunnel(packet, tunnel)?;
    // The packet around it is the node's own: no look is needed on the uplink.
    packet.set_finished();
    Ok(Verdict::NEXT)
}

/// Whether what the stack forwards comes from who it says, and that one's network has a way there.
#[inline(always)]
fn may_pass(packet: &Packet, headers: &Headers) -> Result<(), DropReason> {
    match endpoint::find(&headers.key.src) {
        Some(pod) if !endpoint::is_from(packet.ingress_ifindex(), pod) => Err(DropReason::SpoofedSource),
        // Other nodes know nothing of a network of its own.
        Some(pod) if route::lookup(pod, &headers.key.dst).kind != RouteKind::Tunnel as u8 => {
            Err(DropReason::Untranslated)
        }
        None if packet.ingress_ifindex() != 0 && route::whose(&headers.key.src) == Whose::Block => {
            Err(DropReason::Untranslated)
        }
        _ => Ok(()),
    }
}

#[inline(always)]
fn is_group(address: &Addr) -> bool {
    address.is_multicast_v6() || address.is_v4() && u32::from_be(address.v4_be()) >> 28 == 14
}
