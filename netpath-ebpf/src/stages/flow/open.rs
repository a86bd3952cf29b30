//! Making flows: who may, and what makes room in a full table.

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{Addr, DropReason, Endpoint, Flow, FlowDirection, FlowKey, PEER_SEEN, PodLimit, Rewrite},
    logic::flow_state,
};

use super::{FLOW_SCRATCH, FLOWS, blank, code, first_packet, is_original, lookup, translation};
use crate::{
    bpf::{
        globals, helper,
        map::{InsertError, PerCpu, Shared, add},
        trace,
    },
    packet::{Headers, Transport, tc::Packet},
};

#[map]
static POD_OPENED: Shared<u64> = Shared::new(4096);

#[map]
static POD_LIMITS: Shared<PodLimit> = Shared::new(4096);

/// Per CPU: the flows it made last, oldest first from the cursor on. What never saw a reply is found here when the table
/// is full.
#[map]
static UNREPLIED: PerCpu<FlowKey> = PerCpu::new(UNREPLIED_KEYS);

/// Per CPU: how many keys were written to UNREPLIED, and how many were looked at.
#[map]
static UNREPLIED_CURSOR: PerCpu<Cursor> = PerCpu::new(1);

/// A power of two.
const UNREPLIED_KEYS: u32 = 4096;
/// Keys one packet may look at to find room.
const MAX_LOOKS: u32 = 128;

#[derive(Clone, Copy)]
#[repr(C)]
struct Cursor {
    written: u32,
    looked_at: u32,
}

/// Makes sure an untranslated flow is tracked, so that its answers are known. What has no flow of its own is let be. `pod`
/// is absent for a flow of the node itself.
#[inline(always)]
pub fn track(packet: &Packet, headers: &Headers, pod: Option<&Endpoint>) -> Result<(), DropReason> {
    if lookup(packet, headers).is_some() { Ok(()) } else { track_new(packet, headers, pod) }
}

/// The same for a packet whose flow was looked for and is not known.
#[inline(always)]
pub fn track_new(packet: &Packet, headers: &Headers, pod: Option<&Endpoint>) -> Result<(), DropReason> {
    if headers.transport != Transport::Ports && headers.transport != Transport::Other {
        return Ok(());
    }
    code::to_result(insert_tracked(packet, headers, pod))
}

/// Makes both halves of an untranslated flow.
#[inline(never)]
fn insert_tracked(packet: &Packet, headers: &Headers, pod: Option<&Endpoint>) -> u8 {
    if let Some(pod) = pod {
        let refused = admit(pod.slot);
        if refused != code::DONE {
            return refused;
        }
    }
    let number = pod.map_or(0, |pod| pod.pod);
    let key = &headers.key;
    let reply = key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0);
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow { direction: FlowDirection::Reply as u8, peer_seen: PEER_SEEN, ..blank(number) };
    match insert(&reply, scratch) {
        Err(InsertError::Full) => return DropReason::FlowTableFull as u8,
        // A pod's translated flow has this tuple: what came to the pod's own address would be answered from the node's.
        Err(InsertError::Exists) if FLOWS.get(&reply).and_then(translation).is_some() => {
            return DropReason::InboundDenied as u8;
        }
        // Without translation, another CPU was first with the same pair.
        _ => {}
    }
    if trace::tracked() {
        return code::DONE;
    }
    scratch.peer_seen = 0;
    first_packet(scratch, packet, headers);
    if insert(key, scratch) == Err(InsertError::Full) {
        FLOWS.remove(&reply);
        return DropReason::FlowTableFull as u8;
    }
    match pod {
        Some(pod) => opened(pod.slot, key),
        None => note(key),
    }
    code::DONE
}

/// Whether a pod may have one more flow.
#[inline(always)]
pub(super) fn admit(slot: u32) -> u8 {
    let (Some(opened), Some(limit)) = (POD_OPENED.get_mut(slot), POD_LIMITS.get_mut(slot)) else {
        return DropReason::NotReady as u8;
    };
    if *opened >= limit.ceiling && helper::now() < limit.valid_until {
        return DropReason::PodFlowLimit as u8;
    }
    code::DONE
}

/// Notes a flow that was made.
#[inline(always)]
pub(super) fn opened(slot: u32, key: &FlowKey) {
    if globals::dry_run() {
        return;
    }
    if let Some(opened) = POD_OPENED.get_mut(slot) {
        add(opened, 1);
    }
    note(key);
}

/// Notes the original half of a flow that no reply has been seen of.
#[inline(always)]
pub(super) fn note(key: &FlowKey) {
    let Some(cursor) = UNREPLIED_CURSOR.get_mut(0) else { return };
    if let Some(slot) = UNREPLIED.get_mut(cursor.written & (UNREPLIED_KEYS - 1)) {
        *slot = *key;
        cursor.written = cursor.written.wrapping_add(1);
    }
}

/// Inserts a half that is not there yet. If the table is full, a flow that never saw a reply makes room (netfilter's rule
/// for what is not assured); one that saw one never does.
#[inline(always)]
pub(super) fn insert(key: &FlowKey, half: &Flow) -> Result<(), InsertError> {
    match FLOWS.insert_new(key, half) {
        Err(InsertError::Full) => {
            helper::repeat(MAX_LOOKS, &mut Reclaim);
            FLOWS.insert_new(key, half)
        }
        outcome => outcome,
    }
}

/// Looks at the oldest noted flows until one could be removed.
struct Reclaim;

impl helper::Step for Reclaim {
    #[inline(always)]
    fn step(&mut self, _round: u32) -> bool {
        let Some(cursor) = UNREPLIED_CURSOR.get_mut(0) else { return true };
        let unseen = cursor.written.wrapping_sub(cursor.looked_at);
        if unseen == 0 {
            return true;
        }
        if unseen > UNREPLIED_KEYS {
            cursor.looked_at = cursor.written.wrapping_sub(UNREPLIED_KEYS);
        }
        let Some(key) = UNREPLIED.get_mut(cursor.looked_at & (UNREPLIED_KEYS - 1)) else { return true };
        cursor.looked_at = cursor.looked_at.wrapping_add(1);
        let Some(flow) = FLOWS.get_here(key) else { return false };
        if !is_original(flow) || flow_state::is_assured(key.proto, flow) {
            return false;
        }
        // The reply half last: it holds the port.
        let reply = key.partner_of(flow);
        FLOWS.remove(key);
        FLOWS.remove(&reply);
        true
    }
}
