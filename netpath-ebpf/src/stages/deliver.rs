//! The last stage: hop count, MTU, MAC addresses, redirect.

use netpath_common::abi::{DropReason, ENDPOINT_LIMITED_IN, Endpoint, Route, TUNNEL_MAC, TrafficClass};

use crate::{
    bpf::{
        helper::{self, NextHop},
        tunnel,
    },
    packet::{AnyPacket, Headers, rewrite, tc::Packet, xdp},
    verdict::{Outcome, Verdict},
};

/// Whether the stack has to answer instead (time exceeded, fragmentation needed) or to fragment. The frame is addressed
/// to the host end's MAC, so the stack takes it as it is.
#[inline(always)]
pub fn needs_stack(packet: &impl AnyPacket, headers: &Headers, mtu: u16) -> bool {
    headers.ttl <= 1 || headers.segment_length(packet) > u32::from(mtu)
}

/// Into a local pod.
#[inline(always)]
pub fn to_pod(packet: &Packet, headers: &Headers, pod: &Endpoint, class: TrafficClass) -> Outcome {
    last_changes(packet, headers, pod)?;
    let limited = pod.flags & ENDPOINT_LIMITED_IN != 0;
    let code = if limited { by_queue(packet, pod.ifindex) } else { helper::redirect_peer(pod.ifindex) };
    Ok(Verdict::redirected(code, class))
}

/// Out of the host end, whose queue limits what the pod gets. Not inlined: rare.
#[inline(never)]
fn by_queue(packet: &Packet, ifindex: u32) -> i32 {
    packet.set_finished();
    helper::redirect(ifindex)
}

/// The same from XDP: out of the host end, so that its peer gets it. The pod has `ENDPOINT_XDP`, or the frame is lost.
#[inline(always)]
pub fn to_pod_by_xdp(packet: &xdp::Packet, headers: &Headers, pod: &Endpoint) -> Outcome {
    last_changes(packet, headers, pod)?;
    Ok(Verdict::redirected(helper::redirect(pod.ifindex), TrafficClass::Local))
}

#[inline(always)]
fn last_changes(packet: &impl AnyPacket, headers: &Headers, pod: &Endpoint) -> Result<(), DropReason> {
    rewrite::decrement_ttl(packet, headers)?;
    rewrite::link(packet, pod.mac)
}

/// Back to the pod it came from, as an answer of the gateway: no hop.
#[inline(always)]
pub fn back(packet: &Packet, mac: [u8; 6], class: TrafficClass) -> Outcome {
    rewrite::link(packet, mac)?;
    Ok(Verdict::redirected(helper::redirect_peer(packet.ifindex()), class))
}

/// To another node, by the tunnels' device: told here which tunnel, as the route is known here.
#[inline(always)]
pub fn to_tunnel(packet: &Packet, headers: &Headers, ifindex: u32, route: &Route) -> Outcome {
    rewrite::decrement_ttl(packet, headers)?;
    tell_tunnel(packet, route)?;
    packet.set_told();
    Ok(Verdict::redirected(helper::redirect(ifindex), TrafficClass::Routed))
}

/// Tells a packet the tunnel that it takes. The device there takes one with its own address as destination for its own, and one
/// with that as source for a loop.
#[inline(always)]
pub fn tell_tunnel(packet: &Packet, route: &Route) -> Result<(), DropReason> {
    rewrite::link(packet, TUNNEL_MAC)?;
    let key = tunnel::Key { node: route.node, vni: route.vni };
    if tunnel::write(packet, &key) { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// Out of an uplink. The kernel fills in the MAC addresses and keeps the socket attached, so that TCP small queues and
/// pacing still see the packet.
#[inline(always)]
pub fn to_wire(
    packet: &Packet,
    headers: &Headers,
    ifindex: u32,
    next: NextHop,
    class: TrafficClass,
) -> Outcome {
    rewrite::decrement_ttl(packet, headers)?;
    packet.set_finished();
    Ok(Verdict::redirected(helper::redirect_neigh(ifindex, next), class))
}
