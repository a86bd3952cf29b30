//! Reading headers.

use netpath_common::abi::{Addr, DropReason};

use super::{ETHERNET, Headers, ICMP, TCP, Transport, UDP, tc::Packet};

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
}

/// A MAC in words as it stands in a packet.
#[inline(always)]
pub fn mac_words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// Bytes that hold all headers we read: Ethernet, IPv4 without options, TCP without options.
const USUAL_HEADERS: u32 = 54;
const IPV4_HEADER: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet(packet: &Packet) -> Result<Ethernet, DropReason> {
    packet.pull(USUAL_HEADERS);
    let frame = packet.window::<ETHERNET>(0).ok_or(DropReason::Malformed)?;
    Ok(Ethernet {
        kind: u16::from_be(frame.get::<u16, 12>()),
        source: [frame.get::<u16, 6>(), frame.get::<u16, 8>(), frame.get::<u16, 10>()],
    })
}

/// Reads an IPv4 header with its options and the transport header behind it. `headers` is filled as far as the packet
/// is sound, so that a drop can name what was seen.
#[inline(always)]
pub fn ipv4(packet: &Packet, headers: &mut Headers) -> Result<(), DropReason> {
    let ip = packet.window::<IPV4_HEADER>(ETHERNET).ok_or(DropReason::Malformed)?;
    let version_and_length: u8 = ip.get::<u8, 0>();
    let header_length = (version_and_length & 0xf) as usize * 4;
    headers.tos = ip.get::<u8, 1>();
    headers.total_length = u16::from_be(ip.get::<u16, 2>());
    let fragment = u16::from_be(ip.get::<u16, 6>());
    headers.ttl = ip.get::<u8, 8>();
    headers.key.proto = ip.get::<u8, 9>();
    headers.key.src = Addr::from_v4_be(ip.get::<u32, 12>());
    headers.key.dst = Addr::from_v4_be(ip.get::<u32, 16>());
    if version_and_length >> 4 != 4
        || header_length < IPV4_HEADER
        || (headers.total_length as usize) < header_length
        || headers.total_length as u32 + ETHERNET as u32 > packet.length()
    {
        return Err(DropReason::Malformed);
    }
    headers.transport_offset = (ETHERNET + header_length) as u16;
    if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        headers.transport = Transport::Fragment;
        return Ok(());
    }
    transport(packet, headers, headers.total_length - header_length as u16)
}

/// Reads the transport header; `length` is what the IP header says stands behind it.
#[inline(always)]
fn transport(packet: &Packet, headers: &mut Headers, length: u16) -> Result<(), DropReason> {
    let offset = headers.transport_offset as usize;
    match headers.key.proto {
        TCP => {
            packet.pull(offset as u32 + 20);
            let tcp = packet.window::<20>(offset).ok_or(DropReason::Malformed)?;
            headers.transport_length = u16::from(tcp.get::<u8, 12>() >> 4) * 4;
            if headers.transport_length < 20 || headers.transport_length > length {
                return Err(DropReason::Malformed);
            }
            headers.key.sport = tcp.get::<u16, 0>();
            headers.key.dport = tcp.get::<u16, 2>();
            headers.tcp_flags = tcp.get::<u8, 13>();
            headers.transport = Transport::Ports;
        }
        UDP => {
            packet.pull(offset as u32 + 8);
            let udp = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
            let said = u16::from_be(udp.get::<u16, 4>());
            if length < 8 || said < 8 || said > length {
                return Err(DropReason::Malformed);
            }
            headers.key.sport = udp.get::<u16, 0>();
            headers.key.dport = udp.get::<u16, 2>();
            headers.transport_length = 8;
            headers.transport = Transport::Ports;
        }
        ICMP => {
            packet.pull(offset as u32 + 8);
            let icmp = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
            if length < 8 {
                return Err(DropReason::Malformed);
            }
            headers.icmp_type = icmp.get::<u8, 0>();
            headers.transport_length = 8;
            headers.transport = Transport::Icmp;
            if headers.icmp_type == ECHO_REQUEST || headers.icmp_type == ECHO_REPLY {
                headers.key.sport = icmp.get::<u16, 4>();
                headers.key.dport = headers.key.sport;
                headers.transport = Transport::Ports;
            }
        }
        _ => headers.transport = Transport::Other,
    }
    Ok(())
}
