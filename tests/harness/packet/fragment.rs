//! Datagrams in pieces.

use super::{
    ETHERNET,
    checksum::internet,
    frame::Frame,
    read::Ip,
    see::{Seen, see},
};

/// Which piece of a datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The same in all pieces of a datagram.
    pub identification: u32,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Whether more follow.
    pub more: bool,
}

/// A datagram, with a checksum over the whole, cut for an MTU. IPv4 options stand in every piece.
///
/// # Panics
/// If it fits.
pub fn fragments(mut frame: Frame, mtu: usize) -> Vec<Vec<u8>> {
    frame.ip.fragment = Some((0, true));
    let (ethernet, body) = (frame.ethernet(), frame.body());
    let room = (mtu - frame.ip.head(0).len()) & !7;
    let last = body.len().div_ceil(room) - 1;
    assert!(last > 0, "{} bytes need no fragments", body.len());
    let cut = |(n, piece): (usize, &[u8])| {
        frame.ip.fragment = Some(((n * room / 8) as u16, n < last));
        [ethernet.clone(), frame.ip.head(piece.len()), piece.to_vec()].concat()
    };
    body.chunks(room).enumerate().map(cut).collect()
}

/// Reads a fragment: only its IP header can be checked.
///
/// # Panics
/// If it is none, or its header's checksum is wrong.
pub fn see_fragment(bytes: &[u8]) -> (Seen, Piece) {
    let seen = see(bytes);
    let piece = seen.piece.unwrap_or_else(|| panic!("not a fragment: {seen:?}"));
    (seen, piece)
}

/// The datagram that fragments make up, in the Ethernet header of the first, so that [`see`] checks its checksum.
///
/// # Panics
/// If a piece is missing, or they are not of one datagram.
pub fn reassemble(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<_> = frames.iter().map(|frame| (see_fragment(frame), frame)).collect();
    pieces.sort_by_key(|((_, piece), _)| piece.offset);
    let ((first, first_piece), head) = pieces.first().expect("a fragment");
    let mut body = Vec::new();
    for (n, ((seen, piece), frame)) in pieces.iter().enumerate() {
        assert_eq!(
            (seen.source, seen.destination, piece.identification),
            (first.source, first.destination, first_piece.identification),
            "piece {n} of one datagram: {seen:?}"
        );
        assert_eq!(piece.offset, body.len(), "where piece {n} begins: {seen:?}");
        assert_eq!(piece.more, n + 1 < pieces.len(), "whether more follow piece {n}: {seen:?}");
        body.extend_from_slice(behind_fragmentation(frame));
    }
    let mut whole = without_fragmentation(head);
    whole.extend_from_slice(&body);
    set_length(&mut whole);
    whole
}

/// The piece of the datagram that a fragment carries.
fn behind_fragmentation(frame: &[u8]) -> &[u8] {
    let ip = Ip::of_frame(frame);
    let end = ip.payload.as_ptr_range().end as usize - frame.as_ptr() as usize;
    match ip.fragment_header {
        Some((at, _)) => &frame[ETHERNET + at + 8..end],
        None => ip.payload,
    }
}

/// A fragment's headers as the whole datagram has them.
fn without_fragmentation(frame: &[u8]) -> Vec<u8> {
    let ip = Ip::of_frame(frame);
    let Some((at, announced_at)) = ip.fragment_header else {
        let length = usize::from(frame[ETHERNET] & 15) * 4;
        let mut headers = frame[..ETHERNET + length].to_vec();
        headers[ETHERNET + 6..ETHERNET + 8].fill(0);
        return headers;
    };
    let mut headers = frame[..ETHERNET + at].to_vec();
    headers[ETHERNET + announced_at] = frame[ETHERNET + at];
    headers
}

/// Sets the length of a packet to what is there, and IPv4's checksum.
fn set_length(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET..];
    let length = |bytes: usize| u16::try_from(bytes).expect("length").to_be_bytes();
    if packet[0] >> 4 == 6 {
        let payload = length(packet.len() - 40);
        packet[4..6].copy_from_slice(&payload);
        return;
    }
    let (total, header) = (length(packet.len()), usize::from(packet[0] & 15) * 4);
    packet[2..4].copy_from_slice(&total);
    packet[10..12].fill(0);
    let checksum = internet(&packet[..header]).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
}
