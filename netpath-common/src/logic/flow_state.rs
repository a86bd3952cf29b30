//! The state of a flow and how long it may stay idle, from what both halves have shown.

use super::tcp::{FIN, RST};

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

/// One half's evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Half {
    /// `Flow::packets`.
    pub packets: u64,
    /// `Flow::tcp_seen`.
    pub tcp_seen: u8,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SECOND: u64 = 1_000_000_000;

/// The pair's state.
pub const fn state(proto: u8, original: Half, reply: Half) -> FlowState {
    if proto == TCP {
        if (original.tcp_seen | reply.tcp_seen) & RST != 0 {
            return FlowState::Reset;
        }
        // A half-closed connection may stream in its other direction for hours: one FIN is not a close.
        if original.tcp_seen & reply.tcp_seen & FIN != 0 {
            return FlowState::Closing;
        }
    }
    if reply.packets == 0 { FlowState::Unreplied } else { FlowState::Established }
}

/// How long the later half may be idle before the pair expires, ns.
///
/// Established TCP has 6 h: above the default keepalive of 2 h, so that an idle connection with keepalive lives.
pub const fn lifetime(proto: u8, state: FlowState) -> u64 {
    SECOND
        * match (proto, state) {
            (TCP, FlowState::Unreplied) => 60,
            (TCP, FlowState::Established) => 6 * 3600,
            (TCP, FlowState::Closing) => 30,
            (TCP, FlowState::Reset) => 10,
            (UDP, FlowState::Unreplied) => 60,
            (UDP, _) => 180,
            (ICMP | ICMPV6, _) => 30,
            _ => 600,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::tcp::{ACK, SYN, observe};
    use proptest::prelude::*;

    fn half(flags: &[u8]) -> Half {
        Half { packets: flags.len() as u64, tcp_seen: flags.iter().fold(0, |seen, &f| observe(seen, f)) }
    }

    #[test]
    fn handshake_to_close() {
        let none = Half::default();
        assert_eq!(state(TCP, half(&[SYN]), none), FlowState::Unreplied);
        assert_eq!(state(TCP, half(&[SYN, ACK]), half(&[SYN | ACK])), FlowState::Established);
        assert_eq!(state(TCP, half(&[SYN, ACK, FIN | ACK]), half(&[SYN | ACK, ACK])), FlowState::Established);
        assert_eq!(state(TCP, half(&[SYN, FIN | ACK]), half(&[SYN | ACK, FIN | ACK])), FlowState::Closing);
    }

    #[test]
    fn a_new_syn_reuses_a_closed_tuple() {
        let reply = half(&[SYN | ACK, FIN | ACK]);
        let original = half(&[SYN, FIN | ACK, SYN]);
        assert_eq!(state(TCP, original, reply), FlowState::Established);
    }

    proptest! {
        #[test]
        fn data_from_both_sides_always_ends_a_reset(before: Vec<u8>, after: Vec<u8>) {
            let mut original = half(&before);
            let mut reply = half(&after);
            original.tcp_seen = observe(original.tcp_seen, ACK);
            reply.tcp_seen = observe(reply.tcp_seen, ACK);
            prop_assert_ne!(state(TCP, original, reply), FlowState::Reset);
        }

        #[test]
        fn only_tcp_closes(proto in 0u8.., flags: u8, packets: u64) {
            prop_assume!(proto != TCP);
            let half = Half { packets, tcp_seen: flags };
            prop_assert!(matches!(state(proto, half, half), FlowState::Unreplied | FlowState::Established));
        }
    }
}
