//! IP headers being written.

use std::net::IpAddr;

use super::checksum::{internet, octets};

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6's fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6's "nothing follows".
    pub const NONE: u8 = 59;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Options that every hop reads.
    HopByHop = 0,
    /// Routing. With segments left, the transport checksum is for the last of them: the builder knows only 0.
    Routing = 43,
    /// Authentication header.
    Authentication = 51,
    /// Options for the destination.
    Destination = 60,
    /// Mobility.
    Mobility = 135,
}

/// An IP header of either family.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) hops: u8,
    pub(super) identification: u32,
    /// Offset in units of eight bytes, and whether more follow.
    pub(super) fragment: Option<(u16, bool)>,
    pub(super) options: Vec<u8>,
    pub(super) extensions: Vec<(Extension, Vec<u8>)>,
}

impl Header {
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{source} and {destination} are of two families");
        Self {
            source,
            destination,
            protocol,
            hops: 64,
            identification: 0,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// The header in front of `length` bytes: all of IPv4's; IPv6's with what stands in every fragment.
    pub(super) fn head(&self, length: usize) -> Vec<u8> {
        if self.source.is_ipv4() { self.v4(length) } else { self.v6(length) }
    }

    /// IPv6's extension headers behind the fragment header: they are cut with the datagram.
    pub(super) fn tail(&self) -> Vec<u8> {
        self.chain(self.per_fragment()..self.extensions.len())
    }

    fn v4(&self, length: usize) -> Vec<u8> {
        assert!(self.extensions.is_empty(), "extension headers are IPv6's");
        assert!(
            self.options.len().is_multiple_of(4) && self.options.len() <= 40,
            "IPv4 options: {:?}",
            self.options
        );
        let words = 5 + self.options.len() as u8 / 4;
        let total = usize::from(words) * 4 + length;
        let mut bytes = vec![0x40 | words, 0];
        bytes.extend(u16::try_from(total).expect("total length").to_be_bytes());
        bytes.extend((self.identification as u16).to_be_bytes());
        let fragment = match self.fragment {
            None => 0x4000, // "don't fragment", as sockets send it
            Some((offset, more)) => offset | u16::from(more) << 13,
        };
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        bytes.extend_from_slice(&self.options);
        let checksum = internet(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn v6(&self, length: usize) -> Vec<u8> {
        assert!(self.options.is_empty(), "options are IPv4's");
        let mut extensions = self.chain(0..self.per_fragment());
        if let Some((offset, more)) = self.fragment {
            extensions.extend([self.next(self.per_fragment()), 0]);
            extensions.extend((offset << 3 | u16::from(more)).to_be_bytes());
            extensions.extend(self.identification.to_be_bytes());
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(extensions.len() + length).expect("payload length").to_be_bytes());
        let fragment_comes_first = self.fragment.is_some() && self.per_fragment() == 0;
        bytes.push(if fragment_comes_first { protocol::FRAGMENT } else { self.next(0) });
        bytes.push(self.hops);
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        bytes.extend(extensions);
        bytes
    }

    /// How many extension headers stand in every fragment: up to the last that routers read (RFC 8200, 4.5).
    fn per_fragment(&self) -> usize {
        let read_by_routers = |kind: &Extension| matches!(kind, Extension::HopByHop | Extension::Routing);
        self.extensions.iter().rposition(|(kind, _)| read_by_routers(kind)).map_or(0, |last| last + 1)
    }

    /// What stands at a place among the extension headers: one of them, or the transport.
    fn next(&self, place: usize) -> u8 {
        self.extensions.get(place).map_or(self.protocol, |(kind, _)| *kind as u8)
    }

    fn chain(&self, places: std::ops::Range<usize>) -> Vec<u8> {
        let (mut bytes, last) = (Vec::new(), self.per_fragment().wrapping_sub(1));
        for place in places {
            let fragment_follows = self.fragment.is_some() && place == last;
            let next = if fragment_follows { protocol::FRAGMENT } else { self.next(place + 1) };
            let (kind, data) = &self.extensions[place];
            bytes.extend(extension(*kind, next, data));
        }
        bytes
    }
}

/// An extension header, filled up to a multiple of eight bytes.
fn extension(kind: Extension, next: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend_from_slice(data);
    let missing = bytes.len().next_multiple_of(8) - bytes.len();
    match (kind, missing) {
        (Extension::HopByHop | Extension::Destination, 2..) => {
            bytes.extend([1, missing as u8 - 2]); // PadN
            bytes.resize(bytes.len() + missing - 2, 0);
        }
        _ => bytes.resize(bytes.len() + missing, 0), // a zero is Pad1 where there are options
    }
    bytes[1] = match kind {
        Extension::Authentication => bytes.len() / 4 - 2, // RFC 4302, 2.2
        _ => bytes.len() / 8 - 1,
    } as u8;
    bytes
}
