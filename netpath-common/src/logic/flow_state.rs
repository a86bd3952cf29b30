//! The state of a flow and how long it may stay idle, from what one of its halves knows.

use super::tcp::{FIN, RST};
use crate::abi::{Flow, FlowDirection, PEER_SEEN};

/// State of a pair of halves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// No reply yet.
    Unreplied,
    /// Both directions have been seen.
    Established,
    /// TCP: FIN from both sides.
    Closing,
    /// TCP: an RST, and nothing since.
    Reset,
}

impl FlowState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Unreplied, Self::Established, Self::Closing, Self::Reset];

    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "unreplied",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SECOND: u64 = 1_000_000_000;

/// The pair's state as one half knows it: what it has seen itself and what the other one has told it.
pub const fn state(proto: u8, half: &Flow) -> FlowState {
    if proto == TCP {
        if (half.tcp_seen | half.peer_seen) & RST != 0 {
            return FlowState::Reset;
        }
        // A half-closed connection may stream in its other direction for hours: one FIN is not a close.
        if half.tcp_seen & half.peer_seen & FIN != 0 {
            return FlowState::Closing;
        }
    }
    let replied = if half.direction == FlowDirection::Reply as u8 {
        half.packets != 0
    } else {
        half.peer_seen & PEER_SEEN != 0
    };
    if replied { FlowState::Established } else { FlowState::Unreplied }
}

/// How long the later half of a pair may be idle before the pair expires, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP without an answer.
    pub tcp_unreplied: u64,
    /// TCP that both sides have sent on.
    pub tcp_established: u64,
    /// TCP after a FIN from both sides.
    pub tcp_closing: u64,
    /// TCP after an RST.
    pub tcp_reset: u64,
    /// UDP without an answer.
    pub udp_unreplied: u64,
    /// UDP that both sides have sent on.
    pub udp_replied: u64,
    /// ICMP and ICMPv6 echo.
    pub icmp: u64,
    /// Any other protocol.
    pub other: u64,
}

impl Timeouts {
    /// What is used unless something else is configured.
    ///
    /// Established TCP has 6 h: above the default keepalive of 2 h, so that an idle connection with keepalive lives.
    pub const DEFAULT: Self = Self {
        tcp_unreplied: 60 * SECOND,
        tcp_established: 6 * 3600 * SECOND,
        tcp_closing: 30 * SECOND,
        tcp_reset: 10 * SECOND,
        udp_unreplied: 60 * SECOND,
        udp_replied: 180 * SECOND,
        icmp: 30 * SECOND,
        other: 600 * SECOND,
    };

    /// How long a pair of this state may be idle, ns.
    pub const fn lifetime(&self, proto: u8, state: FlowState) -> u64 {
        match (proto, state) {
            (TCP, FlowState::Unreplied) => self.tcp_unreplied,
            (TCP, FlowState::Established) => self.tcp_established,
            (TCP, FlowState::Closing) => self.tcp_closing,
            (TCP, FlowState::Reset) => self.tcp_reset,
            (UDP, FlowState::Unreplied) => self.udp_unreplied,
            (UDP, _) => self.udp_replied,
            (ICMP | ICMPV6, _) => self.icmp,
            _ => self.other,
        }
    }

