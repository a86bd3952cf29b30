//! Local pods by address, and by the interface they are behind.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, Endpoint, Link};

use crate::bpf::map::Hash;

#[map]
static ENDPOINTS: Hash<Addr, Endpoint> = Hash::new(32_768);

#[map]
static LINKS: Hash<u32, Link> = Hash::new(8192);

/// The local pod with this address.
#[inline(always)]
pub fn find(address: &Addr) -> Option<&'static Endpoint> {
    ENDPOINTS.get(address)
}

/// Whose an interface is.
#[inline(always)]
pub fn link(ifindex: u32) -> Option<&'static Link> {
    LINKS.get(&ifindex)
}
