//! The gateway 169.254.1.1: an address that exists nowhere but in the pods' route tables. It answers pings, so that
//! "is my network up?" has an answer from inside a pod.

use netpath_common::abi::{Addr, DropReason, GATEWAY_V4};

use crate::packet::{Headers, ICMP, rewrite, tc::Packet};

const ECHO_REQUEST: u8 = 8;

/// Whether a destination is the gateway.
#[inline(always)]
pub fn is_addressed(destination: &Addr) -> bool {
    *destination == GATEWAY_V4
}

/// Turns an echo request into its answer; nothing else is there to talk to.
#[inline(always)]
pub fn answer(packet: &Packet, headers: &Headers) -> Result<(), DropReason> {
    if headers.key.proto != ICMP || headers.icmp_type != ECHO_REQUEST {
        return Err(DropReason::RouteDrop);
    }
    rewrite::echo_reply(packet, headers)
}
