//! Flows that come by a published port: destination translation, told by both halves as bindings are.

use netpath_common::abi::{
    DropReason, Endpoint, FLOW_HAIRPIN, Flow, FlowDirection, FlowKey, HAIRPIN_V4, HAIRPIN_V6, PEER_SEEN,
    Rewrite,
};

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
    code::to_result(admit(pod.slot))?;
    code::to_result(insert_published(packet, headers, pod.pod, to, flags))?;
    opened(pod.slot, &headers.key);
    Ok(())
}

#[inline(never)]
fn insert_published(packet: &Packet, headers: &Headers, pod: u32, to: &Translation, flags: u8) -> u8 {
    let key = &headers.key;
    let Some(scratch) = FLOW_SCRATCH.get_mut(0) else { return DropReason::NotReady as u8 };
    *scratch = Flow { rewrite: Rewrite::Destination as u8, flags, ..blank(pod) };
    (scratch.addr, scratch.port) = (to.addr, to.port);
    let mut reply = FlowKey::default();
    answer_of(headers, to, flags, &mut reply);
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
    let refused = match insert(key, scratch) {
        Err(InsertError::Full) => DropReason::FlowTableFull as u8,
        Err(InsertError::Exists) if !is_there(key, scratch) => DropReason::PublishedTaken as u8,
        _ => return code::DONE,
    };
    FLOWS.remove(&reply);
    refused
}

/// The key of the reply half: what `FlowKey::partner_of` says of the original. Not inlined, and with less of the stack: making
/// room in a full table needs what there is.
#[inline(never)]
fn answer_of(headers: &Headers, to: &Translation, flags: u8, reply: &mut FlowKey) {
    let key = &headers.key;
    (reply.src, reply.sport, reply.dst, reply.dport) = (to.addr, to.port, key.src, key.sport);
    reply.proto = key.proto;
    if flags & FLOW_HAIRPIN != 0 {
        reply.dst = if headers.v6 { HAIRPIN_V6 } else { HAIRPIN_V4 };
    }
}

/// Whether the table has this very half.
#[inline(always)]
fn is_there(key: &FlowKey, half: &Flow) -> bool {
    FLOWS.get(key).is_some_and(|there| {
        there.rewrite == half.rewrite
            && there.pod == half.pod
            && there.flags == half.flags
            && there.port == half.port
            && there.addr == half.addr
    })
}
