//! What one direction of a TCP connection has shown so far.
//!
//! Each half of a flow records only its own direction, so a packet writes one entry; the pair's state is derived from
//! both (`flow_state`).

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

#[cfg(test)]
mod tests {
    use super::*;

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
