//! Flows that come by a published port: destination translation, told by both halves as bindings are.

use netpath_common::abi::{DropReason, Endpoint, Flow, FlowDirection, FlowKey, PEER_SEEN, Rewrite};

use super::{
    FLOW_SCRATCH, FLOWS, blank, code, first_packet,
    open::{admit, insert, opened},
};
use crate::{
    bpf::{map::InsertError, trace},
    packet::{Headers, rewrite::Translation, tc::Packet},
};

/// Makes both halves of a new flow to a pod: `to` is where its packets go, `flags` are the flow's. Counted as one of the
/// pod's flows, and ended with it.
#[inline(always)]
pub fn publish(
    packet: &Packet,
    headers: &Headers,
    pod: &Endpoint,
    to: &Translation,
    flags: u8,
) -> Result<(), DropReason> {
    code::to_result(insert_published(packet, headers, pod, to, flags))
}

#[inline(never)]
fn insert_published(packet: &Packet, headers: &Headers, pod: &Endpoint, to: &Translation, flags: u8) -> u8 {
    let refused = admit(pod.slot);
    if refused != code::DONE {
        return refused;
    }
    let key = &headers.key;
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow { rewrite: Rewrite::Destination as u8, flags, ..blank(pod.pod) };
    (scratch.addr, scratch.port) = (to.addr, to.port);
    let mut reply = FlowKey::default();
    answer_of(key, scratch, &mut reply);
    if trace::published(scratch) {
        return code::DONE;
    }
    scratch.direction = FlowDirection::Reply as u8;
    scratch.rewrite = Rewrite::Source as u8;
    scratch.peer_seen = PEER_SEEN;
    (scratch.addr, scratch.port) = (key.dst, key.dport);
    match insert(&reply, scratch) {
        Err(InsertError::Full) => return DropReason::FlowTableFull as u8,
        Err(InsertError::Exists) if !is_there(&reply, scratch) => return DropReason::PublishedTaken as u8,
        // Or another CPU was first with the same pair.
        _ => {}
    }
    scratch.rewrite = Rewrite::Destination as u8;
    scratch.peer_seen = 0;
    (scratch.addr, scratch.port) = (to.addr, to.port);
    first_packet(scratch, packet, headers);
    if insert(key, scratch) == Err(InsertError::Full) {
        FLOWS.remove(&reply);
        return DropReason::FlowTableFull as u8;
    }
    opened(pod.slot, key);
    code::DONE
}

/// The key of the other half. Not inlined: what it takes would stand on the stack beneath making room in a full table.
#[inline(never)]
fn answer_of(key: &FlowKey, half: &Flow, reply: &mut FlowKey) {
    *reply = key.partner_of(half);
}

/// Whether the table has this very reply half.
#[inline(always)]
fn is_there(key: &FlowKey, half: &Flow) -> bool {
    FLOWS.get(key).is_some_and(|there| {
        there.rewrite == half.rewrite
            && there.pod == half.pod
            && there.port == half.port
            && there.addr == half.addr
    })
}
