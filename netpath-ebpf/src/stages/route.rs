//! Where a packet goes: netpath's routes say which kind of way, the kernel's FIB says the next hop.

use aya_ebpf::macros::map;
use netpath_common::{
    abi::{
        Addr, DropReason, ENDPOINT_MASQUERADE, ENDPOINT_PUBLISHES, Endpoint, MAX_ROUTES, MAX_UPLINKS,
        NODE_FLAG_CLUSTER, NODE_FLAG_FIREWALL, NODE_FLAG_POOL, NODE_FLAG_PUBLISHES, NODE_ROUTES, Node, Pool,
        ROUTE_MASQUERADE, ROUTE_PEER, ROUTE_TUNNEL, Route, RouteKey, RouteKind, Uplink,
    },
    logic::source_choice::Sources,
};

use crate::{
    bpf::{
        fib,
        map::{Lpm, PerCpu, Single},
        trace, tunnel,
    },
    packet::{AnyPacket, Headers, UDP, tc::Packet},
};

#[map]
static ROUTES: Lpm<RouteKey, Route> = Lpm::new(MAX_ROUTES);

#[map]
static NODE: Single<Node> = Single::new();

/// Per CPU: what the flow at hand may be translated to.
#[map]
static SOURCES: PerCpu<Sources> = PerCpu::new(1);

/// A way by netpath's routes.
#[derive(Clone, Copy)]
pub struct Way {
    /// A [`RouteKind`].
    pub kind: u8,
    /// The source becomes the node's address.
    pub masquerade: bool,
    /// To another node's pods, and no flow of the pod concerns it: as between pods of one node.
    pub plain: bool,
    /// The tunnel, if it goes by one.
    pub tunnel: Option<&'static Route>,
}

/// The longest prefix of the pod's network that holds the destination. What no prefix holds belongs to the stack.
#[inline(always)]
pub fn lookup(pod: &Endpoint, destination: &Addr) -> Way {
    let way = match ROUTES.get(RouteKey { network: pod.network, addr: *destination }) {
        Some(route) => Way {
            kind: route.kind,
            masquerade: route.flags & ROUTE_MASQUERADE != 0 && pod.flags & ENDPOINT_MASQUERADE != 0,
            plain: route.flags & ROUTE_PEER != 0 && pod.flags & ENDPOINT_PUBLISHES == 0,
            tunnel: (route.kind == RouteKind::Tunnel as u8).then_some(route),
        },
        None => Way { kind: RouteKind::Stack as u8, masquerade: false, plain: false, tunnel: None },
    };
    trace::route(way.kind, way.masquerade);
    way
}

/// Whose an address is that no pod has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The node's, on whatever interface.
    Node,
    /// Of a block of this node, or of the cluster's pools and of no block that is known.
    Block,
    /// Somebody else's.
    Others,
}

/// Whose an address is that no pod has.
#[inline(always)]
pub fn whose(address: &Addr) -> Whose {
    match of_node(address) {
        None => Whose::Others,
        Some(route) if route.flags & ROUTE_PEER != 0 => Whose::Others,
        Some(route) if route.kind == RouteKind::Fib as u8 => Whose::Node,
        Some(_) => Whose::Block,
    }
}

/// Whether an address is a node's own, this one's or another's.
#[inline(always)]
pub fn is_of_a_node(address: &Addr) -> bool {
    let is_own = |route: &Route| match route.flags & ROUTE_PEER {
        0 => route.kind == RouteKind::Fib as u8,
        _ => route.kind == RouteKind::Stack as u8,
    };
    of_node(address).is_some_and(is_own)
}

/// Who sends what an uplink brings, by its source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Nobody of the cluster.
    Outside,
    /// Another node of the cluster.
    Node,
    /// A pod of another node.
    Pod,
}

/// Who sends what came in by an interface. Refuses what says it comes from a pod of the cluster, and no route leads to
/// that pod by this uplink (RFC 3704, 2.2).
#[inline(always)]
pub fn sender(headers: &Headers, ifindex: u32) -> Result<Sender, DropReason> {
    match judge(headers, ifindex) {
        FORGED => Err(DropReason::SpoofedSource),
        POD => Ok(Sender::Pod),
        PEER => Ok(Sender::Node),
        _ => Ok(Sender::Outside),
    }
}

