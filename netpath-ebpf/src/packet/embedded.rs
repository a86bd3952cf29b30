//! The packet that an ICMP error embeds (RFC 792; RFC 4443, 3; RFC 5508, 4).

use netpath_common::{
    abi::{Addr, DropReason},
    logic::checksum::{replace_u16, replace_u32},
};

use super::{
    AnyPacket, ETHERNET, Headers, ICMP, IPV4_HEADER, IPV6_HEADER, MAX_OFFSET, Part, SCTP, TCP, UDP, bounded,
    extension, is_icmp,
    rewrite::{self, Translation},
    tc::Packet,
    transport,
};

/// Bytes of an ICMP error before what it embeds.
const ICMP_HEADER: u16 = 8;
/// Bytes of the embedded transport header up to the end of TCP's checksum.
const UP_TO_TCP_CHECKSUM: usize = 18;

/// Reads the embedded headers into `inner`; false if they do not tell a flow: too short, a later part of a datagram, a
/// protocol without ports. Only the first eight bytes of the transport header need be there (RFC 792); `total_length`
/// becomes how many are.
///
/// Of a later part no pod is told: over IPv4 no router says anything about one (RFC 1812, 4.3.2.7), over IPv6 the sender's
/// kernel, too, takes what stands there for ports and finds no socket. The first part is as large and goes the same way: it
/// gets an error of its own.
#[inline(always)]
pub fn read(packet: &Packet, outer: &Headers, inner: &mut Headers) -> bool {
    let start = outer.transport_offset + ICMP_HEADER;
    inner.v6 = outer.v6;
    let found = if outer.v6 { ipv6(packet, start, inner) } else { ipv4(packet, start, inner) };
    // What lies behind the error itself, such as padding, is none of it: its checksum does not cover it.
    let end = ETHERNET as u32 + outer.total_length;
    inner.total_length = end.saturating_sub(inner.transport_offset.into());
    // Behind more extension headers than anybody sends: `bounded` would point elsewhere.
    let reachable = inner.transport_offset <= MAX_OFFSET - UP_TO_TCP_CHECKSUM as u16;
    found && reachable && inner.part != Part::Later && inner.total_length >= 8 && ports(packet, inner)
}

#[inline(always)]
fn ipv4(packet: &Packet, start: u16, inner: &mut Headers) -> bool {
    let start_at = bounded(start);
    packet.pull(start_at as u32 + 60 + UP_TO_TCP_CHECKSUM as u32);
    let Some(ip) = packet.window::<IPV4_HEADER>(start_at) else { return false };
    let version_and_length: u8 = ip.get::<u8, 0>();
    let length = u16::from(version_and_length & 0xf) * 4;
    if version_and_length >> 4 != 4 || length < IPV4_HEADER as u16 {
        return false;
    }
    if u16::from_be(ip.get::<u16, 6>()) & 0x1fff != 0 {
        inner.part = Part::Later;
    }
    inner.key.proto = ip.get::<u8, 9>();
    inner.key.src = Addr::from_v4_be(ip.get::<u32, 12>());
    inner.key.dst = Addr::from_v4_be(ip.get::<u32, 16>());
    inner.transport_offset = start + length;
    true
}

#[inline(always)]
fn ipv6(packet: &Packet, start: u16, inner: &mut Headers) -> bool {
    let start_at = bounded(start);
    packet.pull(start_at as u32 + (IPV6_HEADER + UP_TO_TCP_CHECKSUM) as u32);
    let Some(ip) = packet.window::<IPV6_HEADER>(start_at) else { return false };
    if ip.get::<u8, 0>() >> 4 != 6 {
        return false;
    }
    inner.key.proto = ip.get::<u8, 6>();
    inner.key.src = Addr([ip.get::<u32, 8>(), ip.get::<u32, 12>(), ip.get::<u32, 16>(), ip.get::<u32, 20>()]);
    inner.key.dst =
        Addr([ip.get::<u32, 24>(), ip.get::<u32, 28>(), ip.get::<u32, 32>(), ip.get::<u32, 36>()]);
    inner.transport_offset = start + IPV6_HEADER as u16;
    !extension::follows(inner.key.proto) || extension::skip(packet, inner) != extension::DAMAGED
}

#[inline(always)]
fn ports(packet: &Packet, inner: &mut Headers) -> bool {
    let offset = bounded(inner.transport_offset);
    packet.pull(offset as u32 + UP_TO_TCP_CHECKSUM as u32);
    let Some(header) = packet.window::<8>(offset) else { return false };
    match inner.key.proto {
        TCP | UDP | SCTP => {
            (inner.key.sport, inner.key.dport) = (header.get::<u16, 0>(), header.get::<u16, 2>());
            true
        }
        proto if is_icmp(proto) => {
            inner.icmp_type = header.get::<u8, 0>();
            inner.key.sport = header.get::<u16, 4>();
            inner.key.dport = inner.key.sport;
            transport::is_echo(proto, inner.icmp_type)
        }
        _ => false,
    }
}

