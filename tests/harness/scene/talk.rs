//! What a pod and a server say to each other, for every protocol that is translated.

use std::net::IpAddr;

use crate::packet::{ACK, ETHERNET, Frame, SYN, Seen, protocol, see};

use super::{Family, REDIRECT, Scene};

/// A protocol that is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo; its identifier is the port.
    Echo,
    /// SCTP, whose port never changes.
    Sctp,
}

/// The server's port.
pub const SERVER_PORT: u16 = 443;

impl Talk {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Echo, Self::Sctp];
    /// Those whose port may change.
    pub const PORTS: [Self; 3] = [Self::Tcp, Self::Udp, Self::Echo];

    /// The first packet of a flow.
    pub fn question(self, from: (IpAddr, u16), server: IpAddr) -> Frame {
        match self {
            Self::Tcp => Frame::tcp(from, (server, SERVER_PORT), SYN),
            Self::Udp => Frame::udp(from, (server, SERVER_PORT)),
            Self::Echo => Frame::echo(from.0, server, true, from.1, 1),
            Self::Sctp => Frame::sctp(from, (server, SERVER_PORT)),
        }
    }

    /// What the server says to it.
    pub fn answer(self, server: IpAddr, to: (IpAddr, u16)) -> Frame {
        match self {
            Self::Tcp => Frame::tcp((server, SERVER_PORT), to, ACK),
            Self::Udp => Frame::udp((server, SERVER_PORT), to),
            Self::Echo => Frame::echo(server, to.0, false, to.1, 1),
            Self::Sctp => Frame::sctp((server, SERVER_PORT), to),
        }
    }

    /// The protocol's number in a family.
    pub fn number(self, family: &Family) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Echo => family.icmp(),
            Self::Sctp => protocol::SCTP,
        }
    }

    /// The port at the server's end: an echo has only one.
    pub fn server_port(self, port: u16) -> u16 {
        if self == Self::Echo { port } else { SERVER_PORT }
    }

    /// Pod A opens a flow to the server outside; returns its packet as it left the pod and as it left the node.
    pub fn open(self, scene: &Scene, family: &Family, port: u16) -> Opened {
        let frame = self.question((family.a, port), family.outside);
        let sent = frame.clone().packet();
        let ran = scene.a_says(frame);
        assert_eq!(ran.code, REDIRECT, "{self:?} from {}:{port}: verdict", family.a);
        let seen = see(&ran.packet);
        assert_eq!(seen.source, family.node, "{self:?} from {}:{port}: {seen:?}", family.a);
        Opened { sent, left: ran.packet[ETHERNET..].to_vec(), seen }
    }
}

/// A flow that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The IP packet that the pod sent.
    pub sent: Vec<u8>,
    /// The IP packet that left the node.
    pub left: Vec<u8>,
    /// The same, read.
    pub seen: Seen,
}