/// Answers of `judge`.
const OUTSIDE: u32 = 0;
const PEER: u32 = 1;
const POD: u32 = 2;
const FORGED: u32 = 3;

/// Not inlined: a key for the table would stand on the caller's stack.
#[inline(never)]
fn judge(headers: &Headers, ifindex: u32) -> u32 {
    let Some(node) = NODE.get().filter(|node| node.flags & NODE_FLAG_CLUSTER != 0) else { return OUTSIDE };
    let Some(route) = of_node(&headers.key.src) else { return OUTSIDE };
    let peer = route.flags & ROUTE_PEER != 0;
    let here = || {
        let place = node.uplinks.iter().position(|uplink| uplink.ifindex == ifindex);
        // What tunnels bring has been judged.
        ifindex == node.tunnel || place.is_some_and(|place| route.uplinks & 1 << place != 0)
    };
    match (peer, route.kind == RouteKind::Stack as u8) {
        (true, false) if here() => POD,
        (true, true) if here() => PEER,
        // The node's own address, or another node's by another way: as without a cluster.
        (false, false) | (true, true) => OUTSIDE,
        _ => FORGED,
    }
}

/// The longest prefix of the node's own routes that holds an address.
#[inline(always)]
fn of_node(address: &Addr) -> Option<&'static Route> {
    ROUTES.get(RouteKey { network: NODE_ROUTES, addr: *address })
}

/// Who sends what a tunnel brought: a node of the cluster, and of it only what is its own. By which way this node sends to it does
/// not matter: that may just be changing.
#[inline(always)]
pub fn tunnelled(headers: &Headers, key: &tunnel::Key) -> Result<Sender, DropReason> {
    let stack = RouteKind::Stack as u8;
    let peer = |route: &&Route| route.flags & ROUTE_PEER != 0 && route.vni == key.vni && key.vni != 0;
    let source = of_node(&headers.key.src).filter(peer);
    // Nearly always; if not, it may still be another address of that node.
    if source.is_none_or(|source| source.node != key.node) {
        let node = of_node(&key.node).filter(|route| peer(route) && route.kind == stack);
        let node = node.ok_or(DropReason::ForeignTunnel)?;
        if source.is_none_or(|source| source.node != node.node) {
            return Err(DropReason::SpoofedSource);
        }
    }
    match source {
        Some(source) if source.kind == stack => Ok(Sender::Node),
        _ => Ok(Sender::Pod),
    }
}

/// The route to the pod or node of the cluster with an address, if it is reached by a tunnel.
#[inline(always)]
pub fn tunnel(address: &Addr) -> Option<&'static Route> {
    of_node(address).filter(|route| is_tunnelled(route))
}

#[inline(always)]
fn is_tunnelled(route: &Route) -> bool {
    route.kind == RouteKind::Tunnel as u8 || route.flags & ROUTE_TUNNEL != 0
}

/// The route to a node whose pods are reached by a tunnel, if that is who has the address. Not inlined, as `judge`.
#[inline(never)]
pub fn to_tunnelled_node(address: &Addr) -> Option<&'static Route> {
    NODE.get().filter(|node| node.tunnel != 0)?;
    of_node(address).filter(|route| route.flags & ROUTE_TUNNEL != 0)
}

/// The device of tunnels, and the largest IP packet of this one, bytes.
#[inline(always)]
pub fn tunnel_device(route: &Route) -> Option<(u32, u16)> {
    const OVER_V6: u16 = 20;
    let node = NODE.get().filter(|node| node.tunnel != 0)?;
    let less = if route.node.is_v4() { 0 } else { OVER_V6 };
    Some((node.tunnel, node.tunnel_mtu.wrapping_sub(less)))
}

