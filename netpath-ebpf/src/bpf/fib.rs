//! The kernel's routing decision.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as Params,
    },
    helpers::generated as raw,
};
use netpath_common::abi::Addr;

use super::{globals, helper::NextHop};
use crate::packet::{Headers, tc::Packet};

/// What the FIB says of a packet.
pub struct Route {
    /// Egress interface.
    pub ifindex: u32,
    /// Neighbour to send to.
    pub next_hop: NextHop,
    /// Address the route gives to the node's own packets, if the kernel tells it (6.7).
    pub source: Option<Addr>,
}

const AF_INET: u8 = 2;

/// Asks the FIB about an IPv4 packet that came in by `packet`'s interface, rules and multipath included. `None` for
/// whatever the host stack has to answer or refuse itself: no route, unreachable, too big for the route.
#[inline(always)]
pub fn lookup(packet: &Packet, headers: &Headers) -> Option<Route> {
    // SAFETY: plain numbers; the kernel reads and writes all 64 bytes.
    let mut params: Params = unsafe { core::mem::zeroed() };
    params.family = AF_INET;
    params.l4_protocol = headers.key.proto;
    params.sport = headers.key.sport;
    params.dport = headers.key.dport;
    params.ifindex = packet.ifindex();
    params.__bindgen_anon_1.tot_len = headers.segment_length(packet);
    params.__bindgen_anon_2.tos = headers.tos;
    params.__bindgen_anon_3.ipv4_src = headers.key.src.v4_be();
    params.__bindgen_anon_4.ipv4_dst = headers.key.dst.v4_be();
    let flags = globals::fib_flags();
    // SAFETY: `params` lives through the call and its size is given.
    let answer =
        unsafe { raw::bpf_fib_lookup(packet.ctx(), &mut params, size_of::<Params>() as i32, flags) } as u32;
    // Without SKIP_NEIGH (before 6.3) an unresolved neighbour is no failure: redirect_neigh resolves it.
    if answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH {
        return None;
    }
    // SAFETY: the kernel filled the union's member for `family`, and with SRC the source.
    unsafe {
        let next_hop = if params.family == AF_INET {
            NextHop::V4(params.__bindgen_anon_4.ipv4_dst)
        } else {
            // An IPv4 route through an IPv6 gateway (RFC 5549).
            NextHop::V6(params.__bindgen_anon_4.ipv6_dst)
        };
        let source =
            (flags & BPF_FIB_LOOKUP_SRC != 0).then(|| Addr::from_v4_be(params.__bindgen_anon_3.ipv4_src));
        Some(Route { ifindex: params.ifindex, next_hop, source })
    }
}