    /// Whether a half has been idle for longer than its pair may be, as far as it knows: the other half may be younger.
    pub const fn is_over(&self, proto: u8, half: &Flow, now: u64) -> bool {
        now.saturating_sub(half.last_seen) > self.lifetime(proto, state(proto, half))
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::tcp::{ACK, SYN, observe};
    use proptest::prelude::*;

    const SCTP: u8 = 132;

    /// A pair to which packets come as the programs note them.
    struct Pair {
        proto: u8,
        original: Flow,
        reply: Flow,
    }

    #[derive(Clone, Copy, Debug)]
    enum Packet {
        Original(u8),
        Reply(u8),
    }
    use Packet::{Original, Reply};

    impl Pair {
        fn new(proto: u8) -> Self {
            let reply = Flow { direction: FlowDirection::Reply as u8, peer_seen: PEER_SEEN, ..Flow::EMPTY };
            Self { proto, original: Flow::EMPTY, reply }
        }

        fn of(proto: u8, packets: &[Packet]) -> Self {
            let mut pair = Self::new(proto);
            packets.iter().for_each(|&packet| pair.see(packet));
            pair
        }

        fn see(&mut self, packet: Packet) {
            let (own, other, flags) = match packet {
                Original(flags) => (&mut self.original, &mut self.reply, flags),
                Reply(flags) => (&mut self.reply, &mut self.original, flags),
            };
            own.packets += 1;
            if self.proto != TCP {
                other.peer_seen |= PEER_SEEN;
                return;
            }
            let ended = own.tcp_seen & own.peer_seen & FIN != 0 || (own.tcp_seen | own.peer_seen) & RST != 0;
            if matches!(packet, Original(_)) && flags & (SYN | ACK) == SYN && ended {
                (own.tcp_seen, own.peer_seen) = (SYN, 0);
                (other.tcp_seen, other.peer_seen) = (0, PEER_SEEN);
                return;
            }
            own.tcp_seen = observe(own.tcp_seen, flags);
            other.peer_seen = PEER_SEEN | own.tcp_seen & (FIN | RST);
        }

        fn state(&self) -> FlowState {
            state(self.proto, &self.original)
        }
    }

    fn of(packets: &[Packet]) -> FlowState {
        Pair::of(TCP, packets).state()
    }

    const OPEN: [Packet; 3] = [Original(SYN), Reply(SYN | ACK), Original(ACK)];

    fn opened(then: &[Packet]) -> Vec<Packet> {
        [&OPEN, then].concat()
    }

    #[test]
    fn a_connection_from_syn_to_close() {
        assert_eq!(of(&[Original(SYN)]), FlowState::Unreplied);
        assert_eq!(of(&[Original(SYN), Original(SYN)]), FlowState::Unreplied, "sent again");
        assert_eq!(of(&OPEN), FlowState::Established);
        let half_closed = opened(&[Original(FIN | ACK), Reply(ACK), Reply(ACK)]);
        assert_eq!(of(&half_closed), FlowState::Established, "one FIN is no close");
        assert_eq!(of(&opened(&[Reply(FIN | ACK), Original(ACK)])), FlowState::Established);
        assert_eq!(of(&opened(&[Original(FIN | ACK), Reply(FIN | ACK)])), FlowState::Closing);
        assert_eq!(of(&opened(&[Reply(FIN | ACK), Original(FIN | ACK), Reply(ACK)])), FlowState::Closing);
        assert_eq!(of(&[Original(SYN), Reply(RST | ACK)]), FlowState::Reset, "refused");
    }

    #[test]
    fn data_restores_what_a_reset_shortened() {
        assert_eq!(of(&opened(&[Reply(RST)])), FlowState::Reset);
        assert_eq!(of(&opened(&[Reply(RST), Reply(ACK)])), FlowState::Established);
        assert_eq!(
            of(&opened(&[Reply(RST), Original(ACK)])),
            FlowState::Reset,
            "the other side may not know yet"
        );
        assert_eq!(of(&opened(&[Original(RST), Original(ACK)])), FlowState::Established);
    }

    #[test]
    fn a_new_syn_reuses_a_closed_tuple() {
        for end in [vec![Original(FIN | ACK), Reply(FIN | ACK)], vec![Reply(RST)], vec![Original(RST)]] {
            let mut pair = Pair::of(TCP, &opened(&end));
            pair.see(Original(SYN));
            assert_eq!(pair.state(), FlowState::Unreplied, "{end:?}");
            OPEN[1..].iter().for_each(|&packet| pair.see(packet));
            assert_eq!(pair.state(), FlowState::Established, "{end:?}");
        }
    }

    #[test]
    fn lifetimes_go_by_protocol_and_state() {
        let timeouts = Timeouts {
            tcp_unreplied: 1,
            tcp_established: 2,
            tcp_closing: 3,
            tcp_reset: 4,
            udp_unreplied: 5,
            udp_replied: 6,
            icmp: 7,
            other: 8,
        };
        let of = |proto: u8| FlowState::ALL.map(|state| timeouts.lifetime(proto, state));
        assert_eq!(of(TCP), [1, 2, 3, 4]);
        assert_eq!(of(UDP)[..2], [5, 6]);
        assert_eq!((of(ICMP), of(ICMPV6), of(SCTP), of(0)), ([7; 4], [7; 4], [8; 4], [8; 4]));
    }

    #[test]
    fn the_clock_starts_with_the_last_packet() {
        let half = Flow { last_seen: 100 * SECOND, ..Flow::EMPTY };
        let over = |seconds| Timeouts::DEFAULT.is_over(UDP, &half, seconds * SECOND);
        assert!(!over(0), "a clock that was read before the packet came");
        assert!(!over(160));
        assert!(over(161));
    }

    fn packets() -> impl Strategy<Value = Vec<Packet>> {
        let packet = (any::<bool>(), any::<u8>());
        proptest::collection::vec(
            packet.prop_map(|(original, flags)| if original { Original(flags) } else { Reply(flags) }),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn both_halves_know_the_same(packets in packets(), proto in prop::sample::select(vec![TCP, UDP, ICMP, SCTP])) {
            // The original's first packet makes the pair.
            let mut pair = Pair::of(proto, &[Original(SYN)]);
            for packet in packets {
                pair.see(packet);
                let (original, reply) = (state(proto, &pair.original), state(proto, &pair.reply));
                // A tuple that is used again has packets of the last connection's reply.
                let reopened = pair.reply.packets != 0 && pair.original.peer_seen == 0;
                prop_assert!(original == reply || reopened, "{original:?} {reply:?}");
            }
        }

        #[test]
        fn data_from_both_sides_always_ends_a_reset(packets in packets()) {
            let mut pair = Pair::of(TCP, &packets);
            pair.see(Original(ACK));
            pair.see(Reply(ACK));
            prop_assert_ne!(pair.state(), FlowState::Reset);
        }

        #[test]
        fn only_tcp_closes(proto in 0u8.., packets in packets()) {
            prop_assume!(proto != TCP);
            let replied = packets.iter().any(|packet| matches!(packet, Reply(_)));
            let expected = if replied { FlowState::Established } else { FlowState::Unreplied };
            prop_assert_eq!(Pair::of(proto, &packets).state(), expected);
        }

        #[test]
        fn no_flag_of_tcp_passes_for_a_packet_of_the_peer(flags: u8) {
            prop_assert_eq!(observe(0, flags) & PEER_SEEN, 0);
        }
    }
}