/// Whether a packet is for the port of tunnels: in this node's name it would be taken for this node's. Wherever it goes: the kernel
/// takes tunnels on all addresses of a node, and others know only those of its uplinks.
#[inline(always)]
pub fn is_for_a_tunnel(headers: &Headers) -> bool {
    headers.key.proto == UDP && is_tunnel_port(headers)
}

/// Not inlined, as `judge`.
#[inline(never)]
fn is_tunnel_port(headers: &Headers) -> bool {
    let port = headers.key.dport;
    port != 0 && NODE.get().is_some_and(|node| node.tunnel_port == port)
}

/// Whether any port of the node is published.
#[inline(always)]
pub fn publishes() -> bool {
    NODE.get().is_some_and(|node| node.flags & NODE_FLAG_PUBLISHES != 0)
}

/// Whether the node's netfilter is asked who may begin something by a published port.
#[inline(always)]
pub fn asks_firewall() -> bool {
    NODE.get().is_some_and(|node| node.flags & NODE_FLAG_FIREWALL != 0)
}

/// Refuses destinations that no unicast route is for.
#[inline(always)]
pub fn refuse_unroutable(headers: &Headers) -> Result<(), DropReason> {
    let destination = &headers.key.dst;
    if headers.v6 {
        return refuse_unroutable_v6(destination);
    }
    match u32::from_be(destination.v4_be()) >> 24 {
        0 | 127 => Err(DropReason::MartianDestination),
        224..=239 => Err(DropReason::Multicast),
        // 240/4 is reserved (RFC 1112), but for the limited broadcast.
        240..=255 if destination.v4_be() == u32::MAX => Err(DropReason::Multicast),
        240..=255 => Err(DropReason::MartianDestination),
        _ => Ok(()),
    }
}

#[inline(always)]
fn refuse_unroutable_v6(destination: &Addr) -> Result<(), DropReason> {
    let [first, second, third, last] = destination.0.map(u32::from_be);
    if destination.is_multicast_v6() {
        return Err(DropReason::Multicast);
    }
    // `::` and `::1`; and a link-local address is on no other link.
    let loops = first | second | third == 0 && last <= 1;
    if loops || destination.is_link_local_v6() { Err(DropReason::MartianDestination) } else { Ok(()) }
}

/// The kernel's next hop, or `None` if the stack has something to say first: no hops left, too big for the route, no
/// route. Asked for every packet, so that several uplinks, rules and multipath hold for live flows as well.
#[inline(always)]
pub fn next_hop(packet: &Packet, headers: &Headers) -> Option<fib::Route> {
    let mut route = fib::Route::NONE;
    (headers.ttl > 1 && fib::lookup(packet, headers, packet.ifindex(), &mut route)).then_some(route)
}

/// Whether the kernel would deliver a packet to the node itself.
#[inline(always)]
pub fn is_delivered_here(packet: &Packet, headers: &Headers) -> bool {
    fib::is_local(packet, headers, packet.ifindex())
}

/// The uplink with this index, which the packet leaves by.
#[inline(always)]
pub fn uplink(headers: &mut Headers, ifindex: u32) -> Option<&'static Uplink> {
    const { assert!(MAX_UPLINKS.is_power_of_two()) };
    let uplinks = &NODE.get()?.uplinks;
    headers.uplink = uplinks.iter().position(|uplink| uplink.ifindex == ifindex)? as u32;
    // By way of a table, where the verifier follows no value: it would go through all that follows once for each uplink.
    let place = *core::hint::black_box(&headers.uplink) as usize;
    uplinks.get(place & (MAX_UPLINKS - 1))
}

/// Whether an interface has come since the agent looked last. Indexes count up.
#[inline(always)]
pub fn is_new(ifindex: u32) -> bool {
    NODE.get().is_none_or(|node| ifindex > node.newest_link)
}

/// Whether an uplink's flows may carry this address.
#[inline(always)]
pub fn is_source_of(uplink: &Uplink, headers: &Headers) -> bool {
    // What is not used of a pool is unspecified, and so is the source of a packet that looks for an address.
    headers.key.src != Addr::UNSPECIFIED && pool_of(uplink, headers).addresses.contains(&headers.key.src)
}

