//! Neighbour discovery for IPv6 (RFC 4861).

use netpath_common::{
    abi::{Addr, DropReason},
    logic::checksum::{replace_u16, replace_u32},
};

use super::{AnyPacket, ETHERNET, Headers, parse::mac_words, rewrite, tc::Packet};
use crate::bpf::globals;

/// Neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Redirect.
pub const REDIRECT: u8 = 137;

/// Bytes of a solicitation without options, and with the sender's link-layer address.
const LENGTH: usize = 24;
const WITH_OPTION: usize = 32;
/// Option type and length (in units of eight bytes) of a link-layer address: the sender's, the target's.
const SOURCE_LINK: [u8; 2] = [1, 1];
const TARGET_LINK: [u8; 2] = [2, 1];

/// What a solicitation or advertisement says.
#[derive(Clone, Copy)]
pub struct Neighbour {
    /// The address it is about.
    pub target: Addr,
    /// Its first option is a link-layer address.
    pub has_mac: bool,
    /// That address, else zeros.
    pub mac: [u16; 3],
}

/// Reads a solicitation or an advertisement.
#[inline(always)]
pub fn read(packet: &Packet, headers: &Headers) -> Result<Neighbour, DropReason> {
    let offset = headers.transport_start();
    packet.pull(offset as u32 + WITH_OPTION as u32);
    // Only a hop limit that no router has touched proves a neighbour (RFC 4861, 7.1).
    if headers.ttl != 255 {
        return Err(DropReason::Malformed);
    }
    // What lies behind the message, such as padding, is no option of it.
    let length = (ETHERNET as u32 + headers.total_length).saturating_sub(offset as u32);
    if length < LENGTH as u32 {
        return Err(DropReason::Malformed);
    }
    let nd = packet.window::<LENGTH>(offset).ok_or(DropReason::Malformed)?;
    let target = Addr([nd.get::<u32, 8>(), nd.get::<u32, 12>(), nd.get::<u32, 16>(), nd.get::<u32, 20>()]);
    // Nobody has a group's address (RFC 4861, 7.1), and an answer from it would be no packet.
    if target == Addr::UNSPECIFIED || u32::from_be(target.0[0]) >> 24 == 0xff {
        return Err(DropReason::Malformed);
    }
    let mut neighbour = Neighbour { target, has_mac: false, mac: [0; 3] };
    if length < WITH_OPTION as u32 {
        return Ok(neighbour);
    }
    if let Some(nd) = packet.window::<WITH_OPTION>(offset) {
        let option: u16 = nd.get::<u16, 24>();
        if option == u16::from_ne_bytes(SOURCE_LINK) || option == u16::from_ne_bytes(TARGET_LINK) {
            neighbour.has_mac = true;
            neighbour.mac = [nd.get::<u16, 26>(), nd.get::<u16, 28>(), nd.get::<u16, 30>()];
        }
    }
    Ok(neighbour)
}

/// Turns a solicitation into the gateway's advertisement, in place: "the address you ask for is at the gateway's MAC".
/// Without an option there is no room for the MAC: a solicitation to one neighbour may be answered without (7.2.4).
#[inline(always)]
pub fn answer(packet: &Packet, headers: &Headers, question: &Neighbour) -> Result<(), DropReason> {
    // Router, solicited, override.
    const FLAGS: [u8; 4] = [0xe0, 0, 0, 0];
    // Source target, destination asker: the pseudo-header changes by the target in place of what was asked.
    rewrite::address(packet, headers, true, &question.target)?;
    rewrite::address(packet, headers, false, &headers.key.src)?;
    let offset = headers.transport_start();
    let mut nd = packet.window::<LENGTH>(offset).ok_or(DropReason::Malformed)?;
    let mut check: u16 = nd.get::<u16, 2>();
    for (old, new) in headers.key.dst.0.into_iter().zip(question.target.0) {
        check = replace_u32(check, old, new);
    }
    let kind = u16::from_ne_bytes([ADVERTISEMENT, 0]);
    check = replace_u16(check, nd.get::<u16, 0>(), kind);
    check = replace_u32(check, nd.get::<u32, 4>(), u32::from_ne_bytes(FLAGS));
    nd.set::<u16, 0>(kind);
    nd.set::<u32, 4>(u32::from_ne_bytes(FLAGS));
    if question.has_mac {
        let mut nd = packet.window::<WITH_OPTION>(offset).ok_or(DropReason::Malformed)?;
        let [m0, m1, m2] = mac_words(globals::gateway_mac());
        check = replace_u16(check, nd.get::<u16, 24>(), u16::from_ne_bytes(TARGET_LINK));
        check = replace_u16(check, nd.get::<u16, 26>(), m0);
        check = replace_u16(check, nd.get::<u16, 28>(), m1);
        check = replace_u16(check, nd.get::<u16, 30>(), m2);
        nd.set::<u16, 24>(u16::from_ne_bytes(TARGET_LINK));
        nd.set::<u16, 26>(m0);
        nd.set::<u16, 28>(m1);
        nd.set::<u16, 30>(m2);
    }
    let mut nd = packet.window::<LENGTH>(offset).ok_or(DropReason::Malformed)?;
    nd.set::<u16, 2>(check);
    Ok(())
}

/// Whether an ICMPv6 type belongs to the link alone: neighbour and router discovery, and multicast listeners (RFC 2710,
/// RFC 3810).
#[inline(always)]
pub const fn is_of_the_link(kind: u8) -> bool {
    matches!(kind, 130..=137 | 143)
}
