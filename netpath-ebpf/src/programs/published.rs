//! What comes by a published port, and what pods answer. The programs of pods and uplinks share it; nothing of it is inlined
//! in them, since where no port is published none of it runs.

use netpath_common::abi::{
    Addr, DropReason, Endpoint, FLOW_HAIRPIN, FLOW_LOCAL, Flow, Rewrite, TrafficClass,
};

use super::embedded_headers;
use crate::{
    packet::{
        Headers, Transport, embedded,
        rewrite::{self, Translation},
        tc::Packet,
    },
    stages::{
        deliver, endpoint, flow, fragment, metric,
        publish::{self, Led},
        route,
    },
    verdict::{self, Outcome, Verdict},
};

/// A packet from the wire that its flow leads to a pod (`known`), or that is for the node and of no known flow. `spoilt`
/// says that a part of its datagram was let go.
#[inline(never)]
pub fn from_outside(packet: &Packet, headers: &Headers, known: Option<&Flow>, spoilt: bool) -> u64 {
    verdict::to_code(outside(packet, headers, known, spoilt))
}

#[inline(always)]
fn outside(packet: &Packet, headers: &Headers, known: Option<&Flow>, spoilt: bool) -> Outcome {
    let led = publish::room().ok_or(DropReason::NotReady)?;
    if !known.is_some_and(|flow| follow(headers, flow, led)) {
        if !target(headers, led) {
            return Ok(Verdict::NEXT);
        }
        open(packet, headers, spoilt, led)?;
    }
    // The stack sees a flow's beginning only, as it does not see the answers: enough for a rule that says who may begin.
    led.forwarded = route::asks_firewall() && !known.is_some_and(flow::is_answered);
    lead(packet, headers, led.settled())
}

/// A packet of a pod to the node, to another pod of the node, or back to itself, if it is of a flow that came by a published
/// port, or makes one. `Verdict::NEXT` if it is nothing of the kind.
#[inline(never)]
pub fn from_inside(packet: &Packet, headers: &mut Headers, source: &Endpoint) -> u64 {
    verdict::to_code(inside(packet, headers, source))
}

#[inline(always)]
fn inside(packet: &Packet, headers: &mut Headers, source: &Endpoint) -> Outcome {
    let led = publish::room().ok_or(DropReason::NotReady)?;
    led.forwarded = false;
    let spoilt = fragment::resolve(headers);
    let known = flow::lookup(packet, headers);
    if known.is_some_and(|flow| flow.flags & FLOW_LOCAL == 0 && !flow::is_published(flow)) {
        return Ok(Verdict::NEXT);
    }
    if !known.is_some_and(|flow| follow(headers, flow, led)) {
        if !target(headers, led) {
            if headers.transport == Transport::Unknown {
                fragment::note_early(headers);
            }
            return Ok(Verdict::NEXT);
        }
        led.flags = FLOW_LOCAL;
        if led.pod == source.pod {
            // Whichever of its addresses it uses, it has the port there as well.
            led.to.addr = headers.key.src;
            led.flags = FLOW_LOCAL | FLOW_HAIRPIN;
        }
        open(packet, headers, spoilt, led)?;
    } else if led.to.source && led.pod != source.pod {
        // The flow of an earlier pod that had the address.
        return Ok(Verdict::NEXT);
    }
    lead(packet, headers, led.settled())
}

/// Where a flow leads its packets. False if the pod that it leads to has gone: then it is forgotten, as another may have the
/// port by now.
#[inline(always)]
fn follow(headers: &Headers, flow: &Flow, led: &mut Led) -> bool {
    let source = flow.rewrite == Rewrite::Source as u8;
    (led.to.addr, led.to.port, led.to.source) = (flow.addr, flow.port, source);
    (led.pod, led.flags) = (flow.pod, flow.flags);
    let stays = source || endpoint::find(&flow.addr).is_some_and(|pod| pod.pod == flow.pod);
    if !stays {
        flow::forget(headers, flow);
    }
    stays
}

/// Where a packet for a published port of the node leads; false if it is none.
#[inline(never)]
fn target(headers: &Headers, led: &mut Led) -> bool {
    let key = &headers.key;
    if headers.transport != Transport::Ports {
        return false;
    }
    let Some(published) = publish::find(&key.dst, key.dport, key.proto) else { return false };
    (led.to.addr, led.to.port, led.to.source) = (published.addr, published.port, false);
    (led.pod, led.flags) = (published.pod, 0);
    // What is only forwarded is none of ours; and nobody else has the node's address, which its stack would say as well, or
    // the one that a pod takes for itself.
    route::whose(&key.dst) == route::Whose::Node
        && route::whose(&key.src) != route::Whose::Node
        && !publish::is_hairpin(&key.src)
}