#[inline(always)]
fn pool_of<'a>(uplink: &'a Uplink, headers: &Headers) -> &'a Pool {
    if headers.v6 { &uplink.v6 } else { &uplink.v4 }
}

/// What flows that leave by an uplink are translated to: its pool if one is configured, else the route's source address
/// (`routed`, unspecified if it is not known), else the uplink's own.
#[inline(always)]
pub fn sources(
    uplink: &'static Uplink,
    headers: &Headers,
    routed: &Addr,
) -> Result<&'static Sources, DropReason> {
    filled(fill_sources(uplink, headers, routed))
}

/// The same for a packet that the stack has forwarded, about to leave by the uplink: the kernel is asked for the route's
/// source address.
#[inline(always)]
pub fn sources_of_forwarded(
    packet: &Packet,
    headers: &Headers,
    uplink: &'static Uplink,
) -> Result<&'static Sources, DropReason> {
    filled(fill_sources_of_forwarded(packet, headers, uplink))
}

/// Not inlined: the answer's room would stand on the caller's stack beneath making the binding. Asked last: the verifier
/// would go through what follows once for every answer.
#[inline(never)]
fn fill_sources_of_forwarded(packet: &Packet, headers: &Headers, uplink: &Uplink) -> bool {
    let filled = fill_sources(uplink, headers, &Addr::UNSPECIFIED);
    let mut route = fib::Route::NONE;
    // By another interface only if the stack goes by what the FIB is not asked, such as a mark: then it tells nothing.
    if fib::lookup(packet, headers, packet.ingress_ifindex(), &mut route) && route.ifindex == uplink.ifindex {
        prefer(&route.source);
    }
    filled
}

#[inline(always)]
fn filled(done: bool) -> Result<&'static Sources, DropReason> {
    if !done {
        return Err(DropReason::NotReady);
    }
    match SOURCES.get_mut(0) {
        Some(sources) if sources.pool.count != 0 => Ok(sources),
        _ => Err(DropReason::NoSourceAddress),
    }
}

/// The same for a packet of the node itself: its own address, whatever pods use.
#[inline(always)]
pub fn own_source(address: &Addr) -> Result<&'static Sources, DropReason> {
    let node = NODE.get().filter(|node| node.snat_count != 0).ok_or(DropReason::NotReady)?;
    let sources = SOURCES.get_mut(0).ok_or(DropReason::NotReady)?;
    sources.pool.addresses[0] = *address;
    sources.pool.count = 1;
    (sources.first, sources.count) = (node.snat_first, node.snat_count);
    Ok(sources)
}

/// Not inlined: a pool is copied by way of the stack, and the caller has none to spare.
#[inline(never)]
fn fill_sources(uplink: &Uplink, headers: &Headers, routed: &Addr) -> bool {
    let (Some(node), Some(sources)) = (NODE.get(), SOURCES.get_mut(0)) else { return false };
    sources.pool = *pool_of(uplink, headers);
    (sources.first, sources.count) = (node.snat_first, node.snat_count);
    if node.flags & NODE_FLAG_POOL == 0 {
        // Without a pool there is one address, whatever else the uplink has.
        sources.pool.count = if sources.pool.count == 0 { 0 } else { 1 };
    }
    prefer(routed);
    node.snat_count != 0
}

/// Without a pool, the route's source is the one address, if it is known.
#[inline(always)]
fn prefer(routed: &Addr) {
    let (Some(node), Some(sources)) = (NODE.get(), SOURCES.get_mut(0)) else { return };
    if node.flags & NODE_FLAG_POOL == 0 && *routed != Addr::UNSPECIFIED && !routed.is_link_local_v6() {
        sources.pool.addresses[0] = *routed;
        sources.pool.count = 1;
    }
}

/// Whether a binding may have a port (network order): of the SNAT range, or of one before it.
#[inline(always)]
pub fn is_snat_port(port: u16) -> bool {
    let port = u16::from_be(port);
    NODE.get().is_some_and(|node| {
        port.wrapping_sub(node.snat_first) < node.snat_count
            || port.wrapping_sub(node.retired_first) < node.retired_count
    })
}
