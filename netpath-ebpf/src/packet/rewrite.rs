//! Changing headers, checksums included.

use netpath_common::{
    abi::{Addr, DropReason},
    logic::checksum,
};

use super::{
    AnyPacket, ETHERNET, Headers, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, Part, SCTP, UDP, is_icmp,
    tc::Packet, transport,
};
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
pub fn link(packet: &impl AnyPacket, destination: [u8; 6]) -> Result<(), DropReason> {
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
pub fn decrement_ttl(packet: &impl AnyPacket, headers: &Headers) -> Result<(), DropReason> {
    if headers.v6 {
        let mut ip = packet.window::<IPV6_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
        ip.set::<u8, 7>(headers.ttl - 1);
        return Ok(());
    }
    let mut ip = packet.window::<IPV4_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
    // TTL shares its checksum word with the protocol number.
    let old: u16 = ip.get::<u16, 8>();
    let new = (u16::from_be(old) - 0x0100).to_be();
    let check = checksum::replace_u16(ip.get::<u16, 10>(), old, new);
    ip.set::<u16, 8>(new);
    ip.set::<u16, 10>(check);
    Ok(())
}

/// Source or destination becomes the translation's, with the IPv4 and the transport checksum right, whether complete, left
/// to the device, or (UDP) absent. The packet's transport is `Transport::Ports`; of a later part only the address changes.
#[inline(always)]
pub fn translate(packet: &Packet, headers: &Headers, translation: &Translation) -> Result<(), DropReason> {
    let change = address(packet, headers, translation.source, &translation.addr)?;
    if headers.part != Part::Later && headers.key.proto != SCTP {
        transport(packet, headers, translation, change)?;
    }
    if headers.v6 {
        // No IPv6 header checksum takes up the address's change: the sum over the packet does.
        packet.sum_changed(change);
    }
    Ok(())
}

/// Writes one address of the IP header, of IPv4 its checksum as well. Returns by how much the sum over the packet
/// differs, for pseudo-headers.
#[inline(always)]
pub fn address(packet: &Packet, headers: &Headers, source: bool, new: &Addr) -> Result<u32, DropReason> {
    if headers.v6 {
        let mut ip = packet.window::<IPV6_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
        if source {
            set_words::<8, 12, 16, 20>(&mut ip, new);
            return Ok(checksum::difference(&headers.key.src.0, &new.0));
        }
        set_words::<24, 28, 32, 36>(&mut ip, new);
        return Ok(checksum::difference(&headers.key.dst.0, &new.0));
    }
    let mut ip = packet.window::<IPV4_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
    let (old, new) = (if source { headers.key.src.v4_be() } else { headers.key.dst.v4_be() }, new.v4_be());
    if source {
        ip.set::<u32, 12>(new);
    } else {
        ip.set::<u32, 16>(new);
    }
    let check = checksum::replace_u32(ip.get::<u16, 10>(), old, new);
    ip.set::<u16, 10>(check);
    Ok(checksum::difference(&[old], &[new]))
}

/// Four words at four places.
#[inline(always)]
fn set_words<const A: usize, const B: usize, const C: usize, const D: usize>(
    ip: &mut super::tc::Window<'_, IPV6_HEADER>,
    Addr([a, b, c, d]): &Addr,
) {
    ip.set::<u32, A>(*a);
    ip.set::<u32, B>(*b);
    ip.set::<u32, C>(*c);
    ip.set::<u32, D>(*d);
}

/// Writes the port or identifier, and the transport checksum for it and for `change` of the pseudo-header.
#[inline(always)]
fn transport(
    packet: &Packet,
    headers: &Headers,
    translation: &Translation,
    change: u32,
) -> Result<(), DropReason> {
    let Translation { port, source, .. } = *translation;
    let (offset, proto) = (headers.transport_start(), headers.key.proto);
    let mut header = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
    let (check, old) = if is_icmp(proto) {
        header.set::<u16, 4>(port);
        (2, headers.key.sport)
    } else {
        if source {
            header.set::<u16, 0>(port);
        } else {
            header.set::<u16, 2>(port);
        }
        (if proto == UDP { 6 } else { 16 }, if source { headers.key.sport } else { headers.key.dport })
    };
    let check = offset + check;
    // A checksum of 0 means "none" for UDP over IPv4, and stays (RFC 768); over IPv6 there is always one (RFC 8200, 8.1).
    let udp = proto == UDP;
    // ICMP for IPv4 has no pseudo-header.
    if proto != ICMP {
        packet.checksum_pseudo(check, change, udp).map_err(|()| DropReason::RewriteFailed)?;
    }
    if old != port {
        packet.checksum_word(check, old, port, udp).map_err(|()| DropReason::RewriteFailed)?;
    }
    Ok(())
}

/// Turns an ICMP echo request into its reply, in place: addresses exchanged (their sum stays), and the type.
#[inline(always)]
pub fn echo_reply(packet: &Packet, headers: &Headers) -> Result<(), DropReason> {
    address(packet, headers, true, &headers.key.dst)?;
    address(packet, headers, false, &headers.key.src)?;
    let kind = if headers.key.proto == ICMPV6 { transport::ECHO_REPLY_V6 } else { transport::ECHO_REPLY };
    let mut icmp = packet.window::<8>(headers.transport_start()).ok_or(DropReason::Malformed)?;
    let old: u16 = icmp.get::<u16, 0>();
    let [_, code] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([kind, code]);
    let check = checksum::replace_u16(icmp.get::<u16, 2>(), old, new);
    icmp.set::<u16, 0>(new);
    icmp.set::<u16, 2>(check);
    Ok(())
}
