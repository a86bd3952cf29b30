//! tc ingress of a pod's host interface: everything the pod sends.

use netpath_common::abi::{
    DropReason, ENDPOINT_LIMITED_OUT, ENDPOINT_PUBLISHES, Endpoint, Program, Route, RouteKind, TrafficClass,
};

use super::{
    leave::{self, Leaving},
    protected, published,
};
use crate::{
    packet::{
        self, AnyPacket, Headers, Transport,
        parse::{self, Ethernet},
        tc::Packet,
    },
    stages::{arp_nd, deliver, endpoint, flow, fragment, gateway, guard, metric, publish, rate, route},
    verdict::{self, Outcome, Verdict},
};

/// Of a packet that no published port has to do with.
const PLAIN: u64 = verdict::to_code(Ok(Verdict::NEXT));

/// parse → guard → a local pod, or: route → flow → nat → the wire. ARP and neighbour discovery are answered at once.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    // The kernel takes a tag off before we see the frame and puts it back on the way out: a pod would choose the VLAN.
    if packet.vlan_present() {
        return Err(DropReason::UnsupportedProtocol);
    }
    let frame = parse::ethernet(packet)?;
    if frame.kind == parse::ARP {
        return verdict::from_code(answer_arp(packet, headers, &frame));
    }
    parse::ip(packet, headers, &frame)?;
    let headers = headers.settled();
    if arp_nd::is_of_the_link(headers) {
        return verdict::from_code(answer_nd(packet, headers, &frame));
    }
    let source = guard::check(packet, &frame, endpoint::find(&headers.key.src), endpoint::link)?;
    if source.flags & ENDPOINT_LIMITED_OUT != 0 && is_over_limit(packet, source) {
        return Err(DropReason::RateLimited);
    }
    metric::sent(packet, source);

    if headers.transport == Transport::Error && route::publishes() {
        let outcome = published::error(packet, headers, source);
        if outcome != PLAIN {
            return verdict::from_code(outcome);
        }
    }
    let publishes = source.flags & ENDPOINT_PUBLISHES != 0;
    let hairpin = publishes && publish::is_hairpin(&headers.key.dst);
    let mut pod = endpoint::find(&headers.key.dst);
    let mut asked = pod.is_some() && publishes || hairpin;
    if pod.is_none() && !hairpin {
        if gateway::is_addressed(&headers.key.dst) {
            return to_gateway(packet, headers, source);
        }
        route::refuse_unroutable(headers)?;
        let way = route::lookup(source, &headers.key.dst);
        if way.kind != RouteKind::Stack as u8 {
            return away(packet, headers, source, way);
        }
        protected::refuse_to_stack(packet, headers)?;
        asked = route::publishes();
    }
    if asked {
        let outcome = published::from_inside(packet, headers, source);
        if outcome != PLAIN {
            return verdict::from_code(outcome);
        }
        // Asked again, so that the verifier goes through the call once and not once for every answer.
        pod = endpoint::find(&headers.key.dst);
    }
    match pod {
        Some(pod) => to_local(packet, headers, pod),
        None if publish::is_hairpin(&headers.key.dst) => to_gateway(packet, headers, source),
        None => Ok(Verdict::counted(TrafficClass::ToNode)),
    }
}

/// Not inlined: rare.
#[inline(never)]
fn is_over_limit(packet: &Packet, source: &Endpoint) -> bool {
    endpoint::link(packet.ifindex()).is_some_and(|link| rate::is_over(packet, link, source.slot))
}

#[inline(always)]
fn to_local(packet: &Packet, headers: &Headers, pod: &Endpoint) -> Outcome {
    if deliver::needs_stack(packet, headers, pod.mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Local)
}

#[inline(always)]
fn to_gateway(packet: &Packet, headers: &Headers, source: &Endpoint) -> Outcome {
    gateway::answer(packet, headers)?;
    deliver::back(packet, source.mac, TrafficClass::Neighbour)
}

/// Neither to a pod here nor to the node.
#[inline(always)]
fn away(packet: &Packet, headers: &mut Headers, source: &Endpoint, way: route::Way) -> Outcome {
    if way.kind == RouteKind::Drop as u8 {
        return Err(DropReason::RouteDrop);
    }
    if way.kind == RouteKind::Broadcast as u8 {
        return Err(DropReason::Multicast);
    }
    match way.tunnel {
        Some(route) => verdict::from_code(to_node(packet, headers, route)),
        None => to_outside(packet, headers, source, way),
    }
}

