//! Packets read by somebody who believes nothing: not by the programs' code, and without a panic.

use netpath_tests::{
    packet::{ETHERNET, protocol},
    scene::SERVER_PORT,
};

/// An IP address as sixteen bytes, IPv4 as v4-mapped.
pub(super) type Address = [u8; 16];

/// Where things stand in a packet; offsets from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) v6: bool,
    /// Where the IP header starts.
    pub(super) ip: usize,
    pub(super) protocol: u8,
    pub(super) transport: usize,
    /// Where the IP packet ends, or the bytes that are there of it.
    pub(super) end: usize,
    /// It is a fragment.
    pub(super) piece: bool,
    /// It is a fragment without a transport header.
    pub(super) later: bool,
}

impl View {
    /// Reads a frame; `None` if it is not a sound IP packet.
    pub(super) fn of(frame: &[u8], gso: bool) -> Option<Self> {
        let v6 = match frame.get(12..14)? {
            [0x08, 0x00] => false,
            [0x86, 0xdd] => true,
            _ => return None,
        };
        Self::at(frame, ETHERNET, frame.len(), v6, gso, true)
    }

    /// Reads what an ICMP error embeds: perhaps only its beginning.
    pub(super) fn embedded(&self, frame: &[u8]) -> Option<Self> {
        Self::at(frame, self.transport + 8, self.end, self.v6, false, false)
    }

    fn at(frame: &[u8], ip: usize, limit: usize, v6: bool, gso: bool, whole: bool) -> Option<Self> {
        let packet = frame.get(ip..limit)?;
        let header = if v6 { 40 } else { usize::from(packet.first()? & 15) * 4 };
        if packet.len() < header.max(20) || header < 20 || packet[0] >> 4 != if v6 { 6 } else { 4 } {
            return None;
        }
        let said = if v6 { 40 + word(packet, 4) } else { word(packet, 2) };
        // More than 64 KiB say 0.
        let huge = gso && said == if v6 { 40 } else { 0 };
        let total = if huge { packet.len() } else { said };
        if whole && !(header..=packet.len()).contains(&total) {
            return None;
        }
        let mut view = Self {
            v6,
            ip,
            protocol: if v6 { packet[6] } else { packet[9] },
            transport: ip + header,
            // An embedded packet is cut, and its length may be what it was before a router changed it.
            end: if whole { ip + total } else { limit },
            piece: !v6 && word(packet, 6) & 0x3fff != 0,
            later: !v6 && word(packet, 6) & 0x1fff != 0,
        };
        if v6 {
            view.walk(frame)?;
        }
        Some(view)
    }

    /// Along IPv6's extension headers: eight of them and 384 bytes, and what lies behind is nobody's to translate.
    fn walk(&mut self, frame: &[u8]) -> Option<()> {
        let (start, mut headers) = (self.transport, 0);
        while !self.later && matches!(self.protocol, 0 | 43 | 44 | 51 | 60) {
            let header = frame.get(self.transport..self.end).and_then(|rest| rest.get(..8));
            headers += 1;
            if headers > 8 {
                self.protocol = protocol::NONE;
                break;
            }
            let header = header?;
            let length = match self.protocol {
                protocol::FRAGMENT => {
                    let offset = word(header, 2);
                    self.piece |= offset & 0xfff9 != 0;
                    self.later |= offset & 0xfff8 != 0;
                    8
                }
                51 => (usize::from(header[1]) + 2) * 4,
                _ => (usize::from(header[1]) + 1) * 8,
            };
            if self.transport + length > self.end {
                return None;
            }
            if self.transport + length - start > 384 {
                self.protocol = protocol::NONE;
                break;
            }
            self.protocol = header[0];
            self.transport += length;
        }
        Some(())
    }

    /// Where the source address (else the destination) stands.
    pub(super) fn address_at(&self, source: bool) -> (usize, usize) {
        let (start, length) = match (self.v6, source) {
            (true, true) => (8, 16),
            (true, false) => (24, 16),
            (false, true) => (12, 4),
            (false, false) => (16, 4),
        };
        (self.ip + start, self.ip + start + length)
    }

