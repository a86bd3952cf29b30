//! Neighbour discovery (RFC 4861), duplicate address detection (RFC 4862) and multicast listener reports (RFC 3810).

use std::net::{IpAddr, Ipv6Addr};

use super::{
    ETHERNET,
    frame::Frame,
    header::Extension,
    see::{Seen, see},
};

/// Flag of an advertisement: sent by a router.
pub const ROUTER: u8 = 0x80;
/// Flag of an advertisement: the answer to a solicitation.
pub const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: overrides what a cache holds.
pub const OVERRIDE: u8 = 0x20;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// A neighbour solicitation to the target's solicited-node group, perhaps with the source's link-layer address.
pub fn solicitation(
    source_mac: [u8; 6],
    source: impl Into<IpAddr>,
    target: impl Into<IpAddr>,
    link_address: Option<[u8; 6]>,
) -> Frame {
    let target = v6(target);
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    message(source_mac, v6(source), group, 135, 0).payload([body(target), option(1, link_address)].concat())
}

/// Duplicate address detection: does anybody have this address?
pub fn probe(source_mac: [u8; 6], target: impl Into<IpAddr>) -> Frame {
    solicitation(source_mac, Ipv6Addr::UNSPECIFIED, target, None)
}

/// A neighbour advertisement.
pub fn advertisement(
    source_mac: [u8; 6],
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    target: impl Into<IpAddr>,
    flags: u8,
) -> Frame {
    let payload = [body(v6(target)), option(2, Some(source_mac))].concat();
    message(source_mac, v6(source), v6(destination), 136, flags).payload(payload)
}

/// A router solicitation.
pub fn router_solicitation(
    source_mac: [u8; 6],
    source: impl Into<IpAddr>,
    link_address: Option<[u8; 6]>,
) -> Frame {
    message(source_mac, v6(source), ALL_ROUTERS, 133, 0).payload(option(1, link_address))
}

/// A router advertisement to all nodes, for half an hour and without a prefix.
pub fn router_advertisement(source_mac: [u8; 6], source: impl Into<IpAddr>) -> Frame {
    let frame = Frame::message(v6(source), ALL_NODES, [134, 0], [64, 0, 0x07, 0x08]);
    let payload = [vec![0; 8], option(1, Some(source_mac))].concat();
    frame.macs(source_mac, group_mac(ALL_NODES)).ttl(255).payload(payload)
}

/// An MLDv2 report: the source joined a group.
pub fn listener_report(source_mac: [u8; 6], source: impl Into<IpAddr>, group: Ipv6Addr) -> Frame {
    let record = [&[4, 0, 0, 0][..], &group.octets()].concat();
    Frame::message(v6(source), ALL_REPORTS, [143, 0], [0, 0, 0, 1])
        .macs(source_mac, group_mac(ALL_REPORTS))
        .ttl(1)
        .extension(Extension::HopByHop, &[5, 2, 0, 0]) // router alert
        .payload(record)
}

/// What a neighbour advertisement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The packet around it.
    pub seen: Seen,
    /// [`ROUTER`], [`SOLICITED`], [`OVERRIDE`].
    pub flags: u8,
    /// Whose address.
    pub target: IpAddr,
    /// The target's link-layer address.
    pub link_address: Option<[u8; 6]>,
}

/// Reads a neighbour advertisement.
///
/// # Panics
/// If it is none, or a checksum is wrong, or its hop limit is not 255.
pub fn see_advertisement(bytes: &[u8]) -> Advertised {
    let seen = see(bytes);
    let icmp = seen.icmp.unwrap_or_else(|| panic!("not ICMPv6: {seen:?}"));
    assert_eq!((icmp.numbers, seen.ttl), ([136, 0], 255), "type, code and hop limit of {seen:?}");
    let body = &bytes[ETHERNET + 40 + 8..];
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&body[..16]).expect("target"));
    let link_address = match &body[16..] {
        [] => None,
        [2, 1, mac @ ..] if mac.len() == 6 => Some(mac.try_into().expect("six bytes")),
        other => panic!("options of an advertisement: {other:02x?}"),
    };
    let flags = (icmp.word >> 24) as u8;
    Advertised { seen, flags, target: target.into(), link_address }
}

fn message(source_mac: [u8; 6], source: Ipv6Addr, destination: Ipv6Addr, kind: u8, flags: u8) -> Frame {
    // Unicast goes to the host end, whose MAC the caller sets.
    let destination_mac = if destination.is_multicast() { group_mac(destination) } else { [0; 6] };
    Frame::message(source, destination, [kind, 0], [flags, 0, 0, 0])
        .macs(source_mac, destination_mac)
        .ttl(255)
}

fn body(target: Ipv6Addr) -> Vec<u8> {
    target.octets().to_vec()
}

fn option(kind: u8, link_address: Option<[u8; 6]>) -> Vec<u8> {
    link_address.map_or(Vec::new(), |mac| [&[kind, 1][..], &mac].concat())
}

/// The MAC of an IPv6 group (RFC 2464, 7).
fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn v6(address: impl Into<IpAddr>) -> Ipv6Addr {
    let address = address.into();
    let IpAddr::V6(v6) = address else { panic!("neighbour discovery is IPv6's, not {address}'s") };
    v6
}
