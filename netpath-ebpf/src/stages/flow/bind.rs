//! Bindings: source translation of new flows (FIELD-NOTES, 1).

use core::marker::PhantomData;

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{
        Addr, DropReason, Endpoint, Exhausted, ExhaustedKey, Flow, FlowDirection, FlowKey, MAX_POOL,
        PEER_SEEN, Rewrite, SNAT_TRY_ROWS,
    },
    logic::{
        port_choice::{MAX_TRIES, PortChoice},
        source_choice::Sources,
    },
};

use super::{
    FLOW_SCRATCH, FLOWS, blank, code, first_packet,
    open::{admit, insert, note, opened},
    translation,
};
use crate::{
    bpf::{
        helper,
        map::{InsertError, LruHash, PerCpu, add, store},
        socket, trace,
    },
    packet::{Headers, SCTP, is_icmp, rewrite::Translation, tc::Packet},
};

#[map]
static EXHAUSTED: LruHash<ExhaustedKey, Exhausted> = LruHash::new(256);

#[map]
static SNAT_TRIES: PerCpu<u64> = PerCpu::new(SNAT_TRY_ROWS);

/// Tells which ports of the node no binding gets, whoever holds them. A type and not a value, which would stand on the stack
/// of the search.
pub trait Taken {
    /// Whether answers with this key would be somebody else's.
    fn is_taken(reply: &FlowKey) -> bool;
}

/// Makes a binding for a new flow: its own port if that is in the range and free, else another. Bounded: at most
/// `MAX_TRIES` ports of each address are tried, then the packet is dropped, never let out untranslated. `pod` is absent
/// for a flow of the node itself.
#[inline(always)]
pub fn bind<T: Taken>(
    packet: &Packet,
    headers: &Headers,
    pod: Option<&Endpoint>,
    sources: &Sources,
) -> Result<Translation, DropReason> {
    // An answer without a question makes no flow.
    if is_icmp(headers.key.proto) && !headers.is_echo_request() {
        return Err(DropReason::ProtocolNotTranslated);
    }
    if let Some(pod) = pod {
        code::to_result(admit(pod.slot))?;
    }
    let number = pod.map_or(0, |pod| pod.pod);
    let mut binding = Translation { addr: Addr::UNSPECIFIED, port: 0, source: true };
    let code = insert_bound::<T>(packet, headers, number, sources, &mut binding);
    if code == DropReason::SnatExhausted as u8 {
        exhausted(&headers.key, number);
    }
    code::to_result(code)?;
    match pod {
        Some(pod) => opened(pod.slot, &headers.key),
        None => note(&headers.key),
    }
    Ok(binding)
}

/// Makes both halves of a translated flow; `binding` gets its address and port.
#[inline(never)]
fn insert_bound<T: Taken>(
    packet: &Packet,
    headers: &Headers,
    pod: u32,
    sources: &Sources,
    binding: &mut Translation,
) -> u8 {
    let key = &headers.key;
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow {
        direction: FlowDirection::Reply as u8,
        rewrite: Rewrite::Destination as u8,
        peer_seen: PEER_SEEN,
        addr: key.src,
        port: key.sport,
        ..blank(pod)
    };
    // SCTP keeps its port: CRC32c covers it, and the peer's associations are told apart by it.
    let sctp = key.proto == SCTP;
    let wanted = u16::from_be(key.sport);
    let (first, count) = if sctp { (wanted, 1) } else { (sources.first, sources.count) };
    // A range smaller than the bound is walked once, after the wanted port.
    let tries = if sctp { 1 } else { u32::from(count) + 1 };
    let Some(search) = SEARCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *search = Search {
        choice: PortChoice::new(first, count, wanted, helper::random()),
        range: (first, count),
        tries: if tries < MAX_TRIES { tries } else { MAX_TRIES },
        tried: 0,
        addr: sources.address(&key.src, 0),
        reply: *key,
        code: if sctp { DropReason::SnatPortTaken as u8 } else { DropReason::SnatExhausted as u8 },
    };
    let addresses = sources.pool.count;
    let addresses = if addresses < MAX_POOL as u32 { addresses } else { MAX_POOL as u32 };
    helper::repeat(
        search.tries * addresses,
        &mut Candidates::<T> { packet, headers, sources, taken: PhantomData },
    );
    count_tries(search.tried, search.code == code::DONE);
    if search.code != code::DONE {
        return search.code;
    }
    // The port that stands: an echo has its identifier in both places.
    (binding.addr, binding.port) = (search.addr, search.reply.dport);
    if trace::bound(&search.addr, search.reply.dport, search.tried) {
        return code::DONE;
    }
    scratch.rewrite = Rewrite::Source as u8;
    scratch.peer_seen = 0;
    scratch.addr = binding.addr;
    scratch.port = binding.port;
    first_packet(scratch, packet, headers);
    complete(key, &search.reply, scratch, binding)
}

