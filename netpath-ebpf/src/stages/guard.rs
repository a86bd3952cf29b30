//! A pod sends only from what is its own (invariant 4).

use netpath_common::abi::{DropReason, Endpoint, Link};

use crate::packet::{
    AnyPacket,
    parse::{self, Ethernet},
};

/// `source` is the endpoint that the packet's source address belongs to: it must be the pod behind this interface, and the
/// frame must carry this interface's MAC. `link` tells whose an interface is; it is asked only where the address belongs to
/// another interface, as a pod of several may send from any of its addresses.
#[inline(always)]
pub fn check(
    packet: &impl AnyPacket,
    frame: &Ethernet,
    source: Option<&'static Endpoint>,
    link: impl FnOnce(u32) -> Option<&'static Link>,
) -> Result<&'static Endpoint, DropReason> {
    let Some(endpoint) = source else { return Err(DropReason::SpoofedSource) };
    if endpoint.ifindex == packet.ifindex() && frame.source == parse::mac_words(endpoint.mac) {
        return Ok(endpoint);
    }
    match link(packet.ifindex()) {
        Some(link) if link.pod == endpoint.pod && frame.source == parse::mac_words(link.mac) => Ok(endpoint),
        _ => Err(DropReason::SpoofedSource),
    }
}

/// For what need not have an address of the pod's, such as neighbour discovery: the frame must carry the interface's MAC.
/// Returns whose the interface is.
#[inline(always)]
pub fn check_link(frame: &Ethernet, link: Option<&'static Link>) -> Result<&'static Link, DropReason> {
    link.filter(|link| frame.source == parse::mac_words(link.mac)).ok_or(DropReason::SpoofedSource)
}
