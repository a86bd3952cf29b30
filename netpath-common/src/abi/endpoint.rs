//! ENDPOINTS: hash, [`Addr`] → [`Endpoint`]. Local pods only.
//! ENDPOINT_CACHE: array, [`seat::of`](crate::logic::seat::of) an address → [`CachedEndpoint`]. What ENDPOINTS says, to
//! be found without the kernel's hash table: that is half of what a packet from pod to pod costs.
//! LINKS: hash, interface index (u32) → [`Link`]. Host ends of local pods only.
//! POD_BUCKETS: array, [`Endpoint::slot`] → when what the pod may send at once is whole again, CLOCK_MONOTONIC, ns (u64).

use super::Addr;

/// Flag of [`Endpoint::flags`]: what the pod sends to outside may carry the node's address, if the route says so too.
pub const ENDPOINT_MASQUERADE: u16 = 1;

/// Flag of [`Endpoint::flags`]: packets from outside may go to this address.
pub const ENDPOINT_INBOUND_ANY: u16 = 2;

/// Flag of [`Endpoint::flags`]: the pod's end of the link takes frames that XDP sends to it.
pub const ENDPOINT_XDP: u16 = 4;

/// Flag of [`Endpoint::flags`]: ports of the node lead to the pod, so that what it says may be the answer to who came by one.
pub const ENDPOINT_PUBLISHES: u16 = 8;

/// Flag of [`Endpoint::flags`]: what goes to the pod has to go by the queue of its link's host end, which is limited.
pub const ENDPOINT_LIMITED_IN: u16 = 16;

/// Flag of [`Endpoint::flags`]: what the pod sends is limited, as [`Link::rate`] says.
pub const ENDPOINT_LIMITED_OUT: u16 = 32;

/// Where a local pod's address lives.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// Interface index of the host end of the pod's veth pair.
    pub ifindex: u32,
    /// The pod, as numbered by the agent; never 0. All its interfaces have the same.
    pub pod: u32,
    /// Index into POD_COUNTERS, POD_OPENED and POD_LIMITS.
    pub slot: u32,
    /// What policy matches on; 0 is "none".
    pub identity: u32,
    /// MAC of the interface inside the pod.
    pub mac: [u8; 6],
    /// MTU of the interface inside the pod, bytes.
    pub mtu: u16,
    /// The network, as numbered by the agent: whose ROUTES hold. Never 0.
    pub network: u32,
    /// [`ENDPOINT_MASQUERADE`], [`ENDPOINT_INBOUND_ANY`], [`ENDPOINT_XDP`], [`ENDPOINT_PUBLISHES`], [`ENDPOINT_LIMITED_IN`],
    /// [`ENDPOINT_LIMITED_OUT`].
    pub flags: u16,
    /// Room to grow; 0.
    pub reserved: u16,
}

super::record!(Endpoint, 32);

/// Seats of ENDPOINT_CACHE; a power of two.
pub const CACHE_SEATS: u32 = 16_384;

/// Spare seats of each CPU, behind the others: more than a program looks for endpoints.
pub const CACHE_SPARES: u32 = 16;

/// What is known of the addresses that have the same seat. Complete: an address that is not here and not among the `others` is
/// no local pod's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CachedEndpoint {
    /// Who sits here; `::` with an endpoint of zeros is nobody.
    pub addr: Addr,
    /// Its entry of ENDPOINTS.
    pub endpoint: Endpoint,
    /// How many more addresses have this seat: they are in ENDPOINTS only.
    pub others: u32,
    /// Of a CPU's first spare seat: which of them was used last.
    pub turn: u32,
}

super::record!(CachedEndpoint, 24 + size_of::<Endpoint>());

/// Whose an interface is. Asked only where a packet's source address does not tell: it may belong to another interface
/// of the same pod, or be link-local; and of a pod whose bandwidth is limited.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The pod; never 0.
    pub pod: u32,
    /// MAC of the interface inside the pod.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 6],
    /// What the pod may send by all its interfaces together, bytes a second; 0 is no limit.
    pub rate: u64,
    /// What it may send at once after a pause, as the time that the rate takes for that, ns.
    pub burst: u64,
}

super::record!(Link, 32);
