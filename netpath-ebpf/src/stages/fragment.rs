//! Parts of datagrams: the first carries the ports, the later ones are told them from here.

use aya_ebpf::macros::map;
use netpath_common::abi::{Fragment, FragmentKey, FragmentKind};

use crate::{
    bpf::{helper, map::LruHash},
    packet::{Headers, Part, Transport},
};

#[map]
static FRAGMENTS: LruHash<FragmentKey, Fragment> = LruHash::new(16_384);

/// How long the parts of a datagram may take, ns. Between the 15 s that RFC 791 proposes and the 60 s of RFC 8200: Linux's.
const FIRST_LIFETIME: u64 = 30_000_000_000;
/// How long an early part spoils its datagram, ns: no longer than reordering takes, as identifications come again.
const EARLY_LIFETIME: u64 = 2_000_000_000;

/// Fills in the ports of a later part, and remembers those of a first one. A later part that nobody knows keeps
/// `Transport::Unknown`.
#[inline(always)]
pub fn resolve(headers: &mut Headers) {
    if headers.part != Part::Whole {
        resolve_part(headers);
    }
}

/// Not inlined: rare.
#[inline(never)]
fn resolve_part(headers: &mut Headers) {
    let key = key(headers);
    if headers.part == Part::First {
        if headers.transport == Transport::Ports {
            remember(&key, headers, FragmentKind::First);
        }
        return;
    }
    let Some(first) = FRAGMENTS.get(&key) else { return };
    if first.kind != FragmentKind::First as u8 || helper::now().wrapping_sub(first.seen) > FIRST_LIFETIME {
        return;
    }
    (headers.key.sport, headers.key.dport) = (first.sport, first.dport);
    headers.icmp_type = first.icmp_type;
    headers.transport = Transport::Ports;
}

/// Whether a later part of this first part's datagram was let go. Asked before `resolve`, which overwrites the note.
#[inline(always)]
pub fn is_spoilt(headers: &Headers) -> bool {
    headers.part == Part::First && has_early(headers)
}

#[inline(never)]
fn has_early(headers: &Headers) -> bool {
    FRAGMENTS.get(&key(headers)).is_some_and(|early| {
        early.kind == FragmentKind::Early as u8 && helper::now().wrapping_sub(early.seen) < EARLY_LIFETIME
    })
}

/// Notes a later part that was let go because nobody knows its first one.
#[inline(never)]
pub fn note_early(headers: &Headers) {
    remember(&key(headers), headers, FragmentKind::Early);
}

#[inline(always)]
fn remember(key: &FragmentKey, headers: &Headers, kind: FragmentKind) {
    let fragment = Fragment {
        seen: helper::now(),
        sport: headers.key.sport,
        dport: headers.key.dport,
        kind: kind as u8,
        icmp_type: headers.icmp_type,
        pad: 0,
    };
    FRAGMENTS.insert(key, &fragment);
}

#[inline(always)]
fn key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        src: headers.key.src,
        dst: headers.key.dst,
        id: headers.fragment_id,
        proto: headers.key.proto,
        pad: [0; 3],
    }
}
