//! A packet being built.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, TcpHeader};

use super::{
    checksum::{internet, sctp, with_pseudo_header},
    header::{Extension, Header, protocol},
};

/// A packet being built: IPv4 or IPv6 in Ethernet; `bytes` fills in lengths and checksums.
#[derive(Clone, Debug)]
pub struct Frame {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    pub(super) ip: Header,
    transport: Transport,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<TcpHeader>),
    Udp { ports: [u16; 2], checksum: bool },
    Sctp { ports: [u16; 2] },
    Icmp(Vec<u8>),
    Raw,
}

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

/// A SYN alone.
pub const SYN: Flags = Flags { syn: true, ack: false, fin: false, rst: false };
/// An ACK alone.
pub const ACK: Flags = Flags { syn: false, ack: true, fin: false, rst: false };
/// SYN and ACK.
pub const SYN_ACK: Flags = Flags { syn: true, ack: true, fin: false, rst: false };
/// RST alone.
pub const RST: Flags = Flags { syn: false, ack: false, fin: false, rst: true };

impl Frame {
    fn new(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        protocol: u8,
        transport: Transport,
    ) -> Self {
        let ip = Header::new(source.into(), destination.into(), protocol);
        Self { source_mac: [0; 6], destination_mac: [0; 6], ip, transport, payload: b"netpath".to_vec() }
    }

    /// A TCP segment with sequence number 1, and 1 acknowledged if it has the flag.
    pub fn tcp(
        source: (impl Into<IpAddr>, u16),
        destination: (impl Into<IpAddr>, u16),
        flags: Flags,
    ) -> Self {
        let mut tcp = TcpHeader::new(source.1, destination.1, 1, 1024);
        (tcp.syn, tcp.ack, tcp.fin, tcp.rst) = (flags.syn, flags.ack, flags.fin, flags.rst);
        tcp.acknowledgment_number = flags.ack.into();
        Self::new(source.0, destination.0, protocol::TCP, Transport::Tcp(Box::new(tcp)))
    }

