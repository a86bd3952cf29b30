//! The kernel's routing decision.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SRC,
        bpf_fib_lookup as Params,
    },
    helpers::generated as raw,
};
use netpath_common::abi::Addr;

use super::{globals, helper::NextHop, trace};
use crate::packet::{Headers, tc::Packet};

/// What the FIB says of a packet.
#[derive(Clone, Copy)]
pub struct Route {
    /// Egress interface.
    pub ifindex: u32,
    /// Neighbour to send to.
    pub next_hop: NextHop,
    /// Address the route gives to the node's own packets; unspecified if the kernel does not tell it (before 6.7).
    pub source: Addr,
}

impl Route {
    /// No answer yet.
    pub const NONE: Self =
        Self { ifindex: 0, next_hop: NextHop { v6: 0, address: [0; 4] }, source: Addr::UNSPECIFIED };
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks the FIB about a packet that came in by the interface `from`, rules and multipath included. False for whatever the
/// host stack has to answer or refuse itself: no route, unreachable, too big for the route.
#[inline(always)]
pub fn lookup(packet: &Packet, headers: &Headers, from: u32, route: &mut Route) -> bool {
    ask(packet, headers, from, route) == BPF_FIB_LKUP_RET_SUCCESS
}

/// Whether the FIB has the node itself take a packet that came in by the interface `from`.
#[inline(always)]
pub fn is_local(packet: &Packet, headers: &Headers, from: u32) -> bool {
    let mut route = Route::NONE;
    ask(packet, headers, from, &mut route) == BPF_FIB_LKUP_RET_NOT_FWDED
}

/// The FIB's answer.
///
/// Not inlined: its parameters would stand on the caller's stack beneath all that comes after.
#[inline(never)]
fn ask(packet: &Packet, headers: &Headers, from: u32, route: &mut Route) -> u32 {
    // SAFETY: plain numbers; the kernel reads and writes all 64 bytes.
    let mut params: Params = unsafe { core::mem::zeroed() };
    params.l4_protocol = headers.key.proto;
    params.sport = headers.key.sport;
    params.dport = headers.key.dport;
    params.ifindex = from;
    let length = headers.segment_length(packet);
    params.__bindgen_anon_1.tot_len = if length < 0xffff { length as u16 } else { 0xffff };
    if headers.v6 {
        params.family = AF_INET6;
        params.__bindgen_anon_2.flowinfo = headers.class;
        params.__bindgen_anon_3.ipv6_src = headers.key.src.0;
        params.__bindgen_anon_4.ipv6_dst = headers.key.dst.0;
    } else {
        params.family = AF_INET;
        params.__bindgen_anon_2.tos = headers.class as u8;
        params.__bindgen_anon_3.ipv4_src = headers.key.src.v4_be();
        params.__bindgen_anon_4.ipv4_dst = headers.key.dst.v4_be();
    }
    let flags = globals::fib_flags();
    // SAFETY: `params` lives through the call and its size is given.
    let answer =
        unsafe { raw::bpf_fib_lookup(packet.ctx(), &mut params, size_of::<Params>() as i32, flags) } as u32;
    // SAFETY: a number, whichever of both it is: the length that was given, or the route's MTU.
    let mtu = u32::from(unsafe { params.__bindgen_anon_1.mtu_result });
    // Without SKIP_NEIGH (before 6.3) an unresolved neighbour is no failure: redirect_neigh resolves it.
    if answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH {
        trace::next_hop(answer, mtu, route);
        return answer;
    }
    // SAFETY: the kernel filled the unions' members for the families: an IPv4 route may lead through an IPv6 gateway
    // (RFC 5549), but its source is IPv4.
    unsafe {
        route.next_hop = if params.family == AF_INET {
            NextHop { v6: 0, address: [params.__bindgen_anon_4.ipv4_dst, 0, 0, 0] }
        } else {
            NextHop { v6: 1, address: params.__bindgen_anon_4.ipv6_dst }
        };
        if flags & BPF_FIB_LOOKUP_SRC != 0 {
            route.source = if headers.v6 {
                Addr(params.__bindgen_anon_3.ipv6_src)
            } else {
                Addr::from_v4_be(params.__bindgen_anon_3.ipv4_src)
            };
        }
    }
    route.ifindex = params.ifindex;
    trace::next_hop(answer, mtu, route);
    BPF_FIB_LKUP_RET_SUCCESS
}
