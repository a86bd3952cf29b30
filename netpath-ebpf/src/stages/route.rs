//! Where a packet goes: netpath's routes say which kind of way, the kernel's FIB says the next hop.

use aya_ebpf::macros::map;
use netpath_common::abi::{
    Addr, DropReason, NODE_FLAG_INBOUND_ANY, Node, ROUTE_MASQUERADE, Route, RouteKind,
};

use crate::{
    bpf::{
        fib,
        helper::NextHop,
        map::{Lpm, Single},
    },
    packet::{Headers, tc::Packet},
};

#[map]
static ROUTES: Lpm<Route> = Lpm::new(4096);

#[map]
static NODE: Single<Node> = Single::new();

/// A way by netpath's routes.
#[derive(Clone, Copy)]
pub struct Way {
    /// A [`RouteKind`].
    pub kind: u8,
    /// The source becomes the node's address.
    pub masquerade: bool,
}

/// A next hop.
#[derive(Clone, Copy)]
pub struct Hop {
    /// Egress interface.
    pub ifindex: u32,
    /// Neighbour to send to.
    pub next: NextHop,
    /// The interface is one of the node's uplinks.
    pub uplink: bool,
    /// Address to translate to.
    pub source: Option<Addr>,
}

/// The longest prefix that holds the address. What no prefix holds belongs to the stack.
#[inline(always)]
pub fn lookup(destination: &Addr) -> Way {
    match ROUTES.get(destination) {
        Some(route) => Way { kind: route.kind, masquerade: route.flags & ROUTE_MASQUERADE != 0 },
        None => Way { kind: RouteKind::Stack as u8, masquerade: false },
    }
}

/// Refuses destinations that no unicast route is for.
#[inline(always)]
pub fn refuse_unroutable(destination: &Addr) -> Result<(), DropReason> {
    match u32::from_be(destination.v4_be()) >> 24 {
        0 | 127 => Err(DropReason::MartianDestination),
        224..=239 => Err(DropReason::Multicast),
        // 240/4 is reserved (RFC 1112), but for the limited broadcast.
        240..=255 if destination.v4_be() == u32::MAX => Err(DropReason::Multicast),
        240..=255 => Err(DropReason::MartianDestination),
        _ => Ok(()),
    }
}

/// The kernel's next hop, or `None` if the stack has something to say first: no hops left, too big for the route, no
/// route. Asked for every packet, so that several uplinks, rules and multipath hold for live flows as well.
#[inline(always)]
pub fn next_hop(packet: &Packet, headers: &Headers) -> Option<Hop> {
    if headers.ttl <= 1 {
        return None;
    }
    let route = fib::lookup(packet, headers)?;
    let uplink = uplink(route.ifindex);
    Some(Hop {
        ifindex: route.ifindex,
        next: route.next_hop,
        uplink: uplink.is_some(),
        source: route.source.or(uplink),
    })
}

/// The address flows leaving by an interface are translated to; `None` if it is not an uplink.
#[inline(always)]
pub fn uplink(ifindex: u32) -> Option<Addr> {
    NODE.get()?.uplinks.iter().find(|uplink| uplink.ifindex == ifindex).map(|uplink| uplink.v4)
}

/// Whether anybody may open connections to a pod's own address.
#[inline(always)]
pub fn inbound_any() -> bool {
    NODE.get().is_some_and(|node| node.flags & NODE_FLAG_INBOUND_ANY != 0)
}

/// The SNAT range: first port (host order) and how many; `None` until the agent has written it.
#[inline(always)]
pub fn snat_range() -> Option<(u16, u16)> {
    NODE.get().filter(|node| node.snat_count != 0).map(|node| (node.snat_first, node.snat_count))
}
