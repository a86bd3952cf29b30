//! Packets for a dry run: made, and read again. Checksums are left out: no program looks at them, and nothing is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, PacketBuilder};

use crate::{agent::events::protocol_name, api::types::TracedPacket, datapath::MAX_FRAME, model::Mac};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

const ETHERNET: usize = 14;
/// Hops of a packet that says nothing else: Linux's.
pub(super) const HOPS: u8 = 64;

/// A packet to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) protocol: u8,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) ttl: u8,
    /// Length of the IP packet, bytes; as short as can be if absent.
    pub(super) size: Option<u16>,
    /// The answer to another: decides about TCP's flags and an echo's type.
    pub(super) is_answer: bool,
}

impl Packet {
    /// The packet in an Ethernet frame. Fails if its size cannot be, or its addresses are of two families.
    pub(super) fn frame(&self, source: Mac, destination: Mac) -> Result<Vec<u8>, String> {
        let mut payload = self.transport();
        let (ethernet, mut frame) = (PacketBuilder::ethernet2(source.0, destination.0), Vec::new());
        let ip = match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), self.ttl)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), self.ttl)
            }
            (source, destination) => return Err(format!("{source} and {destination} are of two families")),
        };
        let least = ip.size(payload.len()) - ETHERNET;
        let size = self.size.map_or(least, usize::from);
        if size < least || size + ETHERNET > MAX_FRAME {
            let most = MAX_FRAME - ETHERNET;
            return Err(format!("a size of {size} bytes: this packet may have {least} to {most}"));
        }
        payload.resize(payload.len() + size - least, 0);
        if self.protocol == UDP {
            let length = payload.len() as u16;
            payload[4..6].copy_from_slice(&length.to_be_bytes());
        }
        ip.write(&mut frame, IpNumber(self.protocol), &payload).map_err(|error| error.to_string())?;
        Ok(frame)
    }

    /// The transport header.
    fn transport(&self) -> Vec<u8> {
        let [[s0, s1], [d0, d1]] = [self.source.1, self.destination.1].map(u16::to_be_bytes);
        match self.protocol {
            // SYN, or SYN and ACK; no options.
            TCP => {
                let flags = if self.is_answer { 0x12 } else { 0x02 };
                vec![s0, s1, d0, d1, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]
            }
            UDP => vec![s0, s1, d0, d1, 0, 8, 0, 0],
            // No chunk.
            SCTP => vec![s0, s1, d0, d1, 0, 0, 0, 0, 0, 0, 0, 0],
            ICMP => vec![if self.is_answer { 0 } else { 8 }, 0, 0, 0, s0, s1, 0, 1],
            ICMPV6 => vec![if self.is_answer { 129 } else { 128 }, 0, 0, 0, s0, s1, 0, 1],
            _ => vec![0; 8],
        }
    }

    /// The answer to a packet as it was at its end.
    pub(super) fn answer_to(packet: &TracedPacket, protocol: u8) -> Self {
        Self {
            protocol,
            source: (packet.destination, packet.destination_port),
            destination: (packet.source, packet.source_port),
            ttl: HOPS,
            size: None,
            is_answer: true,
        }
    }
}

/// Reads a packet that was made here, whatever a program has done to it. `None` if it is damaged.
pub(super) fn read(frame: &[u8]) -> Option<TracedPacket> {
    let ip = frame.get(ETHERNET..)?;
    let word = |at: usize| Some(u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?));
    let v4 = |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?)));
    let v6 = |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?)));
    let is_v4 = ip.first()? >> 4 == 4;
    let (protocol, ttl, transport) =
        if is_v4 { (*ip.get(9)?, *ip.get(8)?, 20) } else { (*ip.get(6)?, *ip.get(7)?, 40) };
    let (source, destination) = if is_v4 { (v4(12)?, v4(16)?) } else { (v6(8)?, v6(24)?) };
    let (source_port, destination_port) = match protocol {
        TCP | UDP | SCTP => (word(transport)?, word(transport + 2)?),
        ICMP | ICMPV6 => (word(transport + 4)?, word(transport + 4)?),
        _ => (0, 0),
    };
    let protocol = protocol_name(protocol);
    Some(TracedPacket {
        protocol,
        source,
        source_port,
        destination,
        destination_port,
        length: ip.len() as u32,
        ttl,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [(&str, &str); 2] = [("10.0.0.1", "192.0.2.9"), ("fd00::1", "2001:db8::9")];

    fn packet(protocol: u8, (source, destination): (&str, &str)) -> Packet {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Packet {
            protocol,
            source: (source, 7),
            destination: (destination, 80),
            ttl: 9,
            size: None,
            is_answer: false,
        }
    }

    #[test]
    fn what_is_made_reads_the_same_and_its_answer_the_other_way_round() {
        for ends in ENDS {
            for protocol in [ICMP, TCP, UDP, ICMPV6, SCTP] {
                let made = packet(protocol, ends);
                let frame = made.frame(Mac([2; 6]), Mac([4; 6])).unwrap();
                let read = read(&frame).unwrap();
                let is_echo = matches!(protocol, ICMP | ICMPV6);
                assert_eq!((read.source, read.source_port), made.source);
                assert_eq!(read.destination, made.destination.0);
                assert_eq!(read.destination_port, if is_echo { 7 } else { 80 });
                assert_eq!((read.ttl, read.length as usize), (9, frame.len() - ETHERNET));
                let answer = Packet::answer_to(&read, protocol);
                assert_eq!((answer.source.0, answer.destination), (made.destination.0, made.source));
                let parsed = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
                assert_eq!(parsed.transport.is_some(), protocol != SCTP, "{parsed:?}");
            }
        }
    }

    #[test]
    fn sizes_are_met_or_refused() {
        for ends in ENDS {
            let sized =
                |size| Packet { size: Some(size), ..packet(UDP, ends) }.frame(Mac([2; 6]), Mac([4; 6]));
            assert_eq!(read(&sized(1400).unwrap()).unwrap().length, 1400);
            for size in [0, 20, 65_535] {
                assert!(sized(size).unwrap_err().contains("48 to 3486") || !ends.0.contains('f'), "{size}");
            }
        }
        let mixed = packet(UDP, ("10.0.0.1", "fd00::1")).frame(Mac([2; 6]), Mac([4; 6]));
        assert!(mixed.unwrap_err().contains("two families"));
    }
}
