//! Reading transport headers.

use netpath_common::abi::DropReason;

use super::{AnyPacket, Headers, ICMP, ICMPV6, Part, SCTP, TCP, Transport, UDP, is_icmp};

/// ICMP types.
pub const ECHO_REPLY: u8 = 0;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Echo request of ICMPv6.
pub const ECHO_REQUEST_V6: u8 = 128;
/// Echo reply of ICMPv6.
pub const ECHO_REPLY_V6: u8 = 129;

/// Whether this is an echo or the answer to one.
#[inline(always)]
pub const fn is_echo(proto: u8, kind: u8) -> bool {
    if proto == ICMPV6 {
        kind == ECHO_REQUEST_V6 || kind == ECHO_REPLY_V6
    } else {
        proto == ICMP && (kind == ECHO_REQUEST || kind == ECHO_REPLY)
    }
}

/// Whether this is an error about a packet that it embeds: destination unreachable, source quench, time exceeded and
/// parameter problem (RFC 792), of ICMPv6 all types below 128 (RFC 4443, 2.1).
#[inline(always)]
const fn is_error(proto: u8, kind: u8) -> bool {
    if proto == ICMPV6 { kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// Reads the transport header; `length` is what the IP header says stands behind it.
#[inline(always)]
pub fn read(packet: &impl AnyPacket, headers: &mut Headers, length: u32) -> Result<(), DropReason> {
    let offset = headers.transport_start();
    match headers.key.proto {
        TCP => {
            packet.pull(offset as u32 + 20);
            let tcp = packet.window::<20>(offset).ok_or(DropReason::Malformed)?;
            headers.transport_length = u16::from(tcp.get::<u8, 12>() >> 4) * 4;
            if headers.transport_length < 20 || u32::from(headers.transport_length) > length {
                return Err(DropReason::Malformed);
            }
            (headers.key.sport, headers.key.dport) = (tcp.get::<u16, 0>(), tcp.get::<u16, 2>());
            headers.tcp_seq = u32::from_be(tcp.get::<u32, 4>());
            headers.tcp_ack = u32::from_be(tcp.get::<u32, 8>());
            headers.tcp_flags = tcp.get::<u8, 13>();
            headers.transport = Transport::Ports;
        }
        UDP => {
            packet.pull(offset as u32 + 8);
            let udp = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
            let said = u32::from(u16::from_be(udp.get::<u16, 4>()));
            // The first part of a datagram holds the length of all of it; so does the header of a GSO train.
            let whole = headers.part == Part::Whole && packet.gso_size() == 0;
            if length < 8 || (whole && said > length) || said < 8 {
                return Err(DropReason::Malformed);
            }
            (headers.key.sport, headers.key.dport) = (udp.get::<u16, 0>(), udp.get::<u16, 2>());
            headers.transport_length = 8;
            headers.transport = Transport::Ports;
        }
        SCTP => {
            packet.pull(offset as u32 + 12);
            let sctp = packet.window::<12>(offset).ok_or(DropReason::Malformed)?;
            if length < 12 {
                return Err(DropReason::Malformed);
            }
            (headers.key.sport, headers.key.dport) = (sctp.get::<u16, 0>(), sctp.get::<u16, 2>());
            headers.transport_length = 12;
            headers.transport = Transport::Ports;
        }
        // ICMP of the other family is no protocol of this one.
        proto if is_icmp(proto) && (proto == ICMPV6) == headers.v6 => icmp(packet, headers, length)?,
        _ => headers.transport = Transport::Other,
    }
    Ok(())
}

#[inline(always)]
fn icmp(packet: &impl AnyPacket, headers: &mut Headers, length: u32) -> Result<(), DropReason> {
    let offset = headers.transport_start();
    packet.pull(offset as u32 + 8);
    let icmp = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
    if length < 8 {
        return Err(DropReason::Malformed);
    }
    headers.icmp_type = icmp.get::<u8, 0>();
    headers.transport_length = 8;
    if is_echo(headers.key.proto, headers.icmp_type) {
        headers.key.sport = icmp.get::<u16, 4>();
        headers.key.dport = headers.key.sport;
        headers.transport = Transport::Ports;
    } else if is_error(headers.key.proto, headers.icmp_type) {
        headers.transport = Transport::Error;
    } else {
        headers.transport = Transport::Icmp;
    }
    Ok(())
}
