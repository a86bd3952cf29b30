//! XDP of an uplink: what is denied ends here, before the kernel has made a socket buffer of it. Attached while something
//! is denied.

use netpath_common::abi::DropReason;

use crate::{
    packet::{Headers, parse, xdp::Packet},
    stages::deny,
    verdict::{Outcome, Verdict},
};

/// Whatever is damaged, tagged or not IP goes on: `from_uplink` and the node's stack judge it. A tag that the card has taken
/// off is not seen here.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    let Ok(frame) = parse::ethernet(packet) else { return Ok(Verdict::NEXT) };
    if !frame.is_ip() || !parse::ends(packet, headers, &frame) {
        return Ok(Verdict::NEXT);
    }
    if deny::is_denied(packet, &headers.key.src) { Err(DropReason::Denied) } else { Ok(Verdict::NEXT) }
}
