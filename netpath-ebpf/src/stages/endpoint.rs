//! Local pods by address, and by the interface they are behind.

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{Addr, CACHE_SEATS, CACHE_SPARES, CachedEndpoint, Endpoint, Link},
    logic::seat,
};

use crate::bpf::{
    helper,
    map::{Hash, Shared},
};

#[map]
static ENDPOINTS: Hash<Addr, Endpoint> = Hash::new(32_768);

#[map]
static ENDPOINT_CACHE: Shared<CachedEndpoint> = Shared::new(CACHE_SEATS);

/// A seat that is not there.
const NOWHERE: u32 = u32::MAX;

#[map]
static LINKS: Hash<u32, Link> = Hash::new(8192);

/// The local pod with this address.
#[inline(always)]
pub fn find(address: &Addr) -> Option<&'static Endpoint> {
    let mut seat = ENDPOINT_CACHE.get(seat::of(address))?;
    if seat.others != 0 && seat.addr != *address {
        seat = ENDPOINT_CACHE.get(among_others(address))?;
    }
    // An empty seat has the address `::`, which a packet may have as well.
    (seat.addr == *address && seat.endpoint.pod != 0).then_some(&seat.endpoint)
}

/// Copies what ENDPOINTS says of an address to a spare seat of this CPU; returns which, or [`NOWHERE`]. A copy, since the verifier
/// goes through all that follows once for each table that an endpoint may be in: twice for the source, four times with the
/// destination. Not inlined: rare. Only in a trace may somebody come between (BPF_PROG_TEST_RUN leaves softirqs on in some
/// kernels); it would have to use all of the spare seats.
#[inline(never)]
fn among_others(address: &Addr) -> u32 {
    let first = CACHE_SEATS + helper::cpu() * CACHE_SPARES;
    let (Some(endpoint), Some(turn)) = (ENDPOINTS.get(address), ENDPOINT_CACHE.get_mut(first)) else {
        return NOWHERE;
    };
    // In turns: a packet's other endpoint may be in the one before.
    turn.turn = (turn.turn + 1) % CACHE_SPARES;
    let at = first + turn.turn;
    let Some(spare) = ENDPOINT_CACHE.get_mut(at) else { return NOWHERE };
    (spare.addr, spare.endpoint) = (*address, *endpoint);
    at
}

/// Whether a packet with a pod's source address, out of the stack, came in by that pod's link, any of them, or is the node's own work
/// (`ingress` is 0): whoever is on another interface cannot speak as the pod (RFC 3704, 2.2).
#[inline(always)]
pub fn is_from(ingress: u32, pod: &Endpoint) -> bool {
    ingress == 0 || ingress == pod.ifindex || is_link_of(ingress, pod.pod)
}

/// Not inlined: rare, and a key would stand on the caller's stack.
#[inline(never)]
fn is_link_of(ifindex: u32, pod: u32) -> bool {
    link(ifindex).is_some_and(|link| link.pod == pod)
}

/// Whose an interface is.
#[inline(always)]
pub fn link(ifindex: u32) -> Option<&'static Link> {
    LINKS.get(&ifindex)
}
