//! netpath's eBPF programs: the entries, nothing else.
//!
//! Where a packet goes: `programs/` holds one file a program, the ordered list of its stages; `stages/` what each stage
//! does; `packet/` reading and changing packets; `bpf/` tables and kernel helpers; `verdict` what the kernel is told.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a program has no users of its items; aya's macro repeats each entry undocumented"
)]
#![allow(clippy::needless_pass_by_value, reason = "aya's macro calls an entry with its context by value")]
#![allow(internal_features, reason = "core::sync::atomic has no read-modify-write on the BPF target")]

mod bpf;
mod packet;
mod programs;
mod stages;
mod verdict;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use programs::Program;

/// tc ingress of a pod's host interface: everything the pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::FromPod, programs::from_pod::run)
}

/// tc egress of a pod's host interface: what the host stack sends to the pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::ToPod, programs::to_pod::run)
}

/// tc ingress of an uplink: what the wire brings.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::FromUplink, programs::from_uplink::run)
}

/// tc egress of an uplink: the last look at what leaves.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::ToUplink, programs::to_uplink::run)
}

/// tc ingress of the tunnels' device: what other nodes send.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::FromOverlay, programs::from_overlay::run)
}

/// tc egress of the tunnels' device: what goes to other nodes.
#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    programs::run(&ctx, Program::ToOverlay, programs::to_overlay::run)
}

/// XDP of a pod's host interface: the short way to another pod.
#[xdp(frags)]
pub fn xdp_pod(ctx: XdpContext) -> u32 {
    programs::run_xdp(&ctx, Program::XdpPod, programs::xdp_pod::run)
}

/// XDP of an uplink: what is denied ends here.
#[xdp(frags)]
pub fn xdp_uplink(ctx: XdpContext) -> u32 {
    programs::run_xdp(&ctx, Program::XdpUplink, programs::xdp_uplink::run)
}

/// connect(2) of the node's own sockets, IPv4.
#[cgroup_sock_addr(connect4)]
pub fn host_connect4(ctx: SockAddrContext) -> i32 {
    programs::host_sock::connect::<false>(&ctx)
}

/// connect(2) of the node's own sockets, IPv6.
#[cgroup_sock_addr(connect6)]
pub fn host_connect6(ctx: SockAddrContext) -> i32 {
    programs::host_sock::connect::<true>(&ctx)
}

/// sendto(2), sendmsg(2) of the node's own UDP sockets, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn host_sendmsg4(ctx: SockAddrContext) -> i32 {
    programs::host_sock::send::<false>(&ctx)
}

/// sendto(2), sendmsg(2) of the node's own UDP sockets, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn host_sendmsg6(ctx: SockAddrContext) -> i32 {
    programs::host_sock::send::<true>(&ctx)
}

/// recvfrom(2), recvmsg(2) of the node's own UDP sockets, IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub fn host_recvmsg4(ctx: SockAddrContext) -> i32 {
    programs::host_sock::tell::<false>(&ctx)
}

/// recvfrom(2), recvmsg(2) of the node's own UDP sockets, IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn host_recvmsg6(ctx: SockAddrContext) -> i32 {
    programs::host_sock::tell::<true>(&ctx)
}

/// getpeername(2) of the node's own sockets, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn host_peername4(ctx: SockAddrContext) -> i32 {
    programs::host_sock::tell::<false>(&ctx)
}

/// getpeername(2) of the node's own sockets, IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn host_peername6(ctx: SockAddrContext) -> i32 {
    programs::host_sock::tell::<true>(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves this is never reached: a loop that can be is refused at load.
    loop {}
}
