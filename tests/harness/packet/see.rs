//! What a packet says.

use std::net::IpAddr;

use super::{
    checksum::{internet, sctp, with_pseudo_header},
    fragment::Piece,
    header::protocol,
    read::{Ip, word},
    shown,
};

/// What a packet says, as far as the tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport's number, behind all extension headers.
    pub protocol: u8,
    /// Source port; the identifier for an echo; 0 where there is none.
    pub source_port: u16,
    /// Destination port; the identifier for an echo; 0 where there is none.
    pub destination_port: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// UDP checksum field, 0 for other protocols.
    pub udp_checksum: u16,
    /// Which piece of a datagram it is.
    pub piece: Option<Piece>,
    /// The header of an ICMP message.
    pub icmp: Option<Icmp>,
    /// What an ICMP error is about.
    pub inner: Option<Box<Inner>>,
}

/// The header of an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type and code.
    pub numbers: [u8; 2],
    /// The header's second word: next-hop MTU, pointer, identifier and sequence number.
    pub word: u32,
}

/// The packet in an ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport's number.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Source port; the identifier for an echo; 0 where there is none.
    pub source_port: u16,
    /// Destination port; the identifier for an echo; 0 where there is none.
    pub destination_port: u16,
    /// The transport's checksum field, if the error embeds that much.
    pub checksum: Option<u32>,
    /// What is embedded of transport header and payload.
    pub segment: Vec<u8>,
    /// Next-hop MTU of a "too big"; else 0.
    pub mtu: u32,
}

/// Reads a packet and checks its checksums, all of them: of the IPv4 header, TCP, UDP, ICMP, ICMPv6, SCTP, and of the
/// packet that an ICMP error embeds as far as it is there. A UDP checksum of 0 is let pass, and shown. A fragment's
/// transport is in pieces: of it only the IPv4 header is checked ([`reassemble`](super::reassemble) it for the rest).
///
/// # Panics
/// If it cannot be read or a checksum is wrong.
pub fn see(bytes: &[u8]) -> Seen {
    let ip = Ip::of_frame(bytes);
    if ip.piece.is_none() {
        check(&ip).unwrap_or_else(|what| panic!("{what} checksum of {}", shown(bytes)));
    }
    let (source_port, destination_port) = ports(&ip);
    let icmp = (is_icmp(&ip) && ip.payload.len() >= 8 && is_first(&ip)).then(|| Icmp {
        numbers: [ip.payload[0], ip.payload[1]],
        word: u32::from_be_bytes([ip.payload[4], ip.payload[5], ip.payload[6], ip.payload[7]]),
    });
    let udp = ip.protocol == protocol::UDP && is_first(&ip) && ip.payload.len() >= 8;
    Seen {
        source_mac: bytes[6..12].try_into().expect("six bytes"),
        destination_mac: bytes[..6].try_into().expect("six bytes"),
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        source_port,
        destination_port,
        ttl: ip.hops,
        udp_checksum: if udp { word(ip.payload, 6) } else { 0 },
        piece: ip.piece,
        icmp,
        inner: icmp.filter(|icmp| is_error(&ip, icmp)).map(|icmp| Box::new(inner(&ip, &icmp))),
    }
}

fn inner(outer: &Ip<'_>, icmp: &Icmp) -> Inner {
    let v4 = outer.source.is_ipv4();
    let ip = Ip::embedded(&outer.payload[8..], v4);
    if ip.missing == 0 && ip.piece.is_none() {
        check(&ip).unwrap_or_else(|what| {
            panic!("{what} checksum of the packet embedded in {}", shown(outer.payload))
        });
    }
    let (source_port, destination_port) = ports(&ip);
    let mtu = match (v4, icmp.numbers) {
        (true, [3, 4]) => icmp.word & 0xffff,
        (false, [2, _]) => icmp.word,
        _ => 0,
    };
    Inner {
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        ttl: ip.hops,
        source_port,
        destination_port,
        checksum: checksum_field(&ip),
        segment: ip.payload.to_vec(),
        mtu,
    }
}

/// Whether the transport's checksum is right, as its receiver asks; else whose is not.
fn check(ip: &Ip<'_>) -> Result<(), &'static str> {
    let pseudo = |segment| with_pseudo_header(ip.source, ip.destination, ip.protocol, segment) == 0;
    let payload = ip.payload;
    let right = match (ip.protocol, ip.source.is_ipv4()) {
        (protocol::TCP, _) => (payload.len() >= 20 && pseudo(payload), "TCP"),
        (protocol::UDP, _) if payload.len() < 8 => (false, "UDP"),
        (protocol::UDP, _) => {
            let length = usize::from(word(payload, 4));
            let right = length == payload.len() && (word(payload, 6) == 0 || pseudo(payload));
            (right, "UDP")
        }
        (protocol::ICMP, true) => (payload.len() >= 8 && internet(payload) == 0, "ICMP"),
        (protocol::ICMPV6, false) => (payload.len() >= 8 && pseudo(payload), "ICMPv6"),
        (protocol::SCTP, _) if payload.len() >= 12 => (payload[8..12] == sctp(payload), "SCTP"),
        // Without its header it is a packet of any protocol, such as `Frame::raw` makes.
        _ => (true, ""),
    };
    if right.0 { Ok(()) } else { Err(right.1) }
}

fn ports(ip: &Ip<'_>) -> (u16, u16) {
    let has_ports = matches!(ip.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if !is_first(ip) || ip.payload.len() < 8 {
        return (0, 0);
    }
    if has_ports {
        return (word(ip.payload, 0), word(ip.payload, 2));
    }
    let echo =
        is_icmp(ip) && matches!((ip.source.is_ipv4(), ip.payload[0]), (true, 0 | 8) | (false, 128 | 129));
    let id = if echo { word(ip.payload, 4) } else { 0 };
    (id, id)
}

fn checksum_field(ip: &Ip<'_>) -> Option<u32> {
    let at = match ip.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        protocol::SCTP => {
            let bytes = ip.payload.get(8..12)?;
            return Some(u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        }
        _ => return None,
    };
    let there = is_first(ip) && ip.payload.len() >= at + 2;
    there.then(|| word(ip.payload, at).into())
}

/// Whether the transport header is in this packet.
fn is_first(ip: &Ip<'_>) -> bool {
    ip.piece.is_none_or(|piece| piece.offset == 0)
}

fn is_icmp(ip: &Ip<'_>) -> bool {
    matches!((ip.protocol, ip.source.is_ipv4()), (protocol::ICMP, true) | (protocol::ICMPV6, false))
}

fn is_error(ip: &Ip<'_>, icmp: &Icmp) -> bool {
    match ip.source {
        IpAddr::V4(_) => matches!(icmp.numbers[0], 3 | 4 | 5 | 11 | 12),
        IpAddr::V6(_) => icmp.numbers[0] < 128,
    }
}