/// The reply half stands; adds the original half, or gives the port back.
#[inline(always)]
fn complete(key: &FlowKey, reply: &FlowKey, original: &Flow, binding: &mut Translation) -> u8 {
    let inserted = insert(key, original);
    if inserted.is_ok() {
        return code::DONE;
    }
    FLOWS.remove(reply);
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

/// Counts how many ports a binding took.
#[inline(always)]
fn count_tries(tried: u32, found: bool) {
    let row = match tried {
        _ if !found => SNAT_TRY_ROWS - 1,
        0..=1 => 0,
        2 => 1,
        3..=4 => 2,
        5..=8 => 3,
        9..=16 => 4,
        17..=32 => 5,
        33..=64 => 6,
        _ => 7,
    };
    if let Some(count) = SNAT_TRIES.get_mut(row) {
        *count += 1;
    }
}

/// Counts a packet that no port was free for, by its destination.
#[inline(never)]
fn exhausted(key: &FlowKey, pod: u32) {
    let dport = if is_icmp(key.proto) { 0 } else { key.dport };
    let destination = ExhaustedKey { dst: key.dst, dport, proto: key.proto, pad: 0 };
    // Another CPU may be first with the same destination.
    if EXHAUSTED.insert_new(&destination, &Exhausted { packets: 1, pod, pad: 0 }) {
        return;
    }
    if let Some(there) = EXHAUSTED.get_mut(&destination) {
        add(&mut there.packets, 1);
        store(&mut there.pod, pod);
    }
}

/// How far the search for a free port is. In a table and not on the stack: the verifier would go through it once for every
/// value that it can follow.
#[derive(Clone, Copy)]
#[repr(C)]
struct Search {
    choice: PortChoice,
    range: (u16, u16),
    /// Tries an address is given.
    tries: u32,
    /// Tries so far.
    tried: u32,
    addr: Addr,
    /// Key of the reply half that is tried; it stands once the search is done.
    reply: FlowKey,
    /// `code::DONE` once it stands, else why not.
    code: u8,
}

#[map]
static SEARCH: PerCpu<Search> = PerCpu::new(1);

/// What the candidates are for.
struct Candidates<'a, T> {
    packet: &'a Packet,
    headers: &'a Headers,
    sources: &'a Sources,
    taken: PhantomData<T>,
}

impl<T: Taken> helper::Step for Candidates<'_, T> {
    #[inline(always)]
    fn step(&mut self, round: u32) -> bool {
        let (Some(scratch), Some(search)) = (FLOW_SCRATCH.get_mut(0), SEARCH.get_mut(0)) else { return true };
        let port = search.choice.port().to_be();
        search.reply = self.headers.key.partner(Rewrite::Source as u8, search.addr, port);
        search.tried = round + 1;
        match insert(&search.reply, scratch) {
            Ok(()) if T::is_taken(&search.reply) || socket::owns(self.packet, &search.reply) => {
                FLOWS.remove(&search.reply);
            }
            Ok(()) => {
                search.code = code::DONE;
                return true;
            }
            Err(InsertError::Exists) => {}
            Err(InsertError::Full) => {
                search.code = DropReason::FlowTableFull as u8;
                return true;
            }
        }
        self.next(search);
        false
    }
}

impl<T> Candidates<'_, T> {
    /// On to the next port, or to the next address if this one has had its tries.
    #[inline(always)]
    fn next(&self, search: &mut Search) {
        match search.tried.checked_rem(search.tries).unwrap_or(0) {
            0 => {
                let others = search.tried.checked_div(search.tries).unwrap_or(0);
                search.addr = self.sources.address(&self.headers.key.src, others);
                let wanted = u16::from_be(self.headers.key.sport);
                search.choice = PortChoice::new(search.range.0, search.range.1, wanted, helper::random());
            }
            1 => search.choice.scatter(helper::random()),
            _ => search.choice.step(),
        }
    }
}
