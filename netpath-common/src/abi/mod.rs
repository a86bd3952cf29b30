//! Records of the kernel tables: `repr(C)`, no padding, sizes asserted.
//!
//! Byte order: addresses and ports are in network order as they stand in a packet; everything else is in host order.

mod addr;
mod counter;
mod deny;
mod drop_reason;
mod endpoint;
mod event;
mod flow;
mod fragment;
mod host_socket;
mod limit;
mod node;
mod protect;
mod published;
mod route;
mod trace;

pub use addr::Addr;
pub use counter::{COUNTER_SLOTS, Counter, PodCounter, TrafficClass};
pub use deny::{DENY_NOBODY, DENY_PREFIXES};
pub use drop_reason::DropReason;
pub use endpoint::{
    CACHE_SEATS, CACHE_SPARES, CachedEndpoint, ENDPOINT_INBOUND_ANY, ENDPOINT_LIMITED_IN,
    ENDPOINT_LIMITED_OUT, ENDPOINT_MASQUERADE, ENDPOINT_PUBLISHES, ENDPOINT_XDP, Endpoint, Link,
};
pub use event::{Event, EventKind, EventLoss, Program};
pub use flow::{FLOW_HAIRPIN, FLOW_LOCAL, Flow, FlowDirection, FlowKey, Move, PEER_SEEN, Rewrite};
pub use fragment::{Fragment, FragmentKey, FragmentKind};
pub use host_socket::{Asked, MAX_HOST_SOCKETS, SocketKey};
pub use limit::{Exhausted, ExhaustedKey, PodLimit, SNAT_TRY_ROWS};
pub use node::{
    GATEWAY_V4, GATEWAY_V6, MAX_POOL, MAX_UPLINKS, NODE_FLAG_CLUSTER, NODE_FLAG_FIREWALL, NODE_FLAG_POOL,
    NODE_FLAG_PUBLISHES, Node, Pool, TUNNEL_MAC, Uplink,
};
pub use protect::{PROTECTED_ANY, PROTECTED_WORDS, protected_place};
pub use published::{HAIRPIN_V4, HAIRPIN_V6, MAX_PUBLISHED, Published, PublishedKey};
pub use route::{
    MAX_ROUTES, NODE_ROUTES, ROUTE_MASQUERADE, ROUTE_PEER, ROUTE_TUNNEL, Route, RouteKey, RouteKind,
};
pub use trace::{TRACE_STEPS, Trace, TraceStage, TraceStep};

/// Version of how pins are named, and part of their path; never of what a table holds. Builds find each other's links and
/// tables by it: one with another number would attach its programs beside the earlier one's, and lose its flows. A table of
/// another layout is found by its sizes.
pub const PIN_SCHEME: u32 = 2;

/// Declares that a record is plain bytes to aya and asserts its size.
macro_rules! record {
    ($type:ty, $size:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size, "size of a table's record changed");
        // SAFETY: repr(C), Copy, every bit pattern valid, and no padding: the size asserted above is the sum of the
        // fields' sizes.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
use record;
