//! FLOWS: conntrack and NAT in one.
//!
//! Both directions are written together, the reply first: it reserves the port. The table is a plain hash and not an
//! LRU, so an established flow is never evicted for a new one (invariant 3).

mod bind;
mod open;
mod publish;
mod related;
mod table;

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{Addr, DropReason, FLOW_LOCAL, Flow, FlowDirection, FlowKey, PEER_SEEN, Rewrite},
    logic::tcp::{self, FIN, RST, SYN, Segment},
};

use self::table::FLOWS;
pub use self::{
    bind::{Taken, bind},
    open::{track, track_new},
    publish::publish,
    related::{About, related},
};
use crate::{
    bpf::{
        helper,
        map::{PerCpu, add, store},
        trace,
    },
    packet::{AnyPacket, ETHERNET, Headers, Part, TCP, Transport, is_icmp, rewrite::Translation, tc::Packet},
};

/// Room to build an entry in: two of them do not fit on a program's stack beside the rest.
#[map]
static FLOW_SCRATCH: PerCpu<Flow> = PerCpu::new(1);

/// `last_seen` is written at most this often, ns: a write dirties a cache line that other CPUs read.
const REFRESH: u64 = 1_000_000_000;

/// The packet's half of its flow, refreshed. `None` for what has no flow of its own: ICMP errors, unknown parts.
#[inline(always)]
pub fn lookup(packet: &Packet, headers: &Headers) -> Option<&'static Flow> {
    let flow = find(headers)?;
    note(flow, packet, headers);
    Some(flow)
}

/// The same for a packet from the wire. What a pod would send, to be translated or by a published port,
/// cannot come from there, and must not keep a flow alive.
#[inline(always)]
pub fn lookup_arriving(packet: &Packet, headers: &Headers) -> Result<Option<&'static Flow>, DropReason> {
    let Some(flow) = find(headers) else { return Ok(None) };
    if flow.rewrite == Rewrite::Source as u8 || flow.flags & FLOW_LOCAL != 0 {
        return Err(DropReason::SpoofedSource);
    }
    note(flow, packet, headers);
    Ok(Some(flow))
}

#[inline(always)]
fn find(headers: &Headers) -> Option<&'static mut Flow> {
    if headers.transport != Transport::Ports && headers.transport != Transport::Other {
        return None;
    }
    let flow = FLOWS.get_mut(&headers.key)?;
    // Question and answer of an echo have one key each way: a question must not pass for the answer.
    if is_icmp(headers.key.proto)
        && flow.rewrite != Rewrite::None as u8
        && is_original(flow) != headers.is_echo_request()
    {
        return None;
    }
    Some(flow)
}

#[inline(always)]
fn note(flow: &mut Flow, packet: &Packet, headers: &Headers) {
    if !trace::flow(flow) {
        refresh(flow, packet, headers);
    }
}

/// The same for a packet of a pod about to leave by a route that may say masquerade. Two kinds of flow are forgotten: one of
/// an earlier pod that had the address, which is not the new one's; and one that the pod opened untranslated (its route
/// led by a VPN then, or had no masquerade), so that it gets a binding now: kept, it would leave with the pod's address for
/// as long as it lives (invariant 1).
#[inline(always)]
pub fn lookup_leaving(
    packet: &Packet,
    headers: &Headers,
    pod: u32,
    masquerade: bool,
) -> Option<&'static Flow> {
    let flow = lookup(packet, headers)?;
    let leaks = masquerade && flow.rewrite == Rewrite::None as u8 && is_original(flow);
    if flow.pod == pod && !leaks {
        return Some(flow);
    }
    forget(headers, flow);
    None
}

/// Whether a packet's flow, if there is one, is this pod's. One of an earlier pod that had the address is forgotten.
#[inline(always)]
pub fn is_of(headers: &Headers, flow: Option<&Flow>, pod: u32) -> bool {
    let Some(flow) = flow else { return false };
    if flow.pod != pod {
        forget(headers, flow);
    }
    flow.pod == pod
}