/// Translates an error with what it embeds. The embedded packet went the other way: where the error's destination
/// changes, it is the embedded source.
///
/// Not inlined: its stack would stand beneath that of reading the headers.
#[inline(never)]
pub fn translate(
    packet: &Packet,
    outer: &Headers,
    inner: &Headers,
    translation: &Translation,
) -> Result<(), DropReason> {
    rewrite::address(packet, outer, translation.source, &translation.addr)?;
    // ICMPv6 has a pseudo-header.
    let old = if translation.source { &outer.key.src } else { &outer.key.dst };
    let mut sum = Sum(icmp_checksum(packet, outer)?);
    if outer.v6 {
        sum.words(old, &translation.addr);
    }
    let inner_source = !translation.source;
    let before = if inner_source { &inner.key.src } else { &inner.key.dst };
    address(packet, outer, inner_source, before, &translation.addr, &mut sum)?;
    port_and_checksum(packet, inner, inner_source, translation, &mut sum)?;
    let mut icmp = packet.window::<8>(outer.transport_start()).ok_or(DropReason::Malformed)?;
    icmp.set::<u16, 2>(sum.0);
    Ok(())
}

/// A checksum that follows what changes under it.
struct Sum(u16);

impl Sum {
    #[inline(always)]
    fn word(&mut self, old: u16, new: u16) {
        self.0 = replace_u16(self.0, old, new);
    }

    #[inline(always)]
    fn words(&mut self, old: &Addr, new: &Addr) {
        for (old, new) in old.0.iter().zip(&new.0) {
            self.0 = replace_u32(self.0, *old, *new);
        }
    }
}

#[inline(always)]
fn icmp_checksum(packet: &Packet, outer: &Headers) -> Result<u16, DropReason> {
    let icmp = packet.window::<8>(outer.transport_start()).ok_or(DropReason::Malformed)?;
    Ok(icmp.get::<u16, 2>())
}

/// Writes one address of the embedded IP header, of IPv4 its checksum as well.
#[inline(always)]
fn address(
    packet: &Packet,
    outer: &Headers,
    source: bool,
    old: &Addr,
    new: &Addr,
    sum: &mut Sum,
) -> Result<(), DropReason> {
    let start = bounded(outer.transport_offset + ICMP_HEADER);
    sum.words(old, new);
    if outer.v6 {
        // Sixteen bytes from byte 8 (source) or 24 (destination) on.
        let at = if source { 8 } else { 24 };
        let mut ip = packet.window::<16>(start + at).ok_or(DropReason::Malformed)?;
        ip.set::<u32, 0>(new.0[0]);
        ip.set::<u32, 4>(new.0[1]);
        ip.set::<u32, 8>(new.0[2]);
        ip.set::<u32, 12>(new.0[3]);
        return Ok(());
    }
    let mut ip = packet.window::<IPV4_HEADER>(start).ok_or(DropReason::Malformed)?;
    if source {
        ip.set::<u32, 12>(new.v4_be());
    } else {
        ip.set::<u32, 16>(new.v4_be());
    }
    let check: u16 = ip.get::<u16, 10>();
    let corrected = replace_u32(check, old.v4_be(), new.v4_be());
    sum.word(check, corrected);
    ip.set::<u16, 10>(corrected);
    Ok(())
}

/// Writes the embedded port or identifier, and the embedded transport checksum where it is there.
#[inline(always)]
fn port_and_checksum(
    packet: &Packet,
    inner: &Headers,
    source: bool,
    translation: &Translation,
    sum: &mut Sum,
) -> Result<(), DropReason> {
    let (offset, proto, port) = (bounded(inner.transport_offset), inner.key.proto, translation.port);
    let mut header = packet.window::<8>(offset).ok_or(DropReason::Malformed)?;
    let (old, before) =
        if source { (inner.key.sport, &inner.key.src) } else { (inner.key.dport, &inner.key.dst) };
    sum.word(old, port);
    if is_icmp(proto) {
        header.set::<u16, 4>(port);
    } else if source {
        header.set::<u16, 0>(port);
    } else {
        header.set::<u16, 2>(port);
    }
    let correct = |check: u16| {
        let mut own = Sum(replace_u16(check, old, port));
        // ICMP for IPv4 has no pseudo-header.
        if proto != ICMP {
            own.words(before, &translation.addr);
        }
        own.0
    };
    match proto {
        UDP => {
            let check: u16 = header.get::<u16, 6>();
            // None stays none, and a sum of 0 is written as all ones (RFC 768).
            if check != 0 {
                let corrected = correct(check);
                let corrected = if corrected == 0 { u16::MAX } else { corrected };
                sum.word(check, corrected);
                header.set::<u16, 6>(corrected);
            }
        }
        TCP => {
            if inner.total_length < UP_TO_TCP_CHECKSUM as u32 {
                return Ok(());
            }
            if let Some(mut header) = packet.window::<UP_TO_TCP_CHECKSUM>(offset) {
                let check: u16 = header.get::<u16, 16>();
                let corrected = correct(check);
                sum.word(check, corrected);
                header.set::<u16, 16>(corrected);
            }
        }
        // CRC32c over the ports alone, which stay.
        SCTP => {}
        _ => {
            let check: u16 = header.get::<u16, 2>();
            let corrected = correct(check);
            sum.word(check, corrected);
            header.set::<u16, 2>(corrected);
        }
    }
    Ok(())
}
