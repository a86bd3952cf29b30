//! FRAGMENTS: LRU hash, [`FragmentKey`] → [`Fragment`].

use super::Addr;

/// Which datagram a part belongs to, as it stands on the wire where the program sees it (RFC 791, 3.2; RFC 8200, 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as it stands in the packet; IPv4's 16 bits in the low half.
    pub id: u32,
    /// IPv4: protocol number of what is fragmented. IPv6: 0, as there the protocol tells no datagrams apart, and a later
    /// part names the header that its datagram's first part starts with, which need not be the transport's.
    pub proto: u8,
    /// Zero: the key is hashed as bytes.
    pub pad: [u8; 3],
}

super::record!(FragmentKey, 40);

/// What the first part carried and the later ones lack.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fragment {
    /// When it was written: CLOCK_MONOTONIC, ns. Identifications come round again: only young ones count.
    pub seen: u64,
    /// Ports in network order; the identifier twice for an echo.
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// A [`FragmentKind`].
    pub kind: u8,
    /// ICMP type of an echo, else 0.
    pub icmp_type: u8,
    /// IP protocol number of the datagram.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

super::record!(Fragment, 16);

/// What is known of a fragmented datagram.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FragmentKind {
    /// The first part has been seen: the ports hold.
    First = 0,
    /// A later part came before the first and was let go.
    Early = 1,
}