/// Whether a packet to a pod is of a flow that came to it by a published port from outside, and has been led there already.
#[inline(always)]
pub fn is_led(headers: &Headers, pod: u32) -> bool {
    let answer = || FLOWS.get(&headers.key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0));
    let is_answer = |flow: &Flow| {
        flow.pod == pod && flow.flags == 0 && !is_original(flow) && flow.rewrite == Rewrite::Source as u8
    };
    headers.transport == Transport::Ports && answer().is_some_and(is_answer)
}

/// Forgets a packet's flow. Not inlined: rare, and its keys would stand on the caller's stack.
#[inline(never)]
pub fn forget(headers: &Headers, flow: &Flow) {
    FLOWS.remove(&headers.key.partner_of(flow));
    FLOWS.remove(&headers.key);
}

/// Whether a pod's binding would get the answers to a packet of the node itself.
#[inline(always)]
pub fn is_taken_by_pod(headers: &Headers) -> bool {
    let reply = headers.key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0);
    FLOWS.get(&reply).is_some_and(|flow| flow.pod != 0 && flow.rewrite == Rewrite::Destination as u8)
}

/// Whether a flow came by a published port, and this is the half that leads to the pod.
#[inline(always)]
pub fn is_published(flow: &Flow) -> bool {
    is_original(flow) && flow.rewrite == Rewrite::Destination as u8
}

/// Whether a flow's other direction has had a packet.
#[inline(always)]
pub fn is_answered(flow: &Flow) -> bool {
    flow.peer_seen & PEER_SEEN != 0
}

/// What the flow does to its packets, if anything.
#[inline(always)]
pub fn translation(flow: &Flow) -> Option<Translation> {
    if flow.rewrite == Rewrite::None as u8 {
        return None;
    }
    let source = flow.rewrite == Rewrite::Source as u8;
    Some(Translation { addr: flow.addr, port: flow.port, source })
}

#[inline(always)]
fn is_original(flow: &Flow) -> bool {
    flow.direction == FlowDirection::Original as u8
}

#[inline(always)]
fn refresh(flow: &mut Flow, packet: &Packet, headers: &Headers) {
    let now = helper::now();
    if now.wrapping_sub(flow.last_seen) >= REFRESH {
        store(&mut flow.last_seen, now);
    }
    let first = flow.packets == 0;
    add(&mut flow.packets, 1);
    add(&mut flow.bytes, u64::from(packet.length() - ETHERNET as u32));
    if headers.key.proto == TCP {
        // A later part has no TCP header.
        if headers.part != Part::Later {
            observe(flow, headers);
        }
    } else if first {
        tell_partner(flow, &headers.key);
    }
}

/// TCP: what this direction has shown. Most segments show nothing new but their numbers.
#[inline(always)]
fn observe(flow: &mut Flow, headers: &Headers) {
    let usual = headers.tcp_flags & (SYN | RST) == 0
        && tcp::observe(flow.tcp_seen, headers.tcp_flags) == flow.tcp_seen;
    match segment(headers).advance(flow) {
        Some(end) if usual => note_numbers(flow, headers, end),
        _ => observe_with_partner(flow, headers),
    }
}

