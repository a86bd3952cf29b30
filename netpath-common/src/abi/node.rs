//! NODE: array of one, what the programs know of their node.

use super::Addr;

/// The gateway of every pod: 169.254.1.1, as Calico's. It exists only in the pods' route tables.
pub const GATEWAY_V4: Addr = Addr::from_v4_be(u32::from_ne_bytes([169, 254, 1, 1]));

/// The same for IPv6: fe80::1.
pub const GATEWAY_V6: Addr = Addr([0xfe80_0000_u32.to_be(), 0, 0, 1_u32.to_be()]);

/// Ethernet address of the device that tunnels to other nodes, the same on all of them.
pub const TUNNEL_MAC: [u8; 6] = [0x02, 0x6e, 0x70, 0x00, 0x00, 0x02];

/// Flag of [`Node::flags`]: what comes by a published port goes through the node's stack until the pod has answered.
pub const NODE_FLAG_FIREWALL: u32 = 8;

/// Uplinks a node can have.
pub const MAX_UPLINKS: usize = 8;

/// Addresses of one family that flows leaving by one uplink can be translated to.
pub const MAX_POOL: usize = 8;

/// Flag of [`Node::flags`]: the uplinks' addresses are a configured pool, used instead of the FIB's choice.
pub const NODE_FLAG_POOL: u32 = 1;

/// Flag of [`Node::flags`]: there are entries in PUBLISHED.
pub const NODE_FLAG_PUBLISHES: u32 = 2;

/// Flag of [`Node::flags`]: the node is in a cluster, whose pods may be behind uplinks.
pub const NODE_FLAG_CLUSTER: u32 = 4;

/// The addresses of one family that flows leaving by an uplink are translated to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pool {
    /// The addresses; the used ones stand first.
    pub addresses: [Addr; MAX_POOL],
    /// How many are used.
    pub count: u32,
    /// Zero.
    pub pad: u32,
}

super::record!(Pool, 136);

/// A real interface of the node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// Interface index; 0 is "no uplink here".
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
    /// IPv4 (v4-mapped).
    pub v4: Pool,
    /// IPv6.
    pub v6: Pool,
}

super::record!(Uplink, 280);

/// What the programs know of their node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Uplinks, each at one place as long as it exists: [`Route::uplinks`](super::Route::uplinks) names it by that.
    pub uplinks: [Uplink; MAX_UPLINKS],
    /// First port of the SNAT range, host order.
    pub snat_first: u16,
    /// Ports in the SNAT range; at least 1.
    pub snat_count: u16,
    /// [`NODE_FLAG_POOL`], [`NODE_FLAG_PUBLISHES`], [`NODE_FLAG_CLUSTER`], [`NODE_FLAG_FIREWALL`].
    pub flags: u32,
    /// Counts up with each change of this record.
    pub generation: u32,
    /// First port of what may be bound outside of the SNAT range, host order: of ranges before it.
    pub retired_first: u16,
    /// Ports in there; 0 if none is bound.
    pub retired_count: u16,
    /// Highest index of an interface that the agent knows, pods' aside. A later one may be an uplink that was made again.
    pub newest_link: u32,
    /// Index of the device that tunnels to other nodes; 0 if there is none.
    pub tunnel: u32,
    /// The largest IP packet that goes through a tunnel over IPv4, bytes; over IPv6 it is 20 less.
    pub tunnel_mtu: u16,
    /// UDP port of the cluster's tunnels, whether this node has any or not, network order; 0 without a cluster.
    pub tunnel_port: u16,
}

super::record!(Node, 2268);

impl Pool {
    /// A pool of these addresses; what is beyond [`MAX_POOL`] is left out.
    pub fn new(addresses: &[Addr]) -> Self {
        let mut pool = Self::default();
        for (slot, address) in pool.addresses.iter_mut().zip(addresses) {
            *slot = *address;
            pool.count += 1;
        }
        pool
    }
}
