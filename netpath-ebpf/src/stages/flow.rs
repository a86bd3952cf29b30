//! FLOWS: conntrack and NAT in one.
//!
//! Both directions are written together, the reply first: it reserves the port. The table is a plain hash and not an
//! LRU, so an established flow is never evicted for a new one (invariant 3); when it is full, the new flow is refused.

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{Addr, DropReason, Flow, FlowDirection, FlowKey, Rewrite},
    logic::{
        port_choice::{MAX_TRIES, PortChoice},
        tcp,
    },
};

use crate::{
    bpf::{
        helper,
        map::{Hash, InsertError, PerCpu, add, store},
        socket,
    },
    packet::{ETHERNET, Headers, ICMP, TCP, Transport, rewrite::Translation, tc::Packet},
};

#[map]
static FLOWS: Hash<FlowKey, Flow> = Hash::new(262_144);

/// Room to build an entry in: two of them do not fit on a program's stack beside the rest.
#[map]
static FLOW_SCRATCH: PerCpu<Flow> = PerCpu::new(1);

/// `last_seen` is written at most this often, ns: a write dirties a cache line that other CPUs read.
const REFRESH: u64 = 1_000_000_000;
const ECHO_REQUEST: u8 = 8;

/// Where new bindings come from.
#[derive(Clone, Copy)]
pub struct Pool {
    /// Address to translate to.
    pub addr: Addr,
    /// First port, host order.
    pub first: u16,
    /// How many ports.
    pub count: u16,
}

/// The packet's half of its flow, refreshed. `None` for what has no flow of its own: fragments, ICMP errors.
#[inline(always)]
pub fn lookup(packet: &Packet, headers: &Headers) -> Option<&'static Flow> {
    if headers.transport == Transport::Fragment || headers.transport == Transport::Icmp {
        return None;
    }
    let flow = FLOWS.get_mut(&headers.key)?;
    // Question and answer of an echo have one key each way: a question must not pass for the answer.
    let original = flow.direction == FlowDirection::Original as u8;
    if headers.key.proto == ICMP
        && flow.rewrite != Rewrite::None as u8
        && original != (headers.icmp_type == ECHO_REQUEST)
    {
        return None;
    }
    refresh(flow, packet, headers);
    Some(flow)
}

/// The same for a packet about to leave by a route that may say masquerade. A flow that a pod opened untranslated (its
/// route led by a VPN then, or had no masquerade) is forgotten, so that it gets a binding now: kept, it would leave with
/// the pod's address for as long as it lives (invariant 1).
#[inline(always)]
pub fn lookup_leaving(packet: &Packet, headers: &Headers, masquerade: bool) -> Option<&'static Flow> {
    let flow = lookup(packet, headers)?;
    let untranslated = flow.rewrite == Rewrite::None as u8;
    if masquerade && untranslated && flow.direction == FlowDirection::Original as u8 {
        FLOWS.remove(&headers.key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0));
        FLOWS.remove(&headers.key);
        return None;
    }
    Some(flow)
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
fn refresh(flow: &mut Flow, packet: &Packet, headers: &Headers) {
    let now = helper::now();
    if now.wrapping_sub(flow.last_seen) >= REFRESH {
        store(&mut flow.last_seen, now);
    }
    add(&mut flow.packets, 1);
    add(&mut flow.bytes, u64::from(packet.length() - ETHERNET as u32));
    if headers.key.proto == TCP {
        let seen = tcp::observe(flow.tcp_seen, headers.tcp_flags);
        if seen != flow.tcp_seen {
            store(&mut flow.tcp_seen, seen);
        }
    }
}

/// Makes sure an untranslated flow is tracked, so that its answers are known. What has no flow of its own is let be.
#[inline(always)]
pub fn track(packet: &Packet, headers: &Headers, pod: u32) -> Result<(), DropReason> {
    if headers.transport == Transport::Fragment || headers.transport == Transport::Icmp {
        return Ok(());
    }
    if lookup(packet, headers).is_some() {
        return Ok(());
    }
    code::to_result(insert_tracked(packet, headers, pod))
}

/// Makes both halves of an untranslated flow.
#[inline(never)]
fn insert_tracked(packet: &Packet, headers: &Headers, pod: u32) -> u8 {
    let key = &headers.key;
    let reply = key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0);
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow { direction: FlowDirection::Reply as u8, ..blank(pod) };
    // It exists if another CPU was first with the same pair.
    if FLOWS.insert_new(&reply, scratch) == Err(InsertError::Full) {
        return DropReason::FlowTableFull as u8;
    }
    first_packet(scratch, packet, headers);
    if FLOWS.insert_new(key, scratch) == Err(InsertError::Full) {
        FLOWS.remove(&reply);
        return DropReason::FlowTableFull as u8;
    }
    code::DONE
}

