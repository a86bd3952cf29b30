//! Ports of nodes that pods do not reach.

use aya_ebpf::macros::map;
use netpath_common::abi::{PROTECTED_ANY, PROTECTED_WORDS, protected_place};

use crate::{
    bpf::map::Shared,
    packet::{Headers, Transport, extension},
};

#[map]
static PROTECTED: Shared<u64> = Shared::new(PROTECTED_WORDS);

/// Whether the port that a packet is for is one of them, if its destination is a node: or may be, as it stands behind more extension headers
/// than are walked. The node's stack walks all of them.
#[inline(always)]
pub fn is_listed(headers: &Headers) -> bool {
    let proto = headers.key.proto;
    let place = if proto == extension::NO_NEXT_HEADER {
        Some((PROTECTED_ANY, u64::MAX))
    } else if headers.transport == Transport::Ports {
        protected_place(proto, u16::from_be(headers.key.dport))
    } else {
        None
    };
    let Some((word, bits)) = place else { return false };
    PROTECTED.get(word).is_some_and(|ports| ports & bits != 0)
}
