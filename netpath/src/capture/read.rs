//! What a captured packet is.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use etherparse::{Ipv6ExtensionSlice, LaxIpSlice};

use crate::api::types::Protocol;

const ETHERNET: usize = 14;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// Addresses and ports. An echo has its identifier in both places; what has no ports has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Who sends.
    pub source: (IpAddr, u16),
    /// Whom it is for.
    pub destination: (IpAddr, u16),
}

impl Tuple {
    /// The other way round.
    pub(super) fn reversed(&self) -> Self {
        Self { source: self.destination, destination: self.source, ..*self }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source: (from, sport), destination: (to, dport) } = *self;
        write!(f, "{} ", Protocol(protocol))?;
        match protocol {
            ICMP | ICMPV6 if sport != 0 => write!(f, "{from} > {to} id {sport}"),
            TCP | UDP | SCTP => {
                write!(f, "{} > {}", SocketAddr::new(from, sport), SocketAddr::new(to, dport))
            }
            _ => write!(f, "{from} > {to}"),
        }
    }
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What its parts have in common.
    pub(super) datagram: (IpAddr, IpAddr, u32),
    /// Whether it is the first, with the ports.
    pub(super) is_first: bool,
}

/// An IP packet, read as far as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) tuple: Tuple,
    pub(super) part: Option<Part>,
    /// What an ICMP error is about.
    pub(super) about: Option<Tuple>,
    /// TCP's flags.
    pub(super) flags: String,
}

impl Read {
    /// Reads a frame; `None` if it is no IP packet, or damaged.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::ip(frame.get(ETHERNET..)?),
            _ => None,
        }
    }

    fn ip(packet: &[u8]) -> Option<Self> {
        let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
        let (source, destination) = (ip.source_addr(), ip.destination_addr());
        let part = part(&ip);
        let (protocol, payload) = (ip.payload_ip_number().0, ip.payload().payload);
        let payload = if part.is_some_and(|part| !part.is_first) { &[] } else { payload };
        let word =
            |at: usize| payload.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        let kind = payload.first().copied().unwrap_or(u8::MAX);
        let (sport, dport) = match (protocol, kind) {
            (TCP | UDP | SCTP, _) => (word(0), word(2)),
            (ICMP, 0 | 8) | (ICMPV6, 128 | 129) => (word(4), word(4)),
            _ => (0, 0),
        };
        let tuple = Tuple { protocol, source: (source, sport), destination: (destination, dport) };
        // RFC 792 and RFC 4443: what they are about stands behind eight bytes.
        let about = match (protocol, kind) {
            (ICMP, 3 | 4 | 5 | 11 | 12) | (ICMPV6, 1..=4) => payload.get(8..).and_then(Self::ip),
            _ => None,
        };
        let flags = if protocol == TCP { payload.get(13).map(|bits| flags(*bits)) } else { None };
        let about = about.map(|about| about.tuple);
        Some(Self { tuple, part, about, flags: flags.unwrap_or_default() })
    }
}

fn part(ip: &LaxIpSlice<'_>) -> Option<Part> {
    let (is_part, identification, is_first) = match ip {
        LaxIpSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                ip.is_payload_fragmented(),
                header.identification().into(),
                header.fragments_offset().value() == 0,
            )
        }
        LaxIpSlice::Ipv6(ip) => {
            let header = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment),
                _ => None,
            })?;
            (true, header.identification(), header.fragment_offset().value() == 0)
        }
    };
    let datagram = (ip.source_addr(), ip.destination_addr(), identification);
    is_part.then_some(Part { datagram, is_first })
}

/// Flags as tcpdump writes them.
fn flags(bits: u8) -> String {
    [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x10, '.')]
        .into_iter()
        .filter_map(|(bit, letter)| (bits & bit != 0).then_some(letter))
        .collect()
}
