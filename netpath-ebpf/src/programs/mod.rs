//! The programs: each file is the ordered list of a program's stages and reads top to bottom.

pub mod from_overlay;
pub mod from_pod;
pub mod from_uplink;
pub mod host_sock;
mod leave;
mod protected;
mod published;
pub mod to_overlay;
pub mod to_pod;
pub mod to_uplink;
pub mod xdp_pod;
pub mod xdp_uplink;

use aya_ebpf::{
    macros::map,
    programs::{TcContext, XdpContext},
};
use netpath_common::abi::DropReason;
pub use netpath_common::abi::Program;

use crate::{
    bpf::{globals, map::PerCpu, trace},
    packet::{AnyPacket, Headers, Transport, tc::Packet, xdp},
    stages::{event, fragment, metric},
    verdict::{Outcome, SHOT, Verdict, XDP_DROP},
};

/// Headers of the packet at hand, and of the one that an ICMP error embeds. In a table and not on the stack: the stack is
/// short; and the verifier, which follows every value on the stack but none in a table, goes once through what comes after
/// parsing instead of once for every shape of a packet (12,000 instead of 500,000 instructions).
#[map]
static HEADERS: PerCpu<Headers> = PerCpu::new(2);
const OUTER: u32 = 0;
const EMBEDDED: u32 = 1;

/// Room for the headers that an ICMP error embeds.
#[inline(always)]
fn embedded_headers() -> Result<&'static mut Headers, DropReason> {
    let headers = HEADERS.get_mut(EMBEDDED).ok_or(DropReason::NotReady)?;
    *headers = Headers::NONE;
    Ok(headers)
}

/// Why a packet for a pod's own address that nobody asked for is refused. Of a later part whose first one is not known yet
/// nobody can say whether it was asked for: that is noted, so that its datagram's loss is told for what it is.
#[inline(always)]
fn not_let_in(headers: &Headers) -> DropReason {
    if headers.transport != Transport::Unknown {
        return DropReason::InboundDenied;
    }
    fragment::note_early(headers);
    DropReason::FragmentOutOfOrder
}

/// Runs a tc program and turns its outcome into what the kernel wants to hear.
#[inline(always)]
pub fn run(ctx: &TcContext, program: Program, body: fn(&Packet, &mut Headers) -> Outcome) -> i32 {
    let packet = Packet::new(ctx);
    let twice = globals::two_kinds(program as u32);
    if twice && packet.take_judged(program as u32) {
        return Verdict::NEXT.code();
    }
    // The verifier wants the question; the table has this record.
    let Some(headers) = HEADERS.get_mut(OUTER) else { return SHOT };
    *headers = Headers::NONE;
    let outcome = body(&packet, headers);
    match told(&packet, headers, program, outcome) {
        Ok(verdict) => {
            let code = verdict.code();
            if twice && code == Verdict::NEXT.code() {
                packet.set_judged(program as u32);
            }
            code
        }
        Err(_reason) => {
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(ctx, "{} dropped a packet: {}", program.name(), _reason.name());
            SHOT
        }
    }
}

/// The same for an XDP program.
#[inline(always)]
pub fn run_xdp(ctx: &XdpContext, program: Program, body: fn(&xdp::Packet, &mut Headers) -> Outcome) -> u32 {
    let packet = xdp::Packet::new(ctx);
    let Some(headers) = HEADERS.get_mut(OUTER) else { return XDP_DROP };
    *headers = Headers::NONE;
    let outcome = body(&packet, headers);
    told(&packet, headers, program, outcome).map_or(XDP_DROP, Verdict::xdp_code)
}

/// Counts a packet by its outcome. The one place where drops are counted and told (invariant 7).
#[inline(always)]
fn told(packet: &impl AnyPacket, headers: &Headers, program: Program, outcome: Outcome) -> Outcome {
    match outcome {
        Ok(verdict) => {
            trace::ended(headers, verdict.row());
            metric::traffic(packet, verdict.row());
        }
        Err(reason) => {
            trace::ended(headers, reason as u32);
            metric::dropped(packet, reason);
            event::dropped(packet, headers, program, reason);
        }
    }
    outcome
}
