//! Reading and changing packets. `tc` and `xdp` hold the only raw packet pointers.

pub mod arp;
pub mod embedded;
pub mod extension;
pub mod nd;
pub mod parse;
pub mod rewrite;
pub mod tc;
pub mod transport;
pub mod xdp;

use netpath_common::abi::{Addr, FlowKey};

use self::tc::Window;

/// A packet of either kind of program, as far as reading goes, and writing that leaves the transport checksum alone.
pub trait AnyPacket {
    /// Bytes from the Ethernet header on.
    fn length(&self) -> u32;
    /// Interface the program runs on.
    fn ifindex(&self) -> u32;
    /// Payload bytes of a segment if this is a GSO train, else 0.
    fn gso_size(&self) -> u32;
    /// `N` bytes from `offset` on, or `None` if the packet ends before.
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>>;
    /// Makes the first `bytes` directly readable where the packet is that long, if it can be done.
    fn pull(&self, bytes: u32);
}

/// Bytes of an Ethernet header; where the IP header starts.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER: usize = 40;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// Whether a protocol is ICMP of either family.
#[inline(always)]
pub const fn is_icmp(proto: u8) -> bool {
    proto == ICMP || proto == ICMPV6
}

/// What of the transport header can be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP or SCTP with ports, or an ICMP echo with its identifier as both ports: can be translated.
    Ports,
    /// A later part of a datagram whose ports nobody knows.
    Unknown,
    /// An ICMP error: belongs to the flow of the packet it embeds.
    Error,
    /// ICMP that is neither an echo nor an error.
    Icmp,
    /// Anything else.
    Other,
}

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first part, with the transport header.
    First,
    /// A later part: no transport header.
    Later,
}

/// What was read of a packet, once.
#[derive(Clone, Copy)]
pub struct Headers {
    /// Addresses, ports and protocol as they stand in the packet.
    pub key: FlowKey,
    /// Length of the IP packet, bytes; of the whole train for a GSO packet.
    pub total_length: u32,
    /// IPv6: traffic class and flow label as they stand in the packet; IPv4: the type of service.
    pub class: u32,
    /// Identification of a part, as it stands in the packet; IPv4's 16 bits in the low half.
    pub fragment_id: u32,
    /// TCP sequence number, host order.
    pub tcp_seq: u32,
    /// TCP acknowledgement number, host order.
    pub tcp_ack: u32,
    /// Where it leaves: a place among the node's uplinks.
    pub uplink: u32,
    /// Where the transport header starts, bytes from the Ethernet header.
    pub transport_offset: u16,
    /// Bytes of the transport header as far as it is fixed or says so itself; 0 if unknown.
    pub transport_length: u16,
    /// Hops left.
    pub ttl: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP type; 0 for other protocols.
    pub icmp_type: u8,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// What of the transport header can be used.
    pub transport: Transport,
    /// Which part of its datagram it is.
    pub part: Part,
}

impl Headers {
    /// Nothing read yet.
    pub const NONE: Self = Self {
        key: FlowKey {
            src: Addr::UNSPECIFIED,
            dst: Addr::UNSPECIFIED,
            sport: 0,
            dport: 0,
            proto: 0,
            pad: [0; 3],
        },
        total_length: 0,
        class: 0,
        fragment_id: 0,
        tcp_seq: 0,
        tcp_ack: 0,
        uplink: 0,
        transport_offset: 0,
        transport_length: 0,
        ttl: 0,
        tcp_flags: 0,
        icmp_type: 0,
        v6: false,
        transport: Transport::Other,
        part: Part::Whole,
    };

    /// The same headers, of which the compiler knows nothing any more: it would keep copies in registers and carry every
    /// shape of a packet separately through the rest of the program, and the verifier with it.
    #[inline(always)]
    pub fn settled(&mut self) -> &mut Self {
        core::hint::black_box(self)
    }

    /// Where the transport header starts, for reading there.
    #[inline(always)]
    pub fn transport_start(&self) -> usize {
        bounded(self.transport_offset)
    }

    /// Bytes behind the transport header; of the whole train for a GSO packet.
    #[inline(always)]
    pub fn payload_length(&self) -> u32 {
        self.total_length.wrapping_sub(self.headers_length())
    }

    /// Bytes of the IP and transport headers.
    #[inline(always)]
    fn headers_length(&self) -> u32 {
        u32::from(self.transport_offset - ETHERNET as u16) + u32::from(self.transport_length)
    }

    /// Bytes of the longest IP packet that will be on the wire: of one segment, if the packet is a GSO train.
    #[inline(always)]
    pub fn segment_length(&self, packet: &impl AnyPacket) -> u32 {
        let gso = packet.gso_size();
        if gso == 0 {
            return self.total_length;
        }
        self.headers_length() + gso
    }

    /// Whether this is an echo request.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        (self.key.proto == ICMP && self.icmp_type == transport::ECHO_REQUEST)
            || (self.key.proto == ICMPV6 && self.icmp_type == transport::ECHO_REQUEST_V6)
    }
}

/// Where a header can stand at most, bytes into the frame.
const MAX_OFFSET: u16 = 0x1ff;

/// An offset into a packet that was found by reading it, for reading there.
///
/// At most 511, and the verifier sees it: after a spill of two bytes it has forgotten the bound, and the compiler, which
/// has not, would drop a mask that it can see through.
#[inline(always)]
pub fn bounded(offset: u16) -> usize {
    (core::hint::black_box(offset) & MAX_OFFSET) as usize
}