/// Not inlined: a few times in a flow's life.
#[inline(never)]
fn observe_with_partner(flow: &mut Flow, headers: &Headers) {
    let Some(partner) = FLOWS.get_mut(&headers.key.partner_of(flow)) else {
        return;
    };
    let closing = flow.tcp_seen & FIN != 0 && flow.peer_seen & FIN != 0;
    let reset = (flow.tcp_seen | flow.peer_seen) & RST != 0;
    if headers.tcp_flags & (SYN | tcp::ACK) == SYN && is_original(flow) && (closing || reset) {
        store(&mut flow.tcp_new, segment(headers).end());
        return begin_anew(flow, partner);
    }
    let segment = segment(headers);
    let opens = headers.tcp_flags & (SYN | RST | tcp::ACK) == SYN;
    // On a live pair, however near its number: the peer tells whether there is still a connection.
    if opens && flow.tcp_seen & tcp::ACK != 0 {
        return store(&mut flow.tcp_new, segment.end());
    }
    let end = if headers.tcp_flags & RST != 0 {
        segment.is_reset(flow, partner).then_some(flow.tcp_end)
    } else if segment.is_answer_to_new(partner) {
        begin_anew(partner, flow);
        Some(segment.end())
    } else {
        segment.advance(flow).or_else(|| segment.resume(flow, partner))
    };
    // Whoever does not know the numbers must neither end a live flow nor keep its end from being seen.
    let Some(end) = end else { return };
    note_numbers(flow, headers, end);
    let seen = tcp::observe(flow.tcp_seen, headers.tcp_flags);
    let ends = |flags: u8| flags & (FIN | RST);
    let tell = flow.tcp_seen == 0 || ends(seen) != ends(flow.tcp_seen);
    store(&mut flow.tcp_seen, seen);
    if tell {
        store(&mut partner.peer_seen, PEER_SEEN | ends(seen));
    }
}

/// A new connection with the old one's ports, and perhaps its binding: `opener` has sent its SYN, which ends at `tcp_new`.
#[inline(always)]
fn begin_anew(opener: &mut Flow, answerer: &mut Flow) {
    store(&mut answerer.tcp_seen, 0);
    store(&mut answerer.tcp_ack, 0);
    store(&mut answerer.tcp_end, 0);
    store(&mut answerer.tcp_new, 0);
    store(&mut answerer.peer_seen, PEER_SEEN);
    store(&mut opener.tcp_seen, SYN);
    store(&mut opener.tcp_ack, 0);
    store(&mut opener.tcp_end, opener.tcp_new);
    store(&mut opener.tcp_new, 0);
    store(&mut opener.peer_seen, 0);
}

/// What this direction has acknowledged, and up to where it has sent.
#[inline(always)]
fn note_numbers(flow: &mut Flow, headers: &Headers, end: u32) {
    store(&mut flow.tcp_end, end);
    if headers.tcp_flags & tcp::ACK != 0 {
        store(&mut flow.tcp_ack, headers.tcp_ack);
    }
}

#[inline(always)]
fn segment(headers: &Headers) -> Segment {
    Segment {
        seq: headers.tcp_seq,
        ack: headers.tcp_ack,
        length: headers.payload_length(),
        flags: headers.tcp_flags,
    }
}

/// Tells the other half that this one has had a packet. Not inlined: once in a flow's life.
#[inline(never)]
fn tell_partner(flow: &Flow, key: &FlowKey) {
    if let Some(partner) = FLOWS.get_mut(&key.partner_of(flow)) {
        store(&mut partner.peer_seen, PEER_SEEN);
    }
}

/// A new half without anything to rewrite.
#[inline(always)]
fn blank(pod: u32) -> Flow {
    let now = helper::now();
    Flow { last_seen: now, created: now, pod, ..Flow::EMPTY }
}

/// Counts the packet that makes a flow.
#[inline(always)]
fn first_packet(original: &mut Flow, packet: &Packet, headers: &Headers) {
    original.direction = FlowDirection::Original as u8;
    original.packets = 1;
    original.bytes = u64::from(packet.length() - ETHERNET as u32);
    if headers.key.proto == TCP && headers.part != Part::Later {
        original.tcp_seen = tcp::observe(0, headers.tcp_flags);
        original.tcp_ack = headers.tcp_ack;
        original.tcp_end = segment(headers).end();
    }
}

/// Results across calls that are not inlined: the kernel refuses the BTF that rustc writes for enums with data.
mod code {
    use netpath_common::abi::DropReason;

    /// No drop reason has this number.
    pub(super) const DONE: u8 = 0;

    #[inline(always)]
    pub(super) fn to_result(code: u8) -> Result<(), DropReason> {
        if code == DONE { Ok(()) } else { Err(DropReason::from_u8(code).unwrap_or(DropReason::NotReady)) }
    }
}