    pub(super) fn address(&self, frame: &[u8], source: bool) -> Address {
        let (start, end) = self.address_at(source);
        widen(&frame[start..end])
    }

    pub(super) fn hops_at(&self) -> usize {
        self.ip + if self.v6 { 7 } else { 8 }
    }

    /// Whether it is ICMP of its family.
    pub(super) fn is_icmp(&self) -> bool {
        self.protocol == if self.v6 { protocol::ICMPV6 } else { protocol::ICMP }
    }

    /// Bytes that are there of the transport header and what follows.
    pub(super) fn segment<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if self.later { &[] } else { frame.get(self.transport..self.end).unwrap_or(&[]) }
    }

    /// The ICMP type, if that is what it is.
    pub(super) fn icmp_type(&self, frame: &[u8]) -> Option<u8> {
        let segment = self.segment(frame);
        (self.is_icmp() && segment.len() >= 8).then(|| segment[0])
    }

    /// Whether it is an ICMP error.
    pub(super) fn is_error(&self, frame: &[u8]) -> bool {
        self.icmp_type(frame)
            .is_some_and(|kind| if self.v6 { kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) })
    }

    /// Where the transport's checksum stands, if it is there.
    pub(super) fn checksum_at(&self) -> Option<usize> {
        let at = match self.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ if self.is_icmp() => 2,
            _ => return None,
        };
        (!self.later && self.transport + at + 2 <= self.end).then_some(self.transport + at)
    }

    /// Where the port (or the identifier of an echo) stands, if it is there.
    pub(super) fn port_at(&self, source: bool) -> Option<usize> {
        let at = match self.protocol {
            protocol::TCP | protocol::UDP => usize::from(!source) * 2,
            _ if self.is_icmp() => 4,
            _ => return None,
        };
        (!self.later && self.transport + 8 <= self.end).then_some(self.transport + at)
    }

    /// Whether it is for the server's port at one of these addresses.
    pub(super) fn is_for_server(&self, frame: &[u8], addresses: &[Address]) -> bool {
        let port = || self.segment(frame).get(..4).map(|ports| word(ports, 2));
        matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
            && port() == Some(SERVER_PORT.into())
            && addresses.contains(&self.address(frame, false))
    }

    /// What the sum over the IP header comes to: nothing that is changed with its checksum changes it.
    pub(super) fn header_sum(&self, frame: &[u8]) -> u16 {
        if self.v6 { 0 } else { sum(0, &frame[self.ip..self.ip + usize::from(frame[self.ip] & 15) * 4]) }
    }

    /// The same for transport and pseudo-header; `None` if no checksum is there or, with UDP, none is meant.
    pub(super) fn transport_sum(&self, frame: &[u8]) -> Option<u16> {
        let at = self.checksum_at()?;
        if self.protocol == protocol::UDP && word(frame, at) == 0 {
            return None;
        }
        let segment = self.segment(frame);
        if self.protocol == protocol::ICMP {
            return Some(sum(0, segment));
        }
        let (start, end) = (self.address_at(true).0, self.address_at(false).1);
        let pseudo = sum(segment.len() as u32 + u32::from(self.protocol), &frame[start..end]);
        Some(sum(pseudo.into(), segment))
    }
}

/// The addresses where an IP header would have them, however damaged the rest is.
pub(super) fn raw_source(frame: &[u8]) -> Option<Address> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(26..30).map(widen),
        [0x86, 0xdd] => frame.get(22..38).map(widen),
        _ => None,
    }
}

pub(super) fn widen(address: &[u8]) -> Address {
    let mut wide = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    wide[16 - address.len()..].copy_from_slice(address);
    wide
}

/// Two bytes in network order.
pub(super) fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// The one's complement sum, with its two zeroes made one.
pub(super) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = u64::from(start);
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(pair[0]) << 8 | u64::from(pair[1]);
    }
    total += pairs.remainder().first().map_or(0, |last| u64::from(*last) << 8);
    (total % 0xffff) as u16
}
