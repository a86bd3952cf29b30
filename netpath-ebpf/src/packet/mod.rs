//! Reading and changing packets. `tc` holds the only raw packet pointers.

pub mod arp;
pub mod parse;
pub mod rewrite;
pub mod tc;

use netpath_common::abi::FlowKey;

use self::tc::Packet;

/// Bytes of an Ethernet header; where the IP header starts.
pub const ETHERNET: usize = 14;
/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;

/// What of the transport header can be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP or UDP with ports, or an ICMP echo with its identifier as both ports: can be translated.
    Ports,
    /// A part of a datagram (first parts included): carries no ports, or is only half of what they belong to.
    Fragment,
    /// ICMP that is not an echo.
    Icmp,
    /// Anything else.
    Other,
}

/// What was read of a packet, once.
#[derive(Clone, Copy)]
pub struct Headers {
    /// Addresses, ports and protocol as they stand in the packet.
    pub key: FlowKey,
    /// Where the transport header starts, bytes from the Ethernet header.
    pub transport_offset: u16,
    /// Bytes of the transport header as far as it is fixed or says so itself; 0 if unknown.
    pub transport_length: u16,
    /// IP total length, bytes; of the whole train for a GSO packet.
    pub total_length: u16,
    /// Hops left.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP type; 0 for other protocols.
    pub icmp_type: u8,
    /// What of the transport header can be used.
    pub transport: Transport,
}

impl Headers {
    /// Nothing read yet.
    pub const NONE: Self = Self {
        key: FlowKey {
            src: netpath_common::abi::Addr::UNSPECIFIED,
            dst: netpath_common::abi::Addr::UNSPECIFIED,
            sport: 0,
            dport: 0,
            proto: 0,
            pad: [0; 3],
        },
        transport_offset: 0,
        transport_length: 0,
        total_length: 0,
        ttl: 0,
        tos: 0,
        tcp_flags: 0,
        icmp_type: 0,
        transport: Transport::Other,
    };

    /// Where the transport header starts, for reading there.
    ///
    /// At most 127, and the verifier sees it: after a spill of two bytes it has forgotten the bound, and the compiler,
    /// which has not, would drop a mask that it can see through.
    #[inline(always)]
    pub fn transport_start(&self) -> usize {
        (core::hint::black_box(self.transport_offset) & 0x7f) as usize
    }

    /// Bytes of the longest IP packet that will be on the wire: of one segment, if the packet is a GSO train.
    #[inline(always)]
    pub fn segment_length(&self, packet: &Packet) -> u16 {
        let gso = packet.gso_size();
        if gso == 0 {
            return self.total_length;
        }
        let headers = (self.transport_offset - ETHERNET as u16).wrapping_add(self.transport_length);
        headers.wrapping_add(gso as u16)
    }
}