/// Makes a binding for a new flow: its own port if that is in the range and free, else another (FIELD-NOTES, 1).
/// Bounded: at most `MAX_TRIES` ports are tried, then the packet is dropped, never let out untranslated.
#[inline(always)]
pub fn bind(packet: &Packet, headers: &Headers, pod: u32, pool: &Pool) -> Result<Translation, DropReason> {
    // An answer without a question makes no flow.
    if headers.key.proto == ICMP && headers.icmp_type != ECHO_REQUEST {
        return Err(DropReason::ProtocolNotTranslated);
    }
    let mut binding = Translation { addr: pool.addr, port: 0, source: true };
    code::to_result(insert_bound(packet, headers, pod, pool, &mut binding))?;
    Ok(binding)
}

/// Makes both halves of a translated flow; `binding` gets its address and port.
#[inline(never)]
fn insert_bound(packet: &Packet, headers: &Headers, pod: u32, pool: &Pool, binding: &mut Translation) -> u8 {
    let key = &headers.key;
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow {
        direction: FlowDirection::Reply as u8,
        rewrite: Rewrite::Destination as u8,
        addr: key.src,
        port: key.sport,
        ..blank(pod)
    };
    let wanted = u16::from_be(key.sport);
    let mut search = Search {
        packet,
        headers,
        pool,
        choice: PortChoice::new(pool.first, pool.count, wanted, helper::random()),
        port: 0,
        code: DropReason::SnatExhausted as u8,
    };
    // A range smaller than the bound is walked once, after the wanted port.
    let tries = u32::from(pool.count) + 1;
    helper::repeat(if tries < MAX_TRIES { tries } else { MAX_TRIES }, &mut search);
    if search.code != code::DONE {
        return search.code;
    }
    binding.port = search.port;
    scratch.rewrite = Rewrite::Source as u8;
    scratch.addr = pool.addr;
    scratch.port = search.port;
    first_packet(scratch, packet, headers);
    complete(key, scratch, binding)
}

/// The reply half stands; adds the original half, or gives the port back.
#[inline(always)]
fn complete(key: &FlowKey, original: &Flow, binding: &mut Translation) -> u8 {
    let inserted = FLOWS.insert_new(key, original);
    if inserted.is_ok() {
        return code::DONE;
    }
    FLOWS.remove(&key.partner(Rewrite::Source as u8, binding.addr, binding.port));
    if inserted == Err(InsertError::Full) {
        return DropReason::FlowTableFull as u8;
    }
    // Two CPUs sent the flow's first packets: the other's binding stands.
    match FLOWS.get(key).and_then(translation) {
        Some(theirs) => {
            *binding = theirs;
            code::DONE
        }
        None => DropReason::NotReady as u8,
    }
}

/// The search for a free port.
struct Search<'a> {
    packet: &'a Packet,
    headers: &'a Headers,
    pool: &'a Pool,
    choice: PortChoice,
    /// The port whose reply half stands, network order.
    port: u16,
    /// `code::DONE` once it stands, else why not.
    code: u8,
}

impl helper::Step for Search<'_> {
    #[inline(always)]
    fn step(&mut self, round: u32) -> bool {
        let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return true };
        let port = self.choice.port().to_be();
        let reply = self.headers.key.partner(Rewrite::Source as u8, self.pool.addr, port);
        match FLOWS.insert_new(&reply, scratch) {
            Ok(()) if socket::owns(self.packet, &reply) => FLOWS.remove(&reply),
            Ok(()) => {
                self.port = port;
                self.code = code::DONE;
                return true;
            }
            Err(InsertError::Exists) => {}
            Err(InsertError::Full) => {
                self.code = DropReason::FlowTableFull as u8;
                return true;
            }
        }
        if round == 0 {
            self.choice.scatter(helper::random());
        } else {
            self.choice.step();
        }
        false
    }
}

/// Results across calls that are not inlined: the kernel refuses the BTF that rustc writes for enums with data.
mod code {
    use netpath_common::abi::DropReason;

    /// It worked; else the number is a [`DropReason`].
    pub const DONE: u8 = 0;

    #[inline(always)]
    pub fn to_result(code: u8) -> Result<(), DropReason> {
        match DropReason::from_u8(code) {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }
}

#[inline(always)]
fn first_packet(flow: &mut Flow, packet: &Packet, headers: &Headers) {
    flow.direction = FlowDirection::Original as u8;
    flow.packets = 1;
    flow.bytes = u64::from(packet.length() - ETHERNET as u32);
    flow.tcp_seen = if headers.key.proto == TCP { tcp::observe(0, headers.tcp_flags) } else { 0 };
}

#[inline(always)]
fn blank(pod: u32) -> Flow {
    let now = helper::now();
    Flow {
        last_seen: now,
        created: now,
        packets: 0,
        bytes: 0,
        addr: Addr::UNSPECIFIED,
        port: 0,
        rewrite: Rewrite::None as u8,
        direction: FlowDirection::Original as u8,
        tcp_seen: 0,
        pad: [0; 3],
        pod,
        policy_generation: 0,
        reserved: [0; 4],
    }
}
