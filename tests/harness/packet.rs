//! Packets in, packets out.

use std::net::Ipv4Addr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, IpNumber,
    Ipv4Header, Ipv4Options, NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};

/// A packet being built. IPv4 in Ethernet; `bytes` fills in lengths and checksums.
#[derive(Clone, Debug)]
pub struct Frame {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    ip: Ipv4Header,
    transport: Transport,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<TcpHeader>),
    Udp { header: UdpHeader, checksum: bool },
    Icmp(Icmpv4Type),
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
    fn new(source: Ipv4Addr, destination: Ipv4Addr, number: IpNumber, transport: Transport) -> Self {
        let ip = Ipv4Header::new(0, 64, number, source.octets(), destination.octets()).expect("header");
        Self { source_mac: [0; 6], destination_mac: [0; 6], ip, transport, payload: b"netpath".to_vec() }
    }

    /// A TCP segment.
    pub fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flags: Flags) -> Self {
        let mut tcp = TcpHeader::new(source.1, destination.1, 1, 1024);
        (tcp.syn, tcp.ack, tcp.fin, tcp.rst) = (flags.syn, flags.ack, flags.fin, flags.rst);
        Self::new(source.0, destination.0, IpNumber::TCP, Transport::Tcp(Box::new(tcp)))
    }

    /// A UDP datagram.
    pub fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Self {
        let header =
            UdpHeader { source_port: source.1, destination_port: destination.1, length: 0, checksum: 0 };
        Self::new(source.0, destination.0, IpNumber::UDP, Transport::Udp { header, checksum: true })
    }

    /// An ICMP message.
    pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: Icmpv4Type) -> Self {
        Self::new(source, destination, IpNumber::ICMP, Transport::Icmp(kind))
    }

    /// A packet of any protocol, without a transport header.
    pub fn raw(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self::new(source, destination, IpNumber(protocol), Transport::Raw)
    }

    /// Source and destination MAC.
    #[must_use]
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.time_to_live = ttl;
        self
    }

    /// IP options; a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ip.options = Ipv4Options::try_from(options).expect("options");
        self
    }

    /// Makes it a fragment.
    #[must_use]
    pub fn fragment(mut self, offset_units: u16, more: bool) -> Self {
        self.ip.fragment_offset = offset_units.try_into().expect("offset");
        self.ip.more_fragments = more;
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

    /// The packet.
    pub fn bytes(mut self) -> Vec<u8> {
        let transport = self.transport();
        self.ip.set_payload_len(transport.len() + self.payload.len()).expect("length");
        self.ip.header_checksum = self.ip.calc_header_checksum();
        let mut bytes = Ethernet2Header {
            source: self.source_mac,
            destination: self.destination_mac,
            ether_type: EtherType::IPV4,
        }
        .to_bytes()
        .to_vec();
        bytes.extend_from_slice(&self.ip.to_bytes());
        bytes.extend_from_slice(&transport);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn transport(&self) -> Vec<u8> {
        match &self.transport {
            Transport::Tcp(header) => {
                let mut header = header.clone();
                header.checksum = header.calc_checksum_ipv4(&self.ip, &self.payload).expect("checksum");
                header.to_bytes().to_vec()
            }
            Transport::Udp { header, checksum } => {
                let mut header = header.clone();
                header.length = 8 + self.payload.len() as u16;
                if *checksum {
                    header.checksum = header.calc_checksum_ipv4(&self.ip, &self.payload).expect("checksum");
                }
                header.to_bytes().to_vec()
            }
            Transport::Icmp(kind) => {
                Icmpv4Header::with_checksum(kind.clone(), &self.payload).to_bytes().to_vec()
            }
            Transport::Raw => Vec::new(),
        }
    }
}

/// An ARP packet for IPv4.
pub fn arp(request: bool, frame_source: [u8; 6], sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let operation = if request { ArpOperation::REQUEST } else { ArpOperation::REPLY };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &sender.1.octets(),
        &[0; 6],
        &target.octets(),
    )
    .expect("ARP packet");
    let ethernet =
        Ethernet2Header { source: frame_source, destination: [0xff; 6], ether_type: EtherType::ARP };
    [ethernet.to_bytes().to_vec(), packet.to_bytes().to_vec()].concat()
}

/// What a packet says, as far as the tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port; the identifier for an echo.
    pub source_port: u16,
    /// Destination port; the identifier for an echo.
    pub destination_port: u16,
    /// Time to live.
    pub ttl: u8,
    /// UDP checksum field, 0 for other protocols.
    pub udp_checksum: u16,
}

/// Reads a packet and checks its checksums, all of them.
///
/// # Panics
/// If it cannot be read or a checksum is wrong.
pub fn see(bytes: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4: {bytes:02x?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum of {bytes:02x?}");
    let (source_port, destination_port, udp_checksum) = ports(&sliced, &header);
    Seen {
        source_mac: bytes[6..12].try_into().expect("six bytes"),
        destination_mac: bytes[..6].try_into().expect("six bytes"),
        source: header.source.into(),
        destination: header.destination.into(),
        source_port,
        destination_port,
        ttl: header.time_to_live,
        udp_checksum,
    }
}

fn ports(sliced: &SlicedPacket<'_>, header: &Ipv4Header) -> (u16, u16, u16) {
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let wanted = tcp.to_header().calc_checksum_ipv4(header, tcp.payload()).expect("checksum");
            assert_eq!(tcp.checksum(), wanted, "TCP checksum");
            (tcp.source_port(), tcp.destination_port(), 0)
        }
        Some(TransportSlice::Udp(udp)) => {
            if udp.checksum() != 0 {
                let wanted = udp.to_header().calc_checksum_ipv4(header, udp.payload()).expect("checksum");
                assert_eq!(udp.checksum(), wanted, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port(), udp.checksum())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let wanted = Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload()).checksum;
            assert_eq!(icmp.checksum(), wanted, "ICMP checksum");
            match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => (echo.id, echo.id, 0),
                _ => (0, 0, 0),
            }
        }
        _ => (0, 0, 0),
    }
}
