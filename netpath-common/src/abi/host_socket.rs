//! HOST_SOCKETS: LRU hash, [`SocketKey`] → [`Asked`]. Whom sockets of the node have asked that were led to a pod.

use super::Addr;

/// Entries that HOST_SOCKETS has room for. Which one is forgotten first costs nobody a packet: a connection's end is then
/// told as the pod; who asks without a connection notes it anew with each datagram.
pub const MAX_HOST_SOCKETS: u32 = 16_384;

/// A socket, and whom it was led to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketKey {
    /// The kernel's number of the socket.
    pub cookie: u64,
    /// The pod's address.
    pub addr: Addr,
    /// The pod's port, network order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero: the key is hashed as bytes.
    pub pad: [u8; 5],
}

super::record!(SocketKey, 32);

/// Whom it asked.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// The address.
    pub addr: Addr,
    /// The port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

super::record!(Asked, 20);
