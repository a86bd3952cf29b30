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
/// `Transport::Unknown`. True for a first part that a later one of its datagram was let go before: whoever it is for
/// cannot get all of it.
#[inline(always)]
pub fn resolve(headers: &mut Headers) -> bool {
    headers.part != Part::Whole && resolve_part(headers)
}

/// Not inlined: rare.
#[inline(never)]
fn resolve_part(headers: &mut Headers) -> bool {
    let key = key(headers);
    let known = FRAGMENTS.get(&key);
    let is_young = |known: &Fragment, kind: FragmentKind, lifetime: u64| {
        known.kind == kind as u8 && helper::now().wrapping_sub(known.seen) < lifetime
    };
    if headers.part == Part::First {
        if known.is_some_and(|known| is_young(known, FragmentKind::Early, EARLY_LIFETIME)) {
            return true;
        }
        if headers.transport == Transport::Ports {
            remember(&key, headers, FragmentKind::First);
        }
        return false;
    }
    if let Some(first) = known.filter(|known| is_young(known, FragmentKind::First, FIRST_LIFETIME)) {
        (headers.key.sport, headers.key.dport) = (first.sport, first.dport);
        (headers.key.proto, headers.icmp_type) = (first.proto, first.icmp_type);
        headers.transport = Transport::Ports;
    }
    false
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
        proto: headers.key.proto,
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
        proto: if headers.v6 { 0 } else { headers.key.proto },
        pad: [0; 3],
    }
}
