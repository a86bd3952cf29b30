//! Hooks of the node's own sockets: who connects or sends to a published port at an address of the node itself is led to the
//! pod, and hears from whom it asked. Such packets never were on an interface where another program could translate them.
//!
//! Only for sockets of the node's namespace, whichever processes have them. A hook refuses nothing, and changes nothing where
//! no port is published.

use aya_ebpf::programs::SockAddrContext;
use netpath_common::abi::{Addr, Asked, Published, SocketKey};

use crate::{
    bpf::{globals, sock_addr::SockAddr},
    stages::{asked, publish, route},
};

/// The kernel goes on, with the address as it is now.
const ALLOW: i32 = 1;

/// A socket connects.
#[inline(always)]
pub fn connect<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let socket = SockAddr::<V6>::new(ctx);
    ask(&socket, false)
}

/// A socket sends a datagram to an address that it names. One of IPv6 that is connected over IPv4 comes by here as well, with
/// the pod that its connection was led to (udpv6_sendmsg in net/ipv6/udp.c).
#[inline(always)]
pub fn send<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let socket = SockAddr::<V6>::new(ctx);
    ask(&socket, socket.is_connected())
}

/// A socket is told whom a datagram is from, or whom it is connected to.
#[inline(always)]
pub fn tell<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let socket = SockAddr::<V6>::new(ctx);
    if is_of_node(&socket)
        && let Some(asked) = asked::find(&key(&socket, socket.addr(), socket.port()))
    {
        socket.set(&asked.addr, asked.port);
    }
    ALLOW
}

#[inline(always)]
fn is_of_node<const V6: bool>(socket: &SockAddr<V6>) -> bool {
    socket.netns_cookie() == globals::node_cookie()
}

#[inline(always)]
fn ask<const V6: bool>(socket: &SockAddr<V6>, connected: bool) -> i32 {
    if is_of_node(socket) && route::publishes() {
        lead(socket, connected);
    }
    ALLOW
}

#[inline(always)]
fn lead<const V6: bool>(socket: &SockAddr<V6>, connected: bool) {
    // To Linux "any address" as a destination is the loopback; and what a socket would be told to have asked.
    let (addr, port) = (socket.addr().or_loopback(), socket.port());
    match target(socket, &addr, port) {
        Some(pod) => {
            asked::note(&key(socket, pod.addr, pod.port), &Asked { addr, port, pad: 0 });
            socket.set(&pod.addr, pod.port);
        }
        // Perhaps the pod by its own address, and by a socket that had asked the node for it.
        None if !connected => asked::forget(&key(socket, addr, port)),
        None => {}
    }
}

/// Where a port of the node leads. Nowhere for a socket that is bound to a loopback address: what carries that comes to no pod.
#[inline(always)]
fn target<const V6: bool>(socket: &SockAddr<V6>, addr: &Addr, port: u16) -> Option<&'static Published> {
    let published = publish::find(addr, port, socket.proto())?;
    let own = addr.is_loopback() || route::whose(addr) == route::Whose::Node;
    (own && !socket.source().is_loopback()).then_some(published)
}

#[inline(always)]
fn key<const V6: bool>(socket: &SockAddr<V6>, addr: Addr, port: u16) -> SocketKey {
    SocketKey { cookie: socket.cookie(), addr, port, proto: socket.proto(), pad: [0; 5] }
}