    /// A UDP datagram.
    pub fn udp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16)) -> Self {
        let transport = Transport::Udp { ports: [source.1, destination.1], checksum: true };
        Self::new(source.0, destination.0, protocol::UDP, transport)
    }

    /// An SCTP packet with one DATA chunk that holds the payload.
    pub fn sctp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16)) -> Self {
        let transport = Transport::Sctp { ports: [source.1, destination.1] };
        Self::new(source.0, destination.0, protocol::SCTP, transport)
    }

    /// An echo request or reply.
    pub fn echo(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        request: bool,
        id: u16,
        seq: u16,
    ) -> Self {
        let source = source.into();
        let kind = match (source.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let [[id_high, id_low], [seq_high, seq_low]] = [id.to_be_bytes(), seq.to_be_bytes()];
        Self::message(source, destination, [kind, 0], [id_high, id_low, seq_high, seq_low])
    }

    /// An ICMP message.
    pub fn icmp(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, kind: Icmpv4Type) -> Self {
        let header = Icmpv4Header::new(kind).to_bytes().to_vec();
        Self::new(source, destination, protocol::ICMP, Transport::Icmp(header))
    }

    /// An ICMPv6 message.
    pub fn icmpv6(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, kind: Icmpv6Type) -> Self {
        let header = Icmpv6Header::new(kind).to_bytes().to_vec();
        Self::new(source, destination, protocol::ICMPV6, Transport::Icmp(header))
    }

    /// A message of the source's family's ICMP: type and code, and the second word of its header.
    pub fn message(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        [kind, code]: [u8; 2],
        word: [u8; 4],
    ) -> Self {
        let source = source.into();
        let number = if source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let header = [&[kind, code, 0, 0][..], &word].concat();
        Self::new(source, destination, number, Transport::Icmp(header))
    }

    /// A packet of any protocol, without a transport header.
    pub fn raw(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8) -> Self {
        Self::new(source, destination, protocol, Transport::Raw)
    }

    /// Source and destination MAC.
    #[must_use]
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Another destination.
    #[must_use]
    pub fn to(mut self, destination: impl Into<IpAddr>) -> Self {
        self.ip.destination = destination.into();
        self
    }

    /// Time to live, or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.hops = ttl;
        self
    }

    /// IPv4 options; a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ip.options = options.to_vec();
        self
    }

    /// One more IPv6 extension header: what follows its next header and length. It is filled up to eight bytes.
    #[must_use]
    pub fn extension(mut self, kind: Extension, data: &[u8]) -> Self {
        self.ip.extensions.push((kind, data.to_vec()));
        self
    }

    /// Makes it a fragment. One with an offset has no transport header: it is the payload alone.
    #[must_use]
    pub fn fragment(mut self, offset_units: u16, more: bool) -> Self {
        self.ip.fragment = Some((offset_units, more));
        self
    }

    /// What tells the fragments of one datagram from another's; 16 bits over IPv4.
    #[must_use]
    pub fn identification(mut self, identification: u32) -> Self {
        self.ip.identification = identification;
        self
    }

    /// Sequence and acknowledgement number of a TCP segment.
    #[must_use]
    pub fn sequence(mut self, sequence: u32, acknowledged: u32) -> Self {
        if let Transport::Tcp(header) = &mut self.transport {
            (header.sequence_number, header.acknowledgment_number) = (sequence, acknowledged);
        }
        self
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        if let Transport::Udp { checksum, .. } = &mut self.transport {
            *checksum = false;
        }
        self
    }

    /// Payload.
    #[must_use]
    pub fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// The packet with its Ethernet header.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.ethernet();
        bytes.extend(self.packet());
        bytes
    }

    /// The packet without Ethernet, as ICMP errors embed it.
    pub fn packet(self) -> Vec<u8> {
        let later = matches!(self.ip.fragment, Some((1.., _)));
        let body = if later { self.payload } else { self.body() };
        let mut bytes = self.ip.head(body.len());
        bytes.extend(body);
        bytes
    }

    pub(super) fn ethernet(&self) -> Vec<u8> {
        let kind: u16 = if self.ip.source.is_ipv4() { 0x0800 } else { 0x86dd };
        [&self.destination_mac[..], &self.source_mac, &kind.to_be_bytes()].concat()
    }

    /// What fragments divide among themselves.
    pub(super) fn body(&self) -> Vec<u8> {
        [self.ip.tail(), self.segment()].concat()
    }

    /// Transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let (source, destination, number) = (self.ip.source, self.ip.destination, self.ip.protocol);
        let sum = |segment: &[u8]| with_pseudo_header(source, destination, number, segment);
        let mut segment = self.transport.header(self.payload.len());
        segment.extend_from_slice(&self.payload);
        let (at, value) = match &self.transport {
            Transport::Tcp(_) => (16, sum(&segment)),
            // A sum of 0 is sent as 0xffff (RFC 768).
            Transport::Udp { checksum: true, .. } => match sum(&segment) {
                0 => (6, 0xffff),
                value => (6, value),
            },
            Transport::Udp { .. } => (6, 0),
            Transport::Icmp(_) if number == protocol::ICMPV6 => (2, sum(&segment)),
            Transport::Icmp(_) => (2, internet(&segment)),
            Transport::Sctp { .. } => {
                segment.resize(segment.len().next_multiple_of(4), 0);
                let crc = sctp(&segment);
                segment[8..12].copy_from_slice(&crc);
                return segment;
            }
            Transport::Raw => return segment,
        };
        segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
        segment
    }
}

impl Transport {
    /// The header with a checksum of 0.
    fn header(&self, payload: usize) -> Vec<u8> {
        let ports = |[source, destination]: [u16; 2]| {
            let [[a, b], [c, d]] = [source.to_be_bytes(), destination.to_be_bytes()];
            vec![a, b, c, d]
        };
        match self {
            Self::Tcp(header) => header.to_bytes().to_vec(),
            Self::Udp { ports: pair, .. } => {
                let length = u16::try_from(8 + payload).expect("UDP length");
                [&ports(*pair)[..], &length.to_be_bytes(), &[0; 2]].concat()
            }
            // Verification tag, checksum; DATA, first and last of its message, TSN 1, stream 0, sequence 0, protocol 0.
            Self::Sctp { ports: pair } => {
                let length = u16::try_from(16 + payload).expect("SCTP length");
                let chunk = [&[0, 3][..], &length.to_be_bytes(), &[0, 0, 0, 1], &[0; 8]].concat();
                [&ports(*pair)[..], &[0x6e, 0x65, 0x74, 0x70], &[0; 4], &chunk].concat()
            }
            Self::Icmp(header) => header.clone(),
            Self::Raw => Vec::new(),
        }
    }
}
