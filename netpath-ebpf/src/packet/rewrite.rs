//! Changing headers, checksums included.

use netpath_common::{
    abi::{Addr, DropReason},
    logic::checksum,
};

use super::{ETHERNET, Headers, ICMP, UDP, tc::Packet};
use crate::bpf::globals;

/// What becomes of one end of a packet.
#[derive(Clone, Copy)]
pub struct Translation {
    /// New address.
    pub addr: Addr,
    /// New port, network order.
    pub port: u16,
    /// It is the source that changes, else the destination.
    pub source: bool,
}

/// Puts the pod's MAC as destination and the gateway's as source.
#[inline(always)]
pub fn link(packet: &Packet, destination: [u8; 6]) -> Result<(), DropReason> {
    let mut frame = packet.window::<ETHERNET>(0).ok_or(DropReason::Malformed)?;
    let [d0, d1, d2, d3, d4, d5] = destination;
    let [s0, s1, s2, s3, s4, s5] = globals::gateway_mac();
    // 2 + 4 + 4 + 2 bytes: the aligned way to write twelve bytes at a frame's start (NET_IP_ALIGN).
    frame.set::<u16, 0>(u16::from_ne_bytes([d0, d1]));
    frame.set::<u32, 2>(u32::from_ne_bytes([d2, d3, d4, d5]));
    frame.set::<u32, 6>(u32::from_ne_bytes([s0, s1, s2, s3]));
    frame.set::<u16, 10>(u16::from_ne_bytes([s4, s5]));
    Ok(())
}

/// One hop less. The caller knows that at least two are left.
#[inline(always)]
pub fn decrement_ttl(packet: &Packet) -> Result<(), DropReason> {
    let mut ip = packet.window::<20>(ETHERNET).ok_or(DropReason::Malformed)?;
    // TTL shares its checksum word with the protocol number.
    let old: u16 = ip.get::<u16, 8>();
    let new = (u16::from_be(old) - 0x0100).to_be();
    let check = checksum::replace_u16(ip.get::<u16, 10>(), old, new);
    ip.set::<u16, 8>(new);
    ip.set::<u16, 10>(check);
    Ok(())
}

/// Source or destination becomes the translation's, with the IPv4 and the transport checksum right, whether complete, left
/// to the device, or (UDP) absent. The packet's transport is `Transport::Ports`.
#[inline(always)]
pub fn translate(packet: &Packet, headers: &Headers, translation: &Translation) -> Result<(), DropReason> {
    let Translation { addr, port, source } = *translation;
    let new = addr.v4_be();
    let old = address(packet, source, new)?;
    let offset = headers.transport_start();
    let udp = headers.key.proto == UDP;
    let (check, old_port) = if headers.key.proto == ICMP {
        let mut icmp = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
        let old: u16 = icmp.get::<u16, 4>();
        icmp.set::<u16, 4>(port);
        (offset + 2, old)
    } else {
        let mut ports = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
        let old = if source { ports.get::<u16, 0>() } else { ports.get::<u16, 2>() };
        if source {
            ports.set::<u16, 0>(port);
        } else {
            ports.set::<u16, 2>(port);
        }
        (offset + if udp { 6 } else { 16 }, old)
    };
    // ICMP for IPv4 has no pseudo-header.
    if headers.key.proto != ICMP {
        packet.checksum_address(check, old, new, udp).map_err(|()| DropReason::RewriteFailed)?;
    }
    if old_port != port {
        packet.checksum_word(check, old_port, port, udp).map_err(|()| DropReason::RewriteFailed)?;
    }
    Ok(())
}

/// Writes one address of the IPv4 header and its checksum; returns the old one.
#[inline(always)]
fn address(packet: &Packet, source: bool, new: u32) -> Result<u32, DropReason> {
    let mut ip = packet.window::<20>(ETHERNET).ok_or(DropReason::Malformed)?;
    let old = if source { ip.get::<u32, 12>() } else { ip.get::<u32, 16>() };
    if source {
        ip.set::<u32, 12>(new);
    } else {
        ip.set::<u32, 16>(new);
    }
    let check = checksum::replace_u32(ip.get::<u16, 10>(), old, new);
    ip.set::<u16, 10>(check);
    Ok(old)
}

/// Turns an ICMP echo request into its reply, in place: addresses exchanged (their sum stays), type 0.
#[inline(always)]
pub fn echo_reply(packet: &Packet, headers: &Headers) -> Result<(), DropReason> {
    let mut ip = packet.window::<20>(ETHERNET).ok_or(DropReason::Malformed)?;
    ip.set::<u32, 12>(headers.key.dst.v4_be());
    ip.set::<u32, 16>(headers.key.src.v4_be());
    let mut icmp = packet.window::<8>(headers.transport_start()).ok_or(DropReason::Malformed)?;
    let old: u16 = icmp.get::<u16, 0>();
    let new = (u16::from_be(old) & 0x00ff).to_be();
    let check = checksum::replace_u16(icmp.get::<u16, 2>(), old, new);
    icmp.set::<u16, 0>(new);
    icmp.set::<u16, 2>(check);
    Ok(())
}
