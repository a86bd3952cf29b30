//! Counters: by drop reason, by class of traffic, by pod.

use aya_ebpf::macros::map;
use netpath_common::abi::{COUNTER_SLOTS, Counter, DropReason, Endpoint, PodCounter};

use crate::{bpf::map::PerCpu, packet::AnyPacket};

#[map]
static COUNTERS: PerCpu<Counter> = PerCpu::new(COUNTER_SLOTS);

#[map]
static POD_COUNTERS: PerCpu<PodCounter> = PerCpu::new(4096);

/// Counts a packet that goes on, in the row of its class; row 0 is for what is not counted.
#[inline(always)]
pub fn traffic(packet: &impl AnyPacket, row: u32) {
    if row != 0 {
        count(packet, row);
    }
}

/// Counts a packet that ends here.
#[inline(always)]
pub fn dropped(packet: &impl AnyPacket, reason: DropReason) {
    count(packet, reason as u32);
}

#[inline(always)]
fn count(packet: &impl AnyPacket, row: u32) {
    if let Some(counter) = COUNTERS.get_mut(row) {
        counter.packets += 1;
        counter.bytes += u64::from(packet.length());
    }
}

/// Counts a packet that a pod sent and that was its own.
#[inline(always)]
pub fn sent(packet: &impl AnyPacket, pod: &Endpoint) {
    if let Some(counter) = POD_COUNTERS.get_mut(pod.slot) {
        counter.tx_packets += 1;
        counter.tx_bytes += u64::from(packet.length());
    }
}

/// Counts a packet that a pod gets.
#[inline(always)]
pub fn received(packet: &impl AnyPacket, pod: &Endpoint) {
    if let Some(counter) = POD_COUNTERS.get_mut(pod.slot) {
        counter.rx_packets += 1;
        counter.rx_bytes += u64::from(packet.length());
    }
}
