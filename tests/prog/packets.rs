//! The packet builder and reader themselves, against another implementation and the RFCs' own examples.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netpath_tests::packet::{
    ACK, ETHERNET, ErrorKind, Extension, Frame, SYN, checksum, fragments, listener_report, probe, protocol,
    reassemble, see, see_fragment, shown, solicitation,
};

const PAIRS: [[IpAddr; 2]; 2] = [
    [IpAddr::V4(Ipv4Addr::new(10, 61, 0, 2)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))],
    [
        IpAddr::V6(Ipv6Addr::new(0xfd61, 0, 0, 0, 0, 0, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9)),
    ],
];

/// Checks the transport checksum as etherparse computes it.
fn judged_by_etherparse(bytes: &[u8]) -> Result<(), String> {
    let sliced = SlicedPacket::from_ethernet(bytes).map_err(|error| format!("{error}"))?;
    let (found, wanted) = match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(transport)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
            match transport {
                TransportSlice::Tcp(tcp) => {
                    (tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()))
                }
                TransportSlice::Udp(udp) => {
                    (udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()))
                }
                TransportSlice::Icmpv4(icmp) => {
                    let kind = icmp.icmp_type();
                    let wanted = etherparse::Icmpv4Header::with_checksum(kind, icmp.payload());
                    (icmp.checksum(), Ok(wanted.checksum))
                }
                other => return Err(format!("{other:?}")),
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(transport)) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    (tcp.checksum(), tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()))
                }
                TransportSlice::Udp(udp) => {
                    (udp.checksum(), udp.to_header().calc_checksum_ipv6(&header, udp.payload()))
                }
                TransportSlice::Icmpv6(icmp) => {
                    let right = icmp.is_checksum_valid(header.source, header.destination);
                    (u16::from(right), Ok(1))
                }
                other => return Err(format!("{other:?}")),
            }
        }
        other => return Err(format!("{other:?}")),
    };
    let wanted = wanted.map_err(|error| format!("{error}"))?;
    (found == wanted).then_some(()).ok_or(format!("checksum {found:04x}, not {wanted:04x}: {}", shown(bytes)))
}

#[test]
fn what_is_built_is_right_for_another_implementation() {
    for [a, b] in PAIRS {
        let offending = Frame::udp((b, 53), (a, 1000)).packet();
        let mut frames = vec![
            Frame::tcp((a, 1000), (b, 443), SYN),
            Frame::udp((a, 1000), (b, 53)).payload(vec![0xff; 1001]),
            Frame::echo(a, b, true, 7, 1),
            Frame::echo(a, b, false, 7, 1),
            Frame::error(a, b, ErrorKind::TooBig(1400), &offending, 48),
            Frame::error(a, b, ErrorKind::ParameterProblem(0, 20), &offending, usize::MAX),
        ];
        if a.is_ipv4() {
            frames.push(Frame::tcp((a, 1000), (b, 443), ACK).options(&[1; 8]));
            frames.push(Frame::error(a, b, ErrorKind::SourceQuench, &offending, 28));
        } else {
            frames.push(
                Frame::udp((a, 1000), (b, 53))
                    .extension(Extension::HopByHop, &[5, 2, 0, 0])
                    .extension(Extension::Routing, &[4, 0, 0, 0, 0, 0])
                    .extension(Extension::Authentication, &[0; 22])
                    .extension(Extension::Destination, &[]),
            );
            frames.push(solicitation([2; 6], a, b, Some([2; 6])));
            frames.push(probe([2; 6], a));
            frames.push(listener_report([2; 6], a, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)));
        }
        for frame in frames {
            let bytes = frame.clone().bytes();
            judged_by_etherparse(&bytes).unwrap_or_else(|what| panic!("{what}: {frame:?}"));
            see(&bytes);
        }
    }
}

