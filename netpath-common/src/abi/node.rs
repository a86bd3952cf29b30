//! NODE: array of one, what the programs know of their node.

use super::Addr;

/// The gateway of every pod: 169.254.1.1, as Calico's. It exists only in the pods' route tables.
pub const GATEWAY_V4: Addr = Addr::from_v4_be(u32::from_ne_bytes([169, 254, 1, 1]));

/// Uplinks a node can have.
pub const MAX_UPLINKS: usize = 8;

/// Flag of [`Node::flags`]: packets from outside may go to a pod's own address.
pub const NODE_FLAG_INBOUND_ANY: u32 = 1;

/// A real interface of the node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// Interface index; 0 is "no uplink here".
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
    /// Address that flows leaving here are translated to, IPv4 (v4-mapped), where the FIB names none.
    pub v4: Addr,
    /// The same for IPv6.
    pub v6: Addr,
}

super::record!(Uplink, 40);

/// What the programs know of their node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Uplinks; the used ones stand first.
    pub uplinks: [Uplink; MAX_UPLINKS],
    /// First port of the SNAT range, host order.
    pub snat_first: u16,
    /// Ports in the SNAT range; at least 1.
    pub snat_count: u16,
    /// [`NODE_FLAG_INBOUND_ANY`] or 0.
    pub flags: u32,
    /// Counts up with each change of this record.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

super::record!(Node, 336);
