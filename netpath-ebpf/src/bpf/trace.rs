//! What a dry run tells. Each call asks a constant: in the attached programs nothing hangs on it.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, Flow, FlowDirection, TRACE_STEPS, Trace, TraceStage, TraceStep};

use super::{fib::Route, globals, map::Shared};
use crate::packet::Headers;

#[map]
static TRACE: Shared<Trace> = Shared::new(1);

/// The next free step. Not inlined: the programs' middle is no place for it.
#[inline(never)]
fn step(stage: TraceStage, code: u8) -> Option<&'static mut TraceStep> {
    let trace = TRACE.get_mut(0)?;
    let at = trace.count as usize;
    if at >= TRACE_STEPS {
        return None;
    }
    trace.count += 1;
    let step = trace.steps.get_mut(at)?;
    (step.stage, step.code) = (stage as u8, code);
    Some(step)
}

/// netpath's own route.
#[inline(always)]
pub fn route(kind: u8, masquerade: bool) {
    if globals::dry_run()
        && let Some(step) = step(TraceStage::Route, kind)
    {
        step.number = masquerade.into();
    }
}

/// What the FIB said, with the MTU it gave; `route` is as far as it came.
#[inline(always)]
pub fn next_hop(answer: u32, mtu: u32, route: &Route) {
    if globals::dry_run()
        && let Some(step) = step(TraceStage::NextHop, answer as u8)
    {
        (step.number, step.extra) = (route.ifindex, mtu);
        (step.addr, step.other) = (route.next_hop.addr(), route.source);
    }
}

/// A flow that was found. Returns whether this is a dry run, which must not refresh it.
#[inline(always)]
pub fn flow(flow: &Flow) -> bool {
    if !globals::dry_run() {
        return false;
    }
    if let Some(step) = step(TraceStage::Flow, flow.rewrite) {
        (step.addr, step.port) = (flow.addr, flow.port);
        (step.number, step.extra) = (flow.pod, (flow.direction == FlowDirection::Reply as u8).into());
    }
    true
}

/// The binding a new flow would get. Returns whether this is a dry run, which must not make it.
#[inline(always)]
pub fn bound(address: &Addr, port: u16, tries: u32) -> bool {
    if !globals::dry_run() {
        return false;
    }
    if let Some(step) = step(TraceStage::Bound, 0) {
        (step.addr, step.port, step.number) = (*address, port, tries);
    }
    true
}

/// The pod that a new flow by a published port would lead to. Returns whether this is a dry run, which must not make it.
#[inline(always)]
pub fn published(flow: &Flow) -> bool {
    if !globals::dry_run() {
        return false;
    }
    if let Some(step) = step(TraceStage::Published, 0) {
        (step.addr, step.port, step.number) = (flow.addr, flow.port, flow.pod);
    }
    true
}

/// A flow that would be tracked as it is. Returns whether this is a dry run, which must not make it.
#[inline(always)]
pub fn tracked() -> bool {
    if !globals::dry_run() {
        return false;
    }
    step(TraceStage::Tracked, 0);
    true
}

/// The end of a program: what the packet was read as, and its row in COUNTERS.
#[inline(always)]
pub fn ended(headers: &Headers, row: u32) {
    if globals::dry_run() {
        tell(headers, row);
    }
}

#[inline(never)]
fn tell(headers: &Headers, row: u32) {
    if let Some(trace) = TRACE.get_mut(0) {
        trace.key = headers.key;
        (trace.length, trace.ttl, trace.row) = (headers.total_length, headers.ttl, row);
    }
}
