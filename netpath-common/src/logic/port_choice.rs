//! Which ports of the SNAT range to try, and in which order.

/// Tries a packet may cost. A range up to this size is searched completely.
pub const MAX_TRIES: u32 = 128;

/// Step between candidates. A prime, so it visits every port of a range it does not divide; and large, so that
/// neighbouring starts do not walk the same occupied run.
const STRIDE: u32 = 7919;

/// The order in which ports are tried for one new flow: the wanted one if it lies in the range, then a walk from a
/// random start that reaches every port once before it repeats.
#[derive(Clone, Copy, Debug)]
pub struct PortChoice {
    first: u32,
    count: u32,
    offset: u32,
    stride: u32,
}

impl PortChoice {
    /// Over ports `first..first + count` (host order, `count` ≥ 1), for a flow whose own port is `wanted`.
    #[inline(always)]
    pub const fn new(first: u16, count: u16, wanted: u16, random: u32) -> Self {
        let (first, count) = (first as u32, if count == 0 { 1 } else { count as u32 });
        let wanted = (wanted as u32).wrapping_sub(first);
        let offset = if wanted < count { wanted } else { remainder(random, count) };
        let stride = if count.is_multiple_of(STRIDE) { 1 } else { STRIDE % count };
        // A range of one port, or one that the stride is 1 above.
        let stride = if stride == 0 { 1 } else { stride };
        Self { first, count, offset, stride }
    }

    /// The port to try now, host order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        (self.first + self.offset) as u16
    }

    /// After the first try failed: leave the wanted port for a random place, so that many flows with one source port
    /// do not queue behind each other.
    #[inline(always)]
    pub const fn scatter(&mut self, random: u32) {
        self.offset = remainder(random, self.count);
    }

    /// Steps on to the next candidate.
    #[inline(always)]
    pub const fn step(&mut self) {
        self.offset += self.stride;
        if self.offset >= self.count {
            self.offset -= self.count;
        }
    }
}

/// `a % b` without the panic for 0, which no eBPF program may contain.
#[inline(always)]
const fn remainder(a: u32, b: u32) -> u32 {
    match a.checked_rem(b) {
        Some(remainder) => remainder,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn keeps_a_port_in_range() {
        assert_eq!(PortChoice::new(32768, 16384, 40000, 7).port(), 40000);
        assert_eq!(PortChoice::new(32768, 16384, 32768, 7).port(), 32768);
        assert_eq!(PortChoice::new(32768, 16384, 49151, 7).port(), 49151);
        assert_ne!(PortChoice::new(32768, 16384, 49152, 7).port(), 49152);
    }

    proptest! {
        #[test]
        fn every_port_is_reached_once(first in 1u16..30000, count in 1u16..=35000, random: u32) {
            let mut choice = PortChoice::new(first, count, 0, random);
            choice.scatter(random);
            let mut seen = BTreeSet::new();
            for _ in 0..count {
                prop_assert!(choice.port() >= first && u32::from(choice.port()) < u32::from(first) + u32::from(count));
                prop_assert!(seen.insert(choice.port()), "port {} twice", choice.port());
                choice.step();
            }
            prop_assert_eq!(seen.len(), usize::from(count));
        }
    }
}
