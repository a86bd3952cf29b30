//! IP headers being read.

use std::net::{IpAddr, Ipv6Addr};

use super::{checksum::internet, fragment::Piece, header::protocol, shown};

/// An IP packet, read as far as its transport.
#[derive(Debug)]
pub(super) struct Ip<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hops: u8,
    /// What the payload is.
    pub(super) protocol: u8,
    pub(super) piece: Option<Piece>,
    /// Behind all headers; of an embedded packet perhaps only its beginning.
    pub(super) payload: &'a [u8],
    /// Bytes of the payload that are not there.
    pub(super) missing: usize,
    /// Where IPv6's fragment header stands, and where the number that announces it.
    pub(super) fragment_header: Option<(usize, usize)>,
}

impl<'a> Ip<'a> {
    /// Reads a packet with its Ethernet header.
    ///
    /// # Panics
    /// If it is not a whole packet with a right header checksum.
    pub(super) fn of_frame(frame: &'a [u8]) -> Self {
        let read = match frame.get(12..14) {
            Some([0x08, 0x00]) => Self::v4(&frame[14..]),
            Some([0x86, 0xdd]) => Self::v6(&frame[14..]),
            other => Err(format!("EtherType {other:02x?}")),
        };
        let ip = read.unwrap_or_else(|what| panic!("{what}: {}", shown(frame)));
        assert_eq!(ip.missing, 0, "bytes that it announces and does not have: {}", shown(frame));
        ip
    }

    /// Reads what an ICMP error embeds.
    ///
    /// # Panics
    /// If it is no packet, or its header's checksum is wrong.
    pub(super) fn embedded(packet: &'a [u8], v4: bool) -> Self {
        let read = if v4 { Self::v4(packet) } else { Self::v6(packet) };
        read.unwrap_or_else(|what| panic!("embedded packet: {what}: {}", shown(packet)))
    }

    fn v4(packet: &'a [u8]) -> Result<Self, String> {
        let length = usize::from(packet.first().ok_or("empty")? & 15) * 4;
        let header = packet.get(..length).ok_or("cut in the IPv4 header")?;
        if header.len() < 20 || header[0] >> 4 != 4 {
            return Err(format!("IPv4 header starts with {:02x}", header[0]));
        }
        if internet(header) != 0 {
            return Err("IPv4 checksum".to_owned());
        }
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).expect("four bytes"));
        let total = usize::from(word(header, 2));
        let announced = total.checked_sub(length).ok_or("total length below the header's")?;
        let (flags, identification) = (word(header, 6), word(header, 4));
        let piece = (flags & 0x3fff != 0).then(|| Piece {
            identification: identification.into(),
            offset: usize::from(flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
        });
        let payload = &packet[length..packet.len().min(total)];
        Ok(Self {
            source: address(12),
            destination: address(16),
            hops: header[8],
            protocol: header[9],
            piece,
            payload,
            missing: announced - payload.len(),
            fragment_header: None,
        })
    }

    fn v6(packet: &'a [u8]) -> Result<Self, String> {
        let header = packet.get(..40).ok_or("cut in the IPv6 header")?;
        if header[0] >> 4 != 6 {
            return Err(format!("IPv6 header starts with {:02x}", header[0]));
        }
        let address = |at: usize| -> IpAddr {
            Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("sixteen bytes")).into()
        };
        let total = 40 + usize::from(word(header, 4));
        let mut ip = Self {
            source: address(8),
            destination: address(24),
            hops: header[7],
            protocol: header[6],
            piece: None,
            payload: &[],
            missing: total.saturating_sub(packet.len()),
            fragment_header: None,
        };
        let end = packet.len().min(total);
        ip.payload = &packet[ip.extensions(&packet[..end])?..end];
        Ok(ip)
    }

    /// Walks along the extension headers; returns where the payload begins.
    fn extensions(&mut self, packet: &[u8]) -> Result<usize, String> {
        let (mut at, mut announced_at) = (40, 6);
        loop {
            let later = self.piece.is_some_and(|piece| piece.offset > 0);
            if later || !matches!(self.protocol, 0 | 43 | 44 | 51 | 60 | 135) {
                return Ok(at);
            }
            let cut = || format!("cut in extension header {}", self.protocol);
            let bytes = packet.get(at..at + 8).ok_or_else(cut)?;
            let length = match self.protocol {
                protocol::FRAGMENT => 8,
                51 => (usize::from(bytes[1]) + 2) * 4,
                _ => (usize::from(bytes[1]) + 1) * 8,
            };
            packet.get(at..at + length).ok_or_else(cut)?;
            if self.protocol == protocol::FRAGMENT {
                self.fragment_header = Some((at, announced_at));
                self.piece = Some(Piece {
                    identification: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                    offset: usize::from(word(bytes, 2) & 0xfff8),
                    more: bytes[3] & 1 != 0,
                });
            }
            (self.protocol, announced_at) = (bytes[0], at);
            at += length;
        }
    }
}

/// Two bytes in network order.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