#[test]
fn the_sctp_checksum_is_castagnolis() {
    // RFC 3720, B.4: 32 bytes of zeroes; here behind a header of zeroes, whose place of the sum counts as zeroes too.
    assert_eq!(checksum::sctp(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    for [a, b] in PAIRS {
        let frame = Frame::sctp((a, 5000), (b, 6000)).bytes();
        let seen = see(&frame);
        assert_eq!((seen.protocol, seen.source_port, seen.destination_port), (protocol::SCTP, 5000, 6000));
    }
}

#[test]
fn wrong_checksums_are_seen() {
    for [a, b] in PAIRS {
        let offending = Frame::tcp((b, 443), (a, 1000), SYN).packet();
        let header = ETHERNET + if a.is_ipv4() { 20 } else { 40 };
        let error = Frame::error(a, b, ErrorKind::Unreachable(3), &offending, usize::MAX);
        let rows = [
            ("TCP", Frame::tcp((a, 1000), (b, 443), SYN), header + 4),
            ("UDP", Frame::udp((a, 1000), (b, 53)), header + 8),
            ("echo", Frame::echo(a, b, true, 7, 1), header + 4),
            ("SCTP", Frame::sctp((a, 1), (b, 2)), header + 4),
            ("address", Frame::udp((a, 1000), (b, 53)), header - 1),
            ("error", error.clone(), header + 8),
        ];
        for (name, frame, at) in rows {
            let mut bytes = frame.bytes();
            bytes[at] ^= 1;
            assert!(std::panic::catch_unwind(|| see(&bytes)).is_err(), "{name} of {a}");
        }
        // Right outside, wrong inside.
        let mut packet = offending.clone();
        let last = packet.len() - 1;
        packet[last] ^= 1;
        let wrong_inside = Frame::error(a, b, ErrorKind::Unreachable(3), &packet, usize::MAX).bytes();
        assert!(std::panic::catch_unwind(|| see(&wrong_inside)).is_err(), "embedded packet of {a}");
        let cut = Frame::error(a, b, ErrorKind::Unreachable(3), &packet, packet.len() - 1).bytes();
        see(&cut);
    }
}

#[test]
fn errors_show_what_they_are_about() {
    for [a, b] in PAIRS {
        let offending = Frame::udp((b, 53), (a, 1000)).ttl(9).packet();
        let header = if a.is_ipv4() { 20 } else { 40 };
        let seen = see(&Frame::error(b, a, ErrorKind::TooBig(1300), &offending, header + 8).bytes());
        let inner = seen.inner.unwrap_or_else(|| panic!("an embedded packet in an error to {a}"));
        assert_eq!((inner.source, inner.destination, inner.ttl, inner.mtu), (b, a, 9, 1300));
        assert_eq!((inner.protocol, inner.source_port, inner.destination_port), (protocol::UDP, 53, 1000));
        assert_eq!(inner.segment, offending[header..header + 8]);
        let checksum = u16::from_be_bytes([offending[header + 6], offending[header + 7]]);
        assert_eq!(inner.checksum, Some(checksum.into()));
        let tcp = Frame::tcp((b, 443), (a, 1000), SYN).packet();
        let inner = see(&Frame::error(b, a, ErrorKind::TimeExceeded(0), &tcp, header + 8).bytes()).inner;
        assert_eq!(inner.expect("an embedded packet").checksum, None, "eight bytes of TCP end before it");
    }
}

#[test]
fn fragments_make_up_their_datagram() {
    for [a, b] in PAIRS {
        let payload: Vec<u8> = (0..16_000u32).map(|n| (n / 7) as u8).collect();
        let mut frames = vec![
            Frame::udp((a, 1000), (b, 53)).payload(payload.clone()),
            Frame::echo(a, b, true, 7, 1).payload(payload.clone()),
            Frame::sctp((a, 1000), (b, 53)).payload(payload.clone()),
        ];
        if a.is_ipv4() {
            frames.push(Frame::udp((a, 1000), (b, 53)).payload(payload.clone()).options(&[1; 12]));
        } else {
            frames.push(
                Frame::udp((a, 1000), (b, 53))
                    .payload(payload.clone())
                    .extension(Extension::HopByHop, &[5, 2, 0, 0])
                    .extension(Extension::Destination, &[]),
            );
        }
        for frame in frames {
            let mut pieces = fragments(frame.clone().identification(0x1234), 1500);
            assert!(pieces.iter().all(|piece| piece.len() <= 1514), "{frame:?}");
            assert_eq!(see_fragment(&pieces[3]).1.identification, 0x1234);
            pieces.reverse();
            let whole = reassemble(&pieces);
            let mut wanted = frame.identification(if a.is_ipv4() { 0x1234 } else { 0 }).bytes();
            see(&whole);
            if a.is_ipv4() {
                // "Don't fragment" and the checksum over it.
                wanted[20] = 0;
                wanted[24..26].copy_from_slice(&whole[24..26]);
            }
            assert_eq!(whole, wanted);
        }
    }
}
