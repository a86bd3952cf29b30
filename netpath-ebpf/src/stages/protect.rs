//! Ports of nodes that pods do not reach.

use aya_ebpf::macros::map;
use netpath_common::abi::{PROTECTED_WORDS, protected_place};

use crate::{
    bpf::map::Shared,
    packet::{Headers, Transport},
};

#[map]
static PROTECTED: Shared<u64> = Shared::new(PROTECTED_WORDS);

/// Whether the port that a packet is for is one of them, if its destination is a node.
#[inline(always)]
pub fn is_listed(headers: &Headers) -> bool {
    let port = u16::from_be(headers.key.dport);
    let Some((word, bit)) = protected_place(headers.key.proto, port) else { return false };
    headers.transport == Transport::Ports && PROTECTED.get(word).is_some_and(|ports| ports & bit != 0)
}
