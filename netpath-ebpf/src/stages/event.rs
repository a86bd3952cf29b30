//! What userspace is told: every drop, and while somebody listens every new binding; rate-limited per CPU, so that a flood
//! costs no more than its counter.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, COUNTER_SLOTS, DropReason, Event, EventKind, EventLoss, FlowKey, Program};

use crate::{
    bpf::{
        helper,
        map::{PerCpu, Ring, Single},
    },
    packet::{AnyPacket, Headers, tc::Packet},
};

#[map]
static EVENTS: Ring = Ring::new(256 * 1024);

/// Per drop reason: when this CPU last told of it, ns. Row 0 is for flows.
#[map]
static EVENT_TIMES: PerCpu<u64> = PerCpu::new(COUNTER_SLOTS);

/// Per [`EventLoss`]: events that are not in the ring.
#[map]
static EVENT_LOSSES: PerCpu<u64> = PerCpu::new(EventLoss::ALL.len() as u32);

/// How many listen to new bindings. A record in the ring wakes the agent: half as much as making the binding, by a profile.
#[map]
static EVENT_LISTENERS: Single<u32> = Single::new();

/// Quiet time after an event of one drop reason, ns.
const DROP_INTERVAL: u64 = 10_000_000;
/// Quiet time after a flow event, ns.
const FLOW_INTERVAL: u64 = 1_000_000;

/// Tells of a drop. Not inlined: it is off the fast path, and its code would stand in every program's middle.
#[inline(never)]
pub fn dropped(packet: &impl AnyPacket, headers: &Headers, program: Program, reason: DropReason) {
    let Some(time) = allowed(reason as u32, DROP_INTERVAL) else { return lost(EventLoss::Drops) };
    let event = Event {
        time,
        kind: EventKind::Drop as u8,
        reason: reason as u8,
        ..describe(packet, &headers.key, program)
    };
    submit(event);
}

/// Tells of a new flow and its translation.
#[inline(always)]
pub fn flow(packet: &Packet, headers: &Headers, program: Program, translated: &Addr, port: u16) {
    if EVENT_LISTENERS.get().is_some_and(|count| *count != 0) {
        tell_flow(packet, headers, program, translated, port);
    }
}

#[inline(never)]
fn tell_flow(packet: &Packet, headers: &Headers, program: Program, translated: &Addr, port: u16) {
    let Some(time) = allowed(0, FLOW_INTERVAL) else { return lost(EventLoss::Flows) };
    let event = Event {
        time,
        kind: EventKind::Flow as u8,
        translated: *translated,
        translated_port: port,
        ..describe(packet, &headers.key, program)
    };
    submit(event);
}

#[inline(always)]
fn submit(event: Event) {
    let told = EVENTS.submit::<Event>(|slot| {
        slot.write(event);
    });
    if !told {
        lost(EventLoss::RingFull);
    }
}

#[inline(always)]
fn lost(why: EventLoss) {
    if let Some(count) = EVENT_LOSSES.get_mut(why as u32) {
        *count += 1;
    }
}

#[inline(always)]
fn allowed(row: u32, interval: u64) -> Option<u64> {
    let now = helper::now();
    let last = EVENT_TIMES.get_mut(row)?;
    if now.wrapping_sub(*last) < interval {
        return None;
    }
    *last = now;
    Some(now)
}

#[inline(always)]
fn describe(packet: &impl AnyPacket, key: &FlowKey, program: Program) -> Event {
    Event {
        time: 0,
        src: key.src,
        dst: key.dst,
        translated: Addr::UNSPECIFIED,
        ifindex: packet.ifindex(),
        length: packet.length(),
        sport: key.sport,
        dport: key.dport,
        translated_port: 0,
        proto: key.proto,
        kind: 0,
        reason: 0,
        program: program as u8,
        pad: [0; 6],
    }
}
