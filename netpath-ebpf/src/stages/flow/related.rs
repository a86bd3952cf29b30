//! ICMP errors belong to the flow of the packet they embed, in both directions.

use netpath_common::abi::{Addr, Rewrite};

use super::{FLOWS, is_original, translation};
use crate::packet::{Headers, embedded, is_icmp, rewrite::Translation, tc::Packet};

/// What an error is about.
#[derive(Clone, Copy)]
pub struct About {
    /// The flow's pod; 0 for a flow of the node itself.
    pub pod: u32,
    /// Whether those are packets of the original direction.
    pub original: bool,
    /// The flow's flags.
    pub flags: u8,
    /// How the flow's packets that go the error's way are translated, if they are.
    pub translation: Option<Translation>,
}

/// The flow that an error is about; what it embeds is read into `inner`. `None` if no flow is known, or if the error does
/// not go to whoever sent the embedded packet. Reads only: an error neither makes a flow nor keeps one alive.
#[inline(always)]
pub fn related(packet: &Packet, headers: &Headers, inner: &mut Headers) -> Option<About> {
    if !embedded::read(packet, headers, inner) || inner.key.src != headers.key.dst {
        return None;
    }
    // The half whose packets go the error's way.
    let flow = FLOWS.get(&inner.key.partner(Rewrite::None as u8, Addr::UNSPECIFIED, 0))?;
    if is_icmp(inner.key.proto) && is_original(flow) == inner.is_echo_request() {
        return None;
    }
    Some(About {
        pod: flow.pod,
        original: is_original(flow),
        flags: flow.flags,
        translation: translation(flow),
    })
}
