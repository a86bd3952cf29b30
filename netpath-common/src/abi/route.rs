//! ROUTES: LPM trie, prefix over [`RouteKey`] → [`Route`]. An IPv4 prefix of length n is stored as 32 + 96 + n.

use super::Addr;

/// The network whose routes are the node's own: its addresses ([`RouteKind::Fib`]), every block and the cluster's pools
/// ([`RouteKind::Stack`]), to tell what belongs to the node; and what belongs to other nodes ([`ROUTE_PEER`]).
pub const NODE_ROUTES: u32 = 0;

/// Entries that ROUTES has room for.
pub const MAX_ROUTES: u32 = 65_536;

/// What ROUTES is asked with: each network has routes of its own.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteKey {
    /// [`Endpoint::network`](super::Endpoint::network), or [`NODE_ROUTES`]; always matched whole.
    pub network: u32,
    /// The address.
    pub addr: Addr,
}

super::record!(RouteKey, 20);

/// Flag of [`Route::flags`]: what leaves by this route carries the node's address instead of the pod's.
pub const ROUTE_MASQUERADE: u8 = 1;

/// Flag of [`Route::flags`]: another node's. In [`NODE_ROUTES`] its blocks ([`RouteKind::Fib`], [`RouteKind::Tunnel`]) and its own addresses
/// ([`RouteKind::Stack`]: its stack's), and what comes in by [`Route::uplinks`] with such a source is let in.
pub const ROUTE_PEER: u8 = 2;

/// Flag of [`Route::flags`], beside [`ROUTE_PEER`] for another node's own addresses: its pods are reached by a tunnel, and what
/// pods of this node say to it untranslated goes there as well.
pub const ROUTE_TUNNEL: u8 = 4;

/// What kind of path a prefix takes.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// To the node's own network stack: its addresses, and the block's own prefix (the stack knows it as unreachable).
    Stack = 0,
    /// The kernel's FIB decides the next hop.
    Fib = 1,
    /// Encapsulated to another node.
    Tunnel = 2,
    /// Dropped.
    Drop = 3,
    /// A subnet's broadcast address: dropped as multicast is.
    Broadcast = 4,
}

/// One prefix's path.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// A [`RouteKind`].
    pub kind: u8,
    /// [`ROUTE_MASQUERADE`], [`ROUTE_PEER`], [`ROUTE_TUNNEL`].
    pub flags: u8,
    /// With [`ROUTE_PEER`] in [`NODE_ROUTES`]: by which uplinks it comes in, a bit for each place in
    /// [`Node::uplinks`](super::Node::uplinks); else 0.
    pub uplinks: u16,
    /// With [`ROUTE_PEER`]: VNI of the tunnels between nodes, 0 if there are none.
    pub vni: u32,
    /// With it: the address that tunnels lead to that node by, the same in all of the node's routes.
    pub node: Addr,
}

super::record!(Route, 24);

impl Route {
    /// A route without tunnel.
    pub const fn new(kind: RouteKind, masquerade: bool) -> Self {
        let flags = if masquerade { ROUTE_MASQUERADE } else { 0 };
        Self { kind: kind as u8, flags, uplinks: 0, vni: 0, node: Addr::UNSPECIFIED }
    }
}
