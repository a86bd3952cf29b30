//! Pods do not reach what is protected on nodes, whichever way their packets take. Asked where a flow begins (the agent ends flows that are
//! older than the setting), and of every packet that has none.

use netpath_common::abi::DropReason;

use crate::{
    packet::{Headers, tc::Packet},
    stages::{fragment, protect, route},
};

/// Refuses a packet of a pod for a protected port of a node, this one or another.
#[inline(always)]
pub fn refuse(headers: &Headers) -> Result<(), DropReason> {
    if is_of_nodes(headers) { Err(DropReason::ProtectedPort) } else { Ok(()) }
}

/// The same for what the node's stack is about to get, which may deliver it: also for what the FIB says is the node's, and its record does
/// not, or not yet.
#[inline(always)]
pub fn refuse_to_stack(packet: &Packet, headers: &mut Headers) -> Result<(), DropReason> {
    if is_of_stack(packet, headers) { Err(DropReason::ProtectedPort) } else { Ok(()) }
}

/// Not inlined, as the next: rare.
#[inline(never)]
fn is_of_nodes(headers: &Headers) -> bool {
    protect::is_listed(headers) && route::is_of_a_node(&headers.key.dst)
}

#[inline(never)]
fn is_of_stack(packet: &Packet, headers: &mut Headers) -> bool {
    fragment::resolve(headers);
    protect::is_listed(headers)
        && (route::is_of_a_node(&headers.key.dst) || route::is_delivered_here(packet, headers))
}
