//! Kernel helpers that take no packet.

use core::ffi::c_void;

use aya_ebpf::{bindings::bpf_redir_neigh, helpers::generated as raw};
use netpath_common::abi::Addr;

/// CLOCK_MONOTONIC at the last timer tick, ns: a memory read, where the precise clock costs 20 ns a packet.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, always valid.
    unsafe { raw::bpf_ktime_get_coarse_ns() }
}

/// A random word.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments, always valid.
    unsafe { raw::bpf_get_prandom_u32() }
}

/// Number of this CPU.
#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: no arguments, always valid.
    unsafe { raw::bpf_get_smp_processor_id() }
}

/// Where the kernel should send a packet next.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NextHop {
    /// 0 for an IPv4 neighbour, else IPv6. A number: the kernel refuses the BTF that rustc writes for enums with data.
    pub v6: u32,
    /// The neighbour, network order; IPv4 in the first word.
    pub address: [u32; 4],
}

impl NextHop {
    /// The neighbour.
    #[inline(always)]
    pub fn addr(&self) -> Addr {
        if self.v6 == 0 { Addr::from_v4_be(self.address[0]) } else { Addr(self.address) }
    }
}

/// Sends the packet straight into the namespace at the other end of the veth pair: neither the host stack nor the
/// second backlog sees it. From tc ingress only.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: only numbers.
    unsafe { raw::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends the frame out of an interface, as it is; from tc by that interface's queue, from XDP past it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: only numbers.
    unsafe { raw::bpf_redirect(ifindex, 0) as i32 }
}

/// Sends the packet out of an interface with the MAC addresses the neighbour table knows. Given the next hop, the
/// kernel does not look up the route again.
#[inline(always)]
pub fn redirect_neigh(ifindex: u32, next_hop: NextHop) -> i32 {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    // SAFETY: plain numbers.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    // IPv4's word is the first of the union's four.
    params.nh_family = if next_hop.v6 == 0 { AF_INET } else { AF_INET6 };
    params.__bindgen_anon_1.ipv6_nh = next_hop.address;
    // SAFETY: `params` lives through the call and its size is given.
    unsafe { raw::bpf_redirect_neigh(ifindex, &mut params, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// A loop body, for [`repeat`].
pub trait Step {
    /// One round; `true` ends the loop.
    fn step(&mut self, round: u32) -> bool;
}

/// Runs `state.step(0..times)` until it says to end. The verifier looks at the body once instead of once a round
/// (`bpf_loop`, 5.17, e6f2dd0f8067): a plain loop of 128 rounds took its million instructions.
#[inline(always)]
pub fn repeat<T: Step>(times: u32, state: &mut T) {
    let body: unsafe extern "C" fn(u64, *mut T) -> i64 = round::<T>;
    // SAFETY: the kernel calls `round` with `state`, which lives through the call.
    unsafe { raw::bpf_loop(times, body as *mut c_void, core::ptr::from_mut(state).cast(), 0) };
}

/// What the kernel calls.
unsafe extern "C" fn round<T: Step>(round: u64, state: *mut T) -> i64 {
    // SAFETY: `repeat` hands over an exclusive reference.
    i64::from(unsafe { &mut *state }.step(round as u32))
}
