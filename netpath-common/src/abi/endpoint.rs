//! ENDPOINTS: hash, [`Addr`](super::Addr) → [`Endpoint`]. Local pods only.

/// Where a local pod's address lives.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// Interface index of the host end of the pod's veth pair.
    pub ifindex: u32,
    /// The pod, as numbered by the agent; never 0.
    pub pod: u32,
    /// Index into POD_COUNTERS.
    pub slot: u32,
    /// What policy matches on; 0 is "none".
    pub identity: u32,
    /// MAC of the interface inside the pod.
    pub mac: [u8; 6],
    /// MTU of the interface inside the pod, bytes.
    pub mtu: u16,
    /// Room for flags; 0.
    pub flags: u32,
    /// Room to grow; 0.
    pub reserved: u32,
}

super::record!(Endpoint, 32);