/// Makes the flow of a packet that is led somewhere for the first time.
#[inline(always)]
fn open(packet: &Packet, headers: &Headers, spoilt: bool, led: &Led) -> Result<(), DropReason> {
    let Some(pod) = endpoint::find(&led.to.addr).filter(|pod| pod.pod == led.pod) else { return Ok(()) };
    if spoilt {
        return Err(DropReason::FragmentOutOfOrder);
    }
    flow::publish(packet, headers, pod, &led.to, led.flags)
}

/// Translates a packet, and delivers it. What the stack must answer or fragment it gets translated on its way to the pod
/// behind the port, since then it is not for the node; and as it is on the way back, since then its source is.
#[inline(always)]
fn lead(packet: &Packet, headers: &Headers, led: &mut Led) -> Outcome {
    let (back, hairpin) = (led.to.source, led.flags & FLOW_HAIRPIN != 0);
    let Some(pod) = endpoint::find(delivered_to(headers, led)).filter(|pod| back || pod.pod == led.pod)
    else {
        return Ok(Verdict::NEXT);
    };
    let stack = deliver::needs_stack(packet, headers, pod.mtu);
    if stack && hairpin {
        // Nobody could be told: the stack knows nothing of the hairpin's address.
        return Err(DropReason::TtlExpired);
    }
    if stack && back {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    rewrite::translate(packet, headers, &led.settled().to)?;
    let led = led.settled();
    if led.flags & FLOW_HAIRPIN != 0 {
        led.turn(headers, if led.to.source { headers.key.dport } else { headers.key.sport });
        rewrite::translate(packet, headers, &led.settled().to)?;
    } else if led.forwarded || deliver::needs_stack(packet, headers, pod.mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Published)
}

/// The address of the pod that a packet is led to.
#[inline(always)]
fn delivered_to<'a>(headers: &'a Headers, led: &'a Led) -> &'a Addr {
    match (led.to.source, led.flags & FLOW_HAIRPIN != 0) {
        (false, _) => &led.to.addr,
        (true, true) => &headers.key.src,
        (true, false) => &headers.key.dst,
    }
}

/// An ICMP error of a pod about a packet that it got by a published port, if that came from this node: of the pod behind the
/// port about what came, or of the other about an answer. `Verdict::NEXT` if it is nothing of the kind.
#[inline(never)]
pub fn error(packet: &Packet, headers: &Headers, source: &Endpoint) -> u64 {
    verdict::to_code(inside_error(packet, headers, source))
}

#[inline(always)]
fn inside_error(packet: &Packet, headers: &Headers, source: &Endpoint) -> Outcome {
    let led = publish::room().ok_or(DropReason::NotReady)?;
    let inner = embedded_headers()?;
    if !about(packet, headers, led, inner) {
        return Ok(Verdict::NEXT);
    }
    tell(packet, headers, source, led.settled(), inner.settled())
}

/// The flow that an error is about, if that came by a published port from this node. Not inlined: what it needs would stand
/// on the stack beneath translating.
#[inline(never)]
fn about(packet: &Packet, headers: &Headers, led: &mut Led, inner: &mut Headers) -> bool {
    let about = flow::related(packet, headers, inner).filter(|about| about.flags & FLOW_LOCAL != 0);
    let Some(flow::About { pod, flags, translation: Some(to), .. }) = about else { return false };
    (led.to, led.pod, led.flags) = (to, pod, flags);
    true
}

#[inline(always)]
fn tell(packet: &Packet, headers: &Headers, source: &Endpoint, led: &mut Led, inner: &Headers) -> Outcome {
    // Only who got a packet may tell of it.
    let own = if led.to.source { led.pod == source.pod } else { inner.key.dst == headers.key.src };
    if !own {
        return Err(DropReason::SpoofedSource);
    }
    let Some(pod) = endpoint::find(delivered_to(headers, led)) else { return Ok(Verdict::NEXT) };
    if headers.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    embedded::translate(packet, headers, inner, &led.settled().to)?;
    let led = led.settled();
    if led.flags & FLOW_HAIRPIN != 0 {
        // What it embeds went the other way.
        led.turn(headers, if led.to.source { inner.key.sport } else { inner.key.dport });
        embedded::translate(packet, headers, inner, &led.settled().to)?;
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Published)
}

/// A packet of a pod that publishes, to another pod of this node and out of the stack: translated in place if it is the
/// answer to who came by a published port.
#[inline(never)]
pub fn answer(packet: &Packet, headers: &mut Headers, pod: u32) -> u64 {
    fragment::resolve(headers);
    let known = flow::lookup(packet, headers);
    let answers = |flow: &&Flow| flow.pod == pod && flow.rewrite == Rewrite::Source as u8;
    let translated = known.filter(answers).map_or(Ok(()), |flow| {
        rewrite::translate(packet, headers, &Translation { addr: flow.addr, port: flow.port, source: true })
    });
    verdict::to_code(translated.map(|()| Verdict::NEXT))
}
