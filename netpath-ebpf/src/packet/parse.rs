//! Reading Ethernet and IP headers. `headers` is filled as far as a packet is sound, so that a drop can name what was
//! seen.

use netpath_common::abi::{Addr, DropReason};

use super::{
    AnyPacket, ETHERNET, Headers, IPV4_HEADER, IPV6_HEADER, Part, Transport, extension, tc::Window, transport,
};

/// What an Ethernet header says.
#[derive(Clone, Copy)]
pub struct Ethernet {
    /// EtherType, host order.
    pub kind: u16,
    /// Source MAC in three parts as they stand in the packet: 2, 2 and 2 bytes.
    pub source: [u16; 3],
}

impl Ethernet {
    /// The source MAC as bytes.
    #[inline(always)]
    pub fn source_mac(&self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] = self.source.map(u16::to_ne_bytes);
        [a, b, c, d, e, f]
    }

    /// Whether an IP packet follows.
    #[inline(always)]
    pub const fn is_ip(&self) -> bool {
        self.kind == IPV4 || self.kind == IPV6
    }
}

/// A MAC in words as it stands in a packet.
#[inline(always)]
pub fn mac_words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Bytes of Ethernet, IPv4 and TCP without options.
const USUAL_HEADERS: u32 = 54;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet(packet: &impl AnyPacket) -> Result<Ethernet, DropReason> {
    packet.pull(USUAL_HEADERS);
    let frame = packet.window::<ETHERNET>(0).ok_or(DropReason::Malformed)?;
    Ok(Ethernet {
        kind: u16::from_be(frame.get::<u16, 12>()),
        source: [frame.get::<u16, 6>(), frame.get::<u16, 8>(), frame.get::<u16, 10>()],
    })
}

/// Reads the IP header with options or extension headers, and the transport header behind it.
#[inline(always)]
pub fn ip(packet: &impl AnyPacket, headers: &mut Headers, frame: &Ethernet) -> Result<(), DropReason> {
    let length = match frame.kind {
        IPV4 => ipv4(packet, headers)?,
        IPV6 => ipv6(packet, headers)?,
        _ => return Err(DropReason::UnsupportedProtocol),
    };
    if headers.part == Part::Later {
        headers.transport = Transport::Unknown;
        return Ok(());
    }
    transport::read(packet, headers, length)
}

/// Reads an IPv4 header with its options; returns how many bytes stand behind it.
#[inline(always)]
fn ipv4(packet: &impl AnyPacket, headers: &mut Headers) -> Result<u32, DropReason> {
    let ip = packet.window::<IPV4_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
    let version_and_length: u8 = ip.get::<u8, 0>();
    let header_length = u32::from(version_and_length & 0xf) * 4;
    headers.class = u32::from(ip.get::<u8, 1>());
    headers.total_length = whole_length(packet, u16::from_be(ip.get::<u16, 2>()).into(), 0);
    let fragment = u16::from_be(ip.get::<u16, 6>());
    headers.ttl = ip.get::<u8, 8>();
    headers.key.proto = ip.get::<u8, 9>();
    headers.key.src = Addr::from_v4_be(ip.get::<u32, 12>());
    headers.key.dst = Addr::from_v4_be(ip.get::<u32, 16>());
    if version_and_length >> 4 != 4
        || header_length < IPV4_HEADER as u32
        || headers.total_length < header_length
        || headers.total_length + ETHERNET as u32 > packet.length()
    {
        return Err(DropReason::Malformed);
    }
    headers.transport_offset = ETHERNET as u16 + header_length as u16;
    if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        headers.fragment_id = u32::from(ip.get::<u16, 4>());
        headers.part = if fragment & FRAGMENT_OFFSET == 0 { Part::First } else { Part::Later };
    }
    Ok(headers.total_length - header_length)
}

/// Reads an IPv6 header with its extension headers; returns how many bytes stand behind them.
#[inline(always)]
fn ipv6(packet: &impl AnyPacket, headers: &mut Headers) -> Result<u32, DropReason> {
    packet.pull(USUAL_HEADERS + (IPV6_HEADER - IPV4_HEADER) as u32);
    headers.v6 = true;
    let ip = packet.window::<IPV6_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
    let first: u32 = ip.get::<u32, 0>();
    let payload = u32::from(u16::from_be(ip.get::<u16, 4>()));
    headers.class = first & 0x0fff_ffff_u32.to_be();
    headers.key.proto = ip.get::<u8, 6>();
    headers.ttl = ip.get::<u8, 7>();
    let (src, dst) = addresses_v6(&ip);
    headers.total_length = whole_length(packet, payload, IPV6_HEADER as u32);
    // Known of a damaged packet as well: what leaves is judged by its source.
    (headers.key.src, headers.key.dst) = (src, dst);
    // A v4-mapped address on the wire would pass for the IPv4 address: never valid there (RFC 4291, 2.5.5.2 is for APIs).
    if u32::from_be(first) >> 28 != 6
        || src.is_v4()
        || dst.is_v4()
        || headers.total_length + ETHERNET as u32 > packet.length()
    {
        return Err(DropReason::Malformed);
    }
    headers.transport_offset = (ETHERNET + IPV6_HEADER) as u16;
    let length = headers.total_length - IPV6_HEADER as u32;
    if !extension::follows(headers.key.proto) {
        return Ok(length);
    }
    let extensions = extension::skip(packet, headers);
    if extensions == extension::DAMAGED || extensions > length {
        return Err(DropReason::Malformed);
    }
    Ok(length - extensions)
}

/// Source and destination.
#[inline(always)]
fn addresses_v6(ip: &Window<'_, IPV6_HEADER>) -> (Addr, Addr) {
    (
        Addr([ip.get::<u32, 8>(), ip.get::<u32, 12>(), ip.get::<u32, 16>(), ip.get::<u32, 20>()]),
        Addr([ip.get::<u32, 24>(), ip.get::<u32, 28>(), ip.get::<u32, 32>(), ip.get::<u32, 36>()]),
    )
}

/// Reads addresses and protocol alone, whatever is wrong with the rest of the packet; an IPv6 packet's protocol may be
/// that of an extension header. Returns whether there are any.
#[inline(always)]
pub fn ends(packet: &impl AnyPacket, headers: &mut Headers, frame: &Ethernet) -> bool {
    if frame.kind == IPV4 {
        let Some(ip) = packet.window::<IPV4_HEADER>(ETHERNET) else { return false };
        headers.key.proto = ip.get::<u8, 9>();
        headers.key.src = Addr::from_v4_be(ip.get::<u32, 12>());
        headers.key.dst = Addr::from_v4_be(ip.get::<u32, 16>());
        return ip.get::<u8, 0>() >> 4 == 4;
    }
    let Some(ip) = packet.window::<IPV6_HEADER>(ETHERNET) else { return false };
    headers.v6 = true;
    headers.key.proto = ip.get::<u8, 6>();
    (headers.key.src, headers.key.dst) = addresses_v6(&ip);
    ip.get::<u8, 0>() >> 4 == 6 && !headers.key.src.is_v4()
}

/// The IP packet's length. A GSO train of more than 64 KiB (BIG TCP, 6.3) says 0.
#[inline(always)]
fn whole_length(packet: &impl AnyPacket, said: u32, header: u32) -> u32 {
    if said == 0 && packet.gso_size() != 0 { packet.length() - ETHERNET as u32 } else { said + header }
}
