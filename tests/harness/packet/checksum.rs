//! The checksums of the wire, computed from their RFCs and not with what the programs use.

use std::net::IpAddr;

use crc::{CRC_32_ISCSI, Crc};

const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The internet checksum (RFC 1071). Over a header that holds the right checksum it is 0.
pub fn internet(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into()));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a TCP or UDP segment or an ICMPv6 message, with its pseudo-header (RFC 9293 3.1, RFC 8200 8.1).
pub fn with_pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend((segment.len() as u32).to_be_bytes());
    // Sixteen bits of the length are zero over IPv4, so that one layout gives the sum of both.
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend_from_slice(segment);
    internet(&bytes)
}

/// The CRC32c of an SCTP packet, as it stands in its header (RFC 9260, appendix A).
pub fn sctp(packet: &[u8]) -> [u8; 4] {
    let mut digest = CASTAGNOLI.digest();
    digest.update(&packet[..8]);
    digest.update(&[0; 4]);
    digest.update(&packet[12..]);
    digest.finalize().to_le_bytes()
}

/// An address as in a header.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
