//! IPv6 extension headers (RFC 8200, 4).

use super::{AnyPacket, Headers, Part, bounded};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// "Nothing follows" (RFC 8200, 4.7): what a chain too long to walk is taken for.
pub const NO_NEXT_HEADER: u8 = 59;

/// Headers that are walked. A longer chain ends in "anything else": it reaches pods, and cannot be translated.
const MAX_HEADERS: u32 = 8;
/// Bytes of extension headers that are walked, so that offsets stay below what `bounded` allows.
const MAX_LENGTH: u32 = 384;

/// The answer of [`skip`] for a chain that the packet ends in the middle of.
pub const DAMAGED: u32 = u32::MAX;

/// Whether an extension header stands where a transport header could.
#[inline(always)]
pub const fn follows(proto: u8) -> bool {
    matches!(proto, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Walks the chain: `key.proto` and `transport_offset` become those of what follows it, and a fragment header is noted.
/// Returns how many bytes the chain has, or [`DAMAGED`].
///
/// Not inlined: rare, and its loop would stand in every program's middle.
#[inline(never)]
pub fn skip(packet: &impl AnyPacket, headers: &mut Headers) -> u32 {
    let mut length = 0;
    for _ in 0..MAX_HEADERS {
        if !follows(headers.key.proto) || length > MAX_LENGTH {
            break;
        }
        let offset = bounded(headers.transport_offset);
        packet.pull(offset as u32 + 8);
        let Some(header) = packet.window::<8>(offset) else { return DAMAGED };
        let bytes = match headers.key.proto {
            FRAGMENT => {
                note_fragment(headers, u16::from_be(header.get::<u16, 2>()), header.get::<u32, 4>());
                8
            }
            // The one header that counts in words of four bytes, less two (RFC 4302, 2.2).
            AUTHENTICATION => (u32::from(header.get::<u8, 1>()) + 2) * 4,
            _ => (u32::from(header.get::<u8, 1>()) + 1) * 8,
        };
        headers.key.proto = header.get::<u8, 0>();
        length += bytes;
        if length > MAX_LENGTH {
            // Longer than is walked: what follows is not looked at.
            headers.key.proto = NO_NEXT_HEADER;
            break;
        }
        headers.transport_offset += bytes as u16;
        if headers.part == Part::Later {
            break;
        }
    }
    if follows(headers.key.proto) && headers.part != Part::Later {
        headers.key.proto = NO_NEXT_HEADER;
    }
    length
}

#[inline(always)]
fn note_fragment(headers: &mut Headers, offset_and_more: u16, id: u32) {
    const MORE: u16 = 1;
    headers.fragment_id = id;
    headers.part = match (offset_and_more >> 3, offset_and_more & MORE) {
        // An atomic fragment (RFC 6946) is a whole datagram.
        (0, 0) => headers.part,
        (0, _) => Part::First,
        _ => Part::Later,
    };
}