/// By a tunnel: to a pod of another node, or an answer to the node itself. No flow concerns it. Not inlined: called twice.
#[inline(never)]
fn to_node(packet: &Packet, headers: &Headers, route: &Route) -> u64 {
    verdict::to_code(by_tunnel(packet, headers, route))
}

#[inline(always)]
fn by_tunnel(packet: &Packet, headers: &Headers, route: &Route) -> Outcome {
    let (ifindex, mtu) = route::tunnel_device(route).ok_or(DropReason::NotReady)?;
    if deliver::needs_stack(packet, headers, mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    deliver::to_tunnel(packet, headers, ifindex, route)
}

#[inline(always)]
fn to_outside(packet: &Packet, headers: &mut Headers, pod: &Endpoint, way: route::Way) -> Outcome {
    fragment::resolve(headers);
    // What the stack must answer (no hops left, too big, no route) it must see before translation: afterwards the
    // source is an address of its own, hence a martian.
    let Some(hop) = route::next_hop(packet, headers) else {
        protected::refuse_to_stack(packet, headers)?;
        return Ok(Verdict::counted(TrafficClass::ToStack));
    };
    let Some(uplink) = route::uplink(headers, hop.ifindex) else {
        // Perhaps an uplink that was made again, where nobody looks yet at what the stack sends (invariant 1).
        if way.masquerade && route::is_new(hop.ifindex) {
            return Err(DropReason::NotReady);
        }
        // A VPN, docker0: the stack's business, untranslated; tracked, so that the answers are let in.
        protected::refuse(headers)?;
        flow::track(packet, headers, Some(pod))?;
        return Ok(Verdict::counted(TrafficClass::ToStack));
    };
    let leaving = Leaving {
        pod,
        masquerade: way.masquerade,
        uplink,
        routed: Some(hop.source),
        program: Program::FromPod,
    };
    let class = if way.plain {
        TrafficClass::Routed
    } else if leave::translate(packet, headers, &leaving)? {
        TrafficClass::Translated
    } else if let Some(route) = route::to_tunnelled_node(&headers.key.dst) {
        return verdict::from_code(to_node(packet, headers, route));
    } else {
        TrafficClass::Routed
    };
    deliver::to_wire(packet, headers, hop.ifindex, hop.next_hop, class)
}

/// Not inlined, as the next: rare, and it would stand in the fast path's middle.
#[inline(never)]
fn answer_arp(packet: &Packet, headers: &mut Headers, frame: &Ethernet) -> u64 {
    verdict::to_code(arp(packet, headers, frame))
}

#[inline(always)]
fn arp(packet: &Packet, headers: &mut Headers, frame: &Ethernet) -> Outcome {
    let question = packet::arp::read(packet)?;
    headers.key.dst = question.target;
    if let Some(address) = question.sender {
        headers.key.src = address;
    }
    let link = guard::check_link(frame, endpoint::link(packet.ifindex()))?;
    let decision = arp_nd::arp(packet, frame, &question, link, endpoint::find)?;
    answered(packet, frame, decision)
}

#[inline(never)]
fn answer_nd(packet: &Packet, headers: &Headers, frame: &Ethernet) -> u64 {
    verdict::to_code(nd(packet, headers, frame))
}

#[inline(always)]
fn nd(packet: &Packet, headers: &Headers, frame: &Ethernet) -> Outcome {
    let link = guard::check_link(frame, endpoint::link(packet.ifindex()))?;
    if gateway::is_addressed(&headers.key.src) {
        return Err(DropReason::SpoofedSource);
    }
    if headers.is_echo_request() && gateway::is_addressed(&headers.key.dst) {
        gateway::answer(packet, headers)?;
        return deliver::back(packet, frame.source_mac(), TrafficClass::Neighbour);
    }
    let decision = arp_nd::nd(packet, headers, frame, link, endpoint::find)?;
    answered(packet, frame, decision)
}

#[inline(always)]
fn answered(packet: &Packet, frame: &Ethernet, decision: arp_nd::Decision) -> Outcome {
    match decision {
        arp_nd::Decision::Answered => deliver::back(packet, frame.source_mac(), TrafficClass::Neighbour),
        arp_nd::Decision::Leave => Ok(Verdict::NEXT),
    }
}
