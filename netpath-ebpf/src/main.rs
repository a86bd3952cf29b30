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
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves this is never reached: a loop that can be is refused at load.
    loop {}
}
