//! ARP.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header};

/// An ARP packet for IPv4.
///
/// # Panics
/// If an address is IPv6.
pub fn arp(
    request: bool,
    frame_source: [u8; 6],
    sender: ([u8; 6], impl Into<IpAddr>),
    target: impl Into<IpAddr>,
) -> Vec<u8> {
    let operation = if request { ArpOperation::REQUEST } else { ArpOperation::REPLY };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &v4(sender.1.into()).octets(),
        &[0; 6],
        &v4(target.into()).octets(),
    )
    .expect("ARP packet");
    let ethernet =
        Ethernet2Header { source: frame_source, destination: [0xff; 6], ether_type: EtherType::ARP };
    [ethernet.to_bytes().to_vec(), packet.to_bytes().to_vec()].concat()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(v4) = address else { panic!("ARP is IPv4's, not {address}'s") };
    v4
}
