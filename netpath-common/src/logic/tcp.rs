//! What one direction of a TCP connection has shown so far.
//!
//! Each half of a flow records only its own direction, so a packet writes one entry; the pair's state is derived from
//! both (`flow_state`). Sequence numbers are compared as they wrap (RFC 9293, 3.4).

use crate::abi::Flow;

/// FIN flag of the TCP header.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// ACK flag.
pub const ACK: u8 = 0x10;

/// The half's new record after a segment with `flags`.
///
/// A SYN starts over: a closing tuple is reused. What was acknowledged stays so: a forged SYN must not make a live flow one
/// that nobody answered. A segment without RST restores a half that had seen one: a stray RST
/// only shortens the lifetime until data follows.
#[inline(always)]
pub const fn observe(seen: u8, flags: u8) -> u8 {
    let flags = flags & (FIN | SYN | RST | ACK);
    if flags & SYN != 0 {
        return (seen & ACK) | flags;
    }
    if flags & RST != 0 {
        return seen | RST;
    }
    (seen & !RST) | flags
}

/// How far from what is known of a direction its next segment may start: far enough for what gets lost or overtaken
/// before the node sees it, and so little that whoever does not know the numbers has to try thousands.
const LEAP: u32 = 1 << 20;

/// The largest window (RFC 7323, 2.3): nobody sends further than this beyond what was acknowledged.
const MAX_WINDOW: u32 = 1 << 30;

/// A segment's numbers, host order.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; nothing without the flag.
    pub ack: u32,
    /// Payload, bytes; of the whole train for a GSO packet.
    pub length: u32,
    /// Flags.
    pub flags: u8,
}

impl Segment {
    /// The number after its last, as [`Flow::tcp_end`] has it: SYN and FIN take one each (RFC 9293, 3.4).
    #[inline(always)]
    pub const fn end(self) -> u32 {
        let marks = (self.flags & SYN) / SYN + (self.flags & FIN) / FIN;
        known(self.seq.wrapping_add(self.length).wrapping_add(marks as u32))
    }

    /// What its direction has sent up to, after it; `None` if it starts so far from what is known of `own` that it may be
    /// forged, or that much went another way.
    #[inline(always)]
    pub const fn advance(self, own: &Flow) -> Option<u32> {
        // A SYN that nobody has answered yet, and then another one: a new attempt.
        let first = own.tcp_end == 0 || (self.flags & SYN != 0 && own.tcp_seen & ACK == 0);
        if first {
            return Some(self.end());
        }
        if !is_near(self.seq, own.tcp_end) {
            return None;
        }
        let end = self.end();
        let is_later = end.wrapping_sub(own.tcp_end) < 1 << 31;
        Some(if is_later { end } else { own.tcp_end })
    }

    /// The same for a segment that starts far from what is known of `own`: if that cannot be true any more, by what the peer
    /// has acknowledged, and the segment starts near there, it counts from here on. `None` if it must not count.
    #[inline(always)]
    pub const fn resume(self, own: &Flow, peer: &Flow) -> Option<u32> {
        let outdated = own.tcp_end.wrapping_sub(peer.tcp_ack) > MAX_WINDOW;
        if outdated && is_near(self.seq, peer.tcp_ack) { Some(self.end()) } else { None }
    }

    /// Whether it answers the peer's SYN that came far from what was known: the connection begins anew at both ends.
    #[inline(always)]
    pub const fn is_answer_to_new(self, peer: &Flow) -> bool {
        self.flags & SYN != 0 && self.acknowledges(peer.tcp_new)
    }

    /// Whether it acknowledges what ends there; 0 is nothing.
    #[inline(always)]
    const fn acknowledges(self, end: u32) -> bool {
        self.flags & ACK != 0 && known(self.ack) == end
    }

