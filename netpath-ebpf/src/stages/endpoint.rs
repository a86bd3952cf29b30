//! Local pods by address.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, Endpoint};

use crate::bpf::map::Hash;

#[map]
static ENDPOINTS: Hash<Addr, Endpoint> = Hash::new(8192);

/// The local pod with this address.
#[inline(always)]
pub fn find(address: &Addr) -> Option<&'static Endpoint> {
    ENDPOINTS.get(address)
}
