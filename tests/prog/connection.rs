//! A connection of pod A to a server, packet by packet.

use netpath::datapath::FlowPair;
use netpath_common::abi::Program;
use netpath_tests::{
    packet::{ACK, ETHERNET, Flags, Frame, SYN, SYN_ACK, see},
    scene::{Context, Family, GATEWAY_MAC, REDIRECT, Scene, from_router},
};

pub(crate) const FIN_ACK: Flags = Flags { syn: false, ack: true, fin: true, rst: false };
pub(crate) const RST_ACK: Flags = Flags { syn: false, ack: true, fin: false, rst: true };
/// The pod's port, which the node keeps.
pub(crate) const PORT: u16 = 40_000;
const SERVER: u16 = 443;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Pod,
    Server,
}

pub(crate) struct Connection {
    pub(crate) scene: Scene,
    f: Family,
}

impl Connection {
    /// Nothing sent yet.
    pub(crate) fn unopened(f: Family) -> Self {
        Self { scene: Scene::new(), f }
    }

    /// After the handshake: A has sent up to 2, the server up to 1001.
    pub(crate) fn new(f: Family) -> Self {
        let connection = Self::unopened(f);
        connection.out(SYN, 1, 0);
        connection.back(SYN_ACK, 1000, 2);
        connection.out(ACK, 2, 1001);
        connection.is("established", "after the handshake");
        connection
    }

    pub(crate) fn out(&self, flags: Flags, sequence: u32, acknowledged: u32) -> u16 {
        let packet = self.send(Side::Pod, flags, (sequence, acknowledged), 0);
        see(&packet).source_port
    }

    pub(crate) fn back(&self, flags: Flags, sequence: u32, acknowledged: u32) {
        self.send(Side::Server, flags, (sequence, acknowledged), 0);
    }

    /// A segment with so much payload; the packet as it went on.
    pub(crate) fn send(&self, from: Side, flags: Flags, numbers: (u32, u32), payload: usize) -> Vec<u8> {
        self.run(from, &self.packet(from, flags, numbers, payload), 0)
    }

    /// The same as a train of segments; one of more than 64 KiB (BIG TCP) does not say its length.
    pub(crate) fn send_train(&self, from: Side, numbers: (u32, u32), payload: usize, says_length: bool) {
        const SEGMENT: u32 = 1000;
        let mut packet = self.packet(from, ACK, numbers, payload);
        if !says_length {
            let at = ETHERNET + self.f.pick(2, 4);
            packet[at..at + 2].fill(0);
        }
        self.run(from, &packet, SEGMENT);
    }

    fn packet(&self, from: Side, flags: Flags, (sequence, ack): (u32, u32), payload: usize) -> Vec<u8> {
        let f = &self.f;
        let frame = match from {
            Side::Pod => Frame::tcp((f.a, PORT), (f.outside, SERVER), flags),
            Side::Server => Frame::tcp((f.outside, SERVER), (f.node, PORT), flags),
        };
        let frame = frame.sequence(sequence, ack).payload(vec![0; payload]);
        match from {
            Side::Pod => frame.macs(self.scene.a.mac, GATEWAY_MAC).bytes(),
            Side::Server => from_router(frame),
        }
    }

    fn run(&self, from: Side, packet: &[u8], gso_size: u32) -> Vec<u8> {
        let (program, ifindex) = match from {
            Side::Pod => (Program::FromPod, self.scene.a.ifindex),
            Side::Server => (Program::FromUplink, self.scene.uplink),
        };
        let context = Context { ifindex, gso_size, ..Context::default() };
        let ran = self.scene.expect_no_drop("segment", |scene| scene.run(program, packet, context));
        assert_eq!(ran.code, REDIRECT, "{from:?}");
        ran.packet
    }

    pub(crate) fn pair(&self) -> FlowPair {
        let pairs = self.scene.pairs();
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        pairs[0]
    }

    pub(crate) fn is(&self, state: &str, when: &str) {
        let pair = self.pair();
        assert_eq!(pair.state().name(), state, "{when}: {pair:?}");
    }

    pub(crate) fn close(&self) {
        self.out(FIN_ACK, 2, 1001);
        self.back(FIN_ACK, 1001, 3);
        self.is("closing", "after two FINs");
    }
}
