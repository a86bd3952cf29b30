//! TRACE: array of one, what the programs decided about a packet of a dry run. The attached programs never touch it.

use super::{Addr, FlowKey};

/// Decisions that one run of a program can tell.
pub const TRACE_STEPS: usize = 8;

/// Which decision a step is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceStage {
    /// netpath's own route: `code` is a [`RouteKind`](super::RouteKind), `number` is 1 if the way says masquerade.
    Route = 1,
    /// The kernel's FIB: `code` is what `bpf_fib_lookup` returned, `number` the interface, `addr` the next hop, `other` the
    /// route's source address (unspecified if the kernel does not tell it), `extra` the route's MTU if a neighbour was found
    /// or the packet is too large.
    NextHop = 2,
    /// A flow was found: `code` is its [`Rewrite`](super::Rewrite), to `addr` and `port`; `number` is its pod, `extra` 1 if
    /// the packet is of the reply direction.
    Flow = 3,
    /// A new flow would get a binding: to `addr` and `port`, after `number` tries.
    Bound = 4,
    /// A new flow would be tracked without translation.
    Tracked = 5,
    /// A new flow by a published port would lead to `addr` and `port` of the pod `number`.
    Published = 6,
}

impl TraceStage {
    /// The stage with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Route),
            2 => Some(Self::NextHop),
            3 => Some(Self::Flow),
            4 => Some(Self::Bound),
            5 => Some(Self::Tracked),
            6 => Some(Self::Published),
            _ => None,
        }
    }
}

/// One decision; what the fields mean, the stage says. What it does not name is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TraceStep {
    /// An address.
    pub addr: Addr,
    /// Another.
    pub other: Addr,
    /// A number, host order.
    pub number: u32,
    /// Another.
    pub extra: u32,
    /// A port, network order.
    pub port: u16,
    /// A [`TraceStage`].
    pub stage: u8,
    /// What was decided.
    pub code: u8,
    /// Zero.
    pub pad: u32,
}

super::record!(TraceStep, 48);

/// What the programs decided about one packet, in order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// What the packet was read as; the ports of a later part are those of its first one.
    pub key: FlowKey,
    /// Length of the IP packet, bytes.
    pub length: u32,
    /// Where it is counted: a [`DropReason`](super::DropReason), a [`TrafficClass`](super::TrafficClass), or 0.
    pub row: u32,
    /// How many steps follow.
    pub count: u32,
    /// Hops left when it came.
    pub ttl: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// The steps; the used ones stand first.
    pub steps: [TraceStep; TRACE_STEPS],
}

super::record!(Trace, 440);
