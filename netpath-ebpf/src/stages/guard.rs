//! A pod sends only from what is its own (invariant 4).

use netpath_common::abi::{DropReason, Endpoint};

use crate::packet::{
    parse::{self, Ethernet},
    tc::Packet,
};

/// `source` is the endpoint that the packet's source address belongs to: it must be the pod behind this interface, and
/// the frame must carry its MAC.
#[inline(always)]
pub fn check(
    packet: &Packet,
    frame: &Ethernet,
    source: Option<&'static Endpoint>,
) -> Result<&'static Endpoint, DropReason> {
    match source {
        Some(endpoint)
            if endpoint.ifindex == packet.ifindex() && frame.source == parse::mac_words(endpoint.mac) =>
        {
            Ok(endpoint)
        }
        _ => Err(DropReason::SpoofedSource),
    }
}