    /// Whether an RST can be its connection's (RFC 5961, 3): it lies between what the peer acknowledged last and the end of
    /// what its own direction has sent. The peer has acknowledged nothing while it waits for the answer to its SYN: then the
    /// RST must acknowledge that (RFC 9293, 3.10.7.3). So may one that refuses a new connection with the old one's ports.
    #[inline(always)]
    pub const fn is_reset(self, own: &Flow, peer: &Flow) -> bool {
        if peer.tcp_seen & ACK == 0 {
            return self.acknowledges(peer.tcp_end);
        }
        if self.acknowledges(peer.tcp_new) {
            return true;
        }
        let sent = own.tcp_end.wrapping_sub(peer.tcp_ack);
        // Without knowledge, only what the peer waits for is sure.
        let sent = if own.tcp_end == 0 || sent > MAX_WINDOW { 0 } else { sent };
        self.seq.wrapping_sub(peer.tcp_ack) <= sent
    }
}

/// A number that is not "unknown": 0 gives way to its neighbour.
#[inline(always)]
const fn known(number: u32) -> u32 {
    if number == 0 { 1 } else { number }
}

#[inline(always)]
const fn is_near(number: u32, of: u32) -> bool {
    number.wrapping_sub(of).wrapping_add(LEAP) <= 2 * LEAP
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One direction of a connection, whose number `sent` is the next; the segments were cut from it.
    #[derive(Debug)]
    struct Sender {
        half: Flow,
        sent: u32,
    }

    impl Sender {
        /// After a SYN that was acknowledged.
        fn new(isn: u32) -> Self {
            let half = Flow { tcp_seen: SYN | ACK, ..Flow::EMPTY };
            let mut sender = Self { half, sent: isn };
            sender.see(segment(isn, 0, SYN));
            sender.sent = isn.wrapping_add(1);
            sender
        }

        /// The node sees a segment, of this direction or not.
        fn see(&mut self, segment: Segment) {
            if let Some(end) = segment.advance(&self.half) {
                self.half.tcp_end = end;
            }
        }

        /// Sends so much more; `lost` before the node.
        fn send(&mut self, length: u32, lost: bool) {
            let segment = segment(self.sent, length, ACK);
            self.sent = self.sent.wrapping_add(length);
            if !lost {
                self.see(segment);
            }
        }
    }

    fn segment(seq: u32, length: u32, flags: u8) -> Segment {
        Segment { seq, ack: 0, length, flags }
    }

    /// Whether an RST of a direction that has sent up to `sent` counts, measured by a peer that waits for `acknowledged`.
    fn counts(sender: &Sender, acknowledged: u32, seq: u32) -> bool {
        let peer = Flow { tcp_seen: ACK, tcp_ack: acknowledged, ..Flow::EMPTY };
        segment(seq, 0, RST).is_reset(&sender.half, &peer)
    }

    proptest! {
        #[test]
        fn what_was_sent_is_known_whatever_is_lost_sent_again_or_overtaken(
            isn: u32,
            sends in proptest::collection::vec((0u32..600_000, any::<bool>(), 0u32..600_000), 1..40),
        ) {
            let mut sender = Sender::new(isn);
            for (length, lost, again) in sends {
                let lost = lost && length < LEAP / 2 && sender.half.tcp_end == known(sender.sent);
                sender.send(length, lost);
                if !lost {
                    prop_assert_eq!(sender.half.tcp_end, known(sender.sent));
                }
                // Something older comes once more.
                sender.see(segment(sender.half.tcp_end.wrapping_sub(again), again.min(1448), ACK));
                prop_assert!(sender.half.tcp_end == known(sender.sent) || lost);
            }
        }

        #[test]
        fn a_reset_counts_from_the_acknowledged_to_the_sent(isn: u32, flight in 0u32..MAX_WINDOW, at: u32) {
            let mut sender = Sender::new(isn);
            let acknowledged = sender.sent;
            sender.send(flight, false);
            let expected = at <= sender.half.tcp_end.wrapping_sub(acknowledged);
            prop_assert_eq!(counts(&sender, acknowledged, acknowledged.wrapping_add(at)), expected);
            prop_assert!(counts(&sender, acknowledged, acknowledged));
            prop_assert!(counts(&sender, acknowledged, sender.half.tcp_end));
            prop_assert!(!counts(&sender, acknowledged, acknowledged.wrapping_sub(1)));
            prop_assert!(!counts(&sender, acknowledged, sender.half.tcp_end.wrapping_add(1)));
        }

        #[test]
        fn a_forged_segment_makes_no_room_for_a_reset(isn: u32, far in LEAP + 1..=u32::MAX - LEAP, length in 0u32..65_536) {
            let mut sender = Sender::new(isn);
            sender.send(5000, false);
            let before = sender.half;
            let forged = segment(before.tcp_end.wrapping_add(far), length, ACK);
            sender.see(forged);
            prop_assert_eq!(sender.half, before);
            let peer = Flow { tcp_seen: ACK, tcp_ack: sender.sent, ..Flow::EMPTY };
            prop_assert_eq!(forged.resume(&before, &peer), None);
        }

        #[test]
        fn a_direction_that_was_lost_is_found_again_at_what_was_acknowledged(isn: u32, unseen in MAX_WINDOW..1 << 31) {
            let mut sender = Sender::new(isn);
            sender.send(unseen, true);
            let peer = Flow { tcp_seen: ACK, tcp_ack: sender.sent, ..Flow::EMPTY };
            let next = segment(sender.sent, 1448, ACK);
            prop_assert_eq!(next.advance(&sender.half), None);
            prop_assert!(counts(&sender, sender.sent, sender.sent), "what the peer waits for always counts");
            prop_assert!(!counts(&sender, sender.sent, sender.sent.wrapping_add(1)));
            prop_assert_eq!(next.resume(&sender.half, &peer), Some(next.end()));
        }

        #[test]
        fn the_answer_to_a_syn_must_acknowledge_it(isn: u32, data in 0u32..1460, ack: u32, seq: u32) {
            let syn = segment(isn, data, SYN);
            let peer = Flow { tcp_seen: SYN, tcp_end: syn.end(), ..Flow::EMPTY };
            let right = isn.wrapping_add(1 + data);
            for (ack, flags, expected) in [(right, RST | ACK, true), (right, RST, false), (ack, RST | ACK, ack == right)] {
                let answer = Segment { seq, ack, length: 0, flags };
                let collides = known(ack) == known(right);
                prop_assert_eq!(answer.is_reset(&Flow::EMPTY, &peer), expected || collides && flags & ACK != 0);
            }
        }
    }

    #[test]
    fn another_syn_is_another_attempt_until_one_is_answered() {
        let first = segment(1000, 0, SYN);
        let half = Flow { tcp_seen: SYN, tcp_end: first.end(), ..Flow::EMPTY };
        let second = segment(3_000_000_000, 0, SYN);
        assert_eq!(second.advance(&half), Some(3_000_000_001));
        assert_eq!(second.advance(&Flow { tcp_seen: SYN | ACK, ..half }), None, "of a live connection");
    }

    #[test]
    fn what_an_older_build_left_counts_where_the_peer_waits() {
        let (own, peer) = (Flow::EMPTY, Flow { tcp_seen: ACK, tcp_ack: 7, ..Flow::EMPTY });
        assert!(segment(7, 0, RST).is_reset(&own, &peer));
        assert!(!segment(8, 0, RST).is_reset(&own, &peer));
        assert_eq!(segment(500, 10, FIN | ACK).advance(&own), Some(511));
    }

    #[test]
    fn syn_starts_over() {
        assert_eq!(observe(FIN | RST, SYN), SYN);
        assert_eq!(observe(FIN | ACK | RST, SYN), SYN | ACK);
    }

    #[test]
    fn data_after_reset_restores() {
        let reset = observe(SYN | ACK, RST);
        assert_ne!(reset & RST, 0);
        assert_eq!(observe(reset, ACK) & RST, 0);
    }

    #[test]
    fn fin_stays() {
        assert_ne!(observe(observe(ACK, FIN | ACK), ACK) & FIN, 0);
    }
}
