//! ICMP errors being built.

use std::net::{IpAddr, Ipv4Addr};

use super::frame::Frame;

/// What an ICMP error says, in the terms of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Destination unreachable, with its code.
    Unreachable(u8),
    /// Larger than the next hop's MTU: IPv4's "fragmentation needed", IPv6's "packet too big".
    TooBig(u16),
    /// Time exceeded, with its code.
    TimeExceeded(u8),
    /// Parameter problem: code, and where in the packet.
    ParameterProblem(u8, u8),
    /// Redirect; IPv4 only, since IPv6's is neighbour discovery.
    Redirect(Ipv4Addr),
    /// Source quench; IPv4 only.
    SourceQuench,
}

impl ErrorKind {
    /// Type and code, and the second word of the header, for IPv4.
    fn v4(self) -> ([u8; 2], [u8; 4]) {
        match self {
            Self::Unreachable(code) => ([3, code], [0; 4]),
            Self::TooBig(mtu) => ([3, 4], u32::from(mtu).to_be_bytes()),
            Self::TimeExceeded(code) => ([11, code], [0; 4]),
            Self::ParameterProblem(code, pointer) => ([12, code], [pointer, 0, 0, 0]),
            Self::Redirect(gateway) => ([5, 1], gateway.octets()),
            Self::SourceQuench => ([4, 0], [0; 4]),
        }
    }

    /// The same for IPv6.
    fn v6(self) -> ([u8; 2], [u8; 4]) {
        match self {
            Self::Unreachable(code) => ([1, code], [0; 4]),
            Self::TooBig(mtu) => ([2, 0], u32::from(mtu).to_be_bytes()),
            Self::TimeExceeded(code) => ([3, code], [0; 4]),
            Self::ParameterProblem(code, pointer) => ([4, code], u32::from(pointer).to_be_bytes()),
            Self::Redirect(_) | Self::SourceQuench => panic!("{self:?} is IPv4's"),
        }
    }

    /// Type and code in a family.
    pub fn numbers(self, v4: bool) -> [u8; 2] {
        if v4 { self.v4().0 } else { self.v6().0 }
    }
}

impl Frame {
    /// An ICMP error about a packet (its IP bytes, without Ethernet), of which it embeds the first `embed` bytes.
    ///
    /// # Panics
    /// If IPv6 has no such error.
    pub fn error(
        from: impl Into<IpAddr>,
        to: impl Into<IpAddr>,
        kind: ErrorKind,
        offending: &[u8],
        embed: usize,
    ) -> Self {
        let from = from.into();
        let (numbers, word) = if from.is_ipv4() { kind.v4() } else { kind.v6() };
        let embedded = offending[..embed.min(offending.len())].to_vec();
        Self::message(from, to, numbers, word).payload(embedded)
    }
}
