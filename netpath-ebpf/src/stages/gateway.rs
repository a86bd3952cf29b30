//! The gateways 169.254.1.1 and fe80::1: addresses that exist nowhere but in the pods' route tables. They answer pings, so
//! that "is my network up?" has an answer from inside a pod.

use netpath_common::abi::{Addr, DropReason, GATEWAY_V4, GATEWAY_V6};

use crate::packet::{Headers, Part, rewrite, tc::Packet};

/// Whether a destination is the gateway.
#[inline(always)]
pub fn is_addressed(destination: &Addr) -> bool {
    *destination == GATEWAY_V4 || *destination == GATEWAY_V6
}

/// Turns an echo request into its answer; nothing else is there to talk to.
#[inline(always)]
pub fn answer(packet: &Packet, headers: &Headers) -> Result<(), DropReason> {
    // What a later part has in that place is no type.
    if !headers.is_echo_request() || headers.part == Part::Later {
        return Err(DropReason::RouteDrop);
    }
    rewrite::echo_reply(packet, headers)
}
