//! FLOWS: conntrack and NAT in one.
//!
//! Both directions are written together, the reply first: it reserves the port. The table is a plain hash and not an
//! LRU, so an established flow is never evicted for a new one (invariant 3).

mod bind;
mod open;
mod related;
mod table;

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{Addr, Flow, FlowDirection, FlowKey, PEER_SEEN, Rewrite},
    logic::tcp::{self, FIN, RST, SYN},
};

use self::table::FLOWS;
pub use self::{
    bind::bind,
    open::track,
    related::{About, related},
};
use crate::{
    bpf::{
        helper,
        map::{PerCpu, add, store},
    },
    packet::{ETHERNET, Headers, TCP, Transport, is_icmp, rewrite::Translation, tc::Packet},
};

/// Room to build an entry in: two of them do not fit on a program's stack beside the rest.
#[map]
static FLOW_SCRATCH: PerCpu<Flow> = PerCpu::new(1);

/// `last_seen` is written at most this often, ns: a write dirties a cache line that other CPUs read.
const REFRESH: u64 = 1_000_000_000;

/// The packet's half of its flow, refreshed. `None` for what has no flow of its own: ICMP errors, unknown parts.
#[inline(always)]
pub fn lookup(packet: &Packet, headers: &Headers) -> Option<&'static Flow> {
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
    refresh(flow, packet, headers);
    Some(flow)
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
    FLOWS.remove(&headers.key.partner(flow.rewrite, flow.addr, flow.port));
    FLOWS.remove(&headers.key);
    None
}

/// Whether a pod's binding would get the answers to a packet of the node itself.
#[inline(always)]
pub fn is_taken_by_pod(headers: &Headers) -> bool {
    let reply = headers.key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0);
    FLOWS.get(&reply).is_some_and(|flow| flow.pod != 0 && flow.rewrite == Rewrite::Destination as u8)
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
        observe(flow, headers);
    } else if first {
        tell_partner(flow, &headers.key, 0);
    }
}

/// TCP: what this direction has shown, told to the other half where it changes the pair's state.
#[inline(always)]
fn observe(flow: &mut Flow, headers: &Headers) {
    let closing = flow.tcp_seen & FIN != 0 && flow.peer_seen & FIN != 0;
    let reset = (flow.tcp_seen | flow.peer_seen) & RST != 0;
    if headers.tcp_flags & (SYN | tcp::ACK) == SYN && is_original(flow) && (closing || reset) {
        return reopen(flow, headers);
    }
    if headers.tcp_flags & RST != 0 && !is_in_window(flow, headers) {
        return;
    }
    if headers.tcp_flags & tcp::ACK != 0 {
        store(&mut flow.tcp_ack, headers.tcp_ack);
    }
    let seen = tcp::observe(flow.tcp_seen, headers.tcp_flags);
    let ends = |flags: u8| flags & (FIN | RST);
    let tell = flow.tcp_seen == 0 || ends(seen) != ends(flow.tcp_seen);
    if seen != flow.tcp_seen {
        store(&mut flow.tcp_seen, seen);
    }
    if tell {
        tell_partner(flow, &headers.key, ends(seen));
    }
}

/// Whether an RST can be the connection's: its sequence number is what the other direction waits for, or a little above
/// it, as acknowledgements lag. Another one must not shorten a live flow (RFC 5961, 3).
#[inline(never)]
fn is_in_window(flow: &Flow, headers: &Headers) -> bool {
    /// The largest window without scaling, and the largest train that one acknowledgement answers.
    const LAG: u32 = 65_535;
    let Some(partner) = FLOWS.get(&headers.key.partner(flow.rewrite, flow.addr, flow.port)) else {
        return false;
    };
    headers.tcp_seq.wrapping_sub(partner.tcp_ack) <= LAG
}

/// A SYN on a closed pair: a new connection with the old one's ports, and perhaps its binding.
#[inline(never)]
fn reopen(flow: &mut Flow, headers: &Headers) {
    if let Some(partner) = FLOWS.get_mut(&headers.key.partner(flow.rewrite, flow.addr, flow.port)) {
        store(&mut partner.tcp_seen, 0);
        store(&mut partner.tcp_ack, 0);
        store(&mut partner.peer_seen, PEER_SEEN);
    }
    store(&mut flow.tcp_seen, SYN);
    store(&mut flow.tcp_ack, 0);
    store(&mut flow.peer_seen, 0);
}

/// Tells the other half that this one has had a packet, and whether it ends. Not inlined: a few times in a flow's life.
#[inline(never)]
fn tell_partner(flow: &Flow, key: &FlowKey, ends: u8) {
    if let Some(partner) = FLOWS.get_mut(&key.partner(flow.rewrite, flow.addr, flow.port)) {
        store(&mut partner.peer_seen, PEER_SEEN | ends);
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
    if headers.key.proto == TCP {
        original.tcp_seen = tcp::observe(0, headers.tcp_flags);
        original.tcp_ack = headers.tcp_ack;
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
