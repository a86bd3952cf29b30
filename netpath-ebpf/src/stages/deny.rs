//! Who may not send to this node at all.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, Counter, DENY_NOBODY, DENY_PREFIXES};

use crate::{
    bpf::map::{Lpm, PerCpu},
    packet::AnyPacket,
};

#[map]
static DENY: Lpm<Addr, u32> = Lpm::new(DENY_PREFIXES + 1);

#[map]
static DENY_COUNTERS: PerCpu<Counter> = PerCpu::new(DENY_PREFIXES);

/// Whether a packet's source is denied; counts it by the longest prefix that says so.
#[inline(always)]
pub fn is_denied(packet: &impl AnyPacket, source: &Addr) -> bool {
    let Some(row) = DENY.get(*source).filter(|row| **row != DENY_NOBODY) else { return false };
    if let Some(counter) = DENY_COUNTERS.get_mut(*row) {
        counter.packets += 1;
        counter.bytes += u64::from(packet.length());
    }
    true
}
