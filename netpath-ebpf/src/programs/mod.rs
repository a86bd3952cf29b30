//! The programs: each file is the ordered list of a program's stages and reads top to bottom.

pub mod from_pod;
pub mod from_uplink;
pub mod to_pod;
pub mod to_uplink;

use aya_ebpf::programs::TcContext;
pub use netpath_common::abi::Program;
use netpath_common::abi::{Addr, DropReason};

use crate::{
    packet::{Headers, rewrite::Translation, tc::Packet},
    stages::{
        event,
        flow::{self, Pool},
        metric, nat, route,
    },
    verdict::{Outcome, SHOT},
};

/// Runs a program and turns its outcome into what the kernel wants to hear. The one place where drops are counted and
/// told (invariant 7).
#[inline(always)]
pub fn run(ctx: &TcContext, program: Program, body: fn(&Packet, &mut Headers) -> Outcome) -> i32 {
    let packet = Packet::new(ctx);
    let mut headers = Headers::NONE;
    match body(&packet, &mut headers) {
        Ok(verdict) => {
            metric::traffic(&packet, verdict.row());
            verdict.code()
        }
        Err(reason) => {
            metric::dropped(&packet, reason);
            event::dropped(&packet, &headers, program, reason);
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(ctx, "{} dropped a packet: {}", program.name(), reason.name());
            SHOT
        }
    }
}

/// Makes the binding of a new flow that leaves with the address `source`, and tells of it.
#[inline(always)]
fn bind(
    packet: &Packet,
    headers: &Headers,
    pod: u32,
    source: Option<Addr>,
    program: Program,
) -> Result<Translation, DropReason> {
    nat::translatable(headers)?;
    let addr = source.filter(|addr| *addr != Addr::UNSPECIFIED).ok_or(DropReason::NoSourceAddress)?;
    let (first, count) = route::snat_range().ok_or(DropReason::NotReady)?;
    let translation = flow::bind(packet, headers, pod, &Pool { addr, first, count })?;
    event::flow(packet, headers, program, &translation.addr, translation.port);
    Ok(translation)
}
