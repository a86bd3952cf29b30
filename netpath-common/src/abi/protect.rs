//! PROTECTED: array, word → which ports of it pods do not reach on nodes (u64, a bit a port). A bit for each port there is:
//! ranges cost no more than single ports, and one look tells. One more word tells whether there are any.

const WORDS_OF_A_PROTOCOL: u32 = (1 << 16) / u64::BITS;

/// The word that is not zero if any port is protected: behind those of TCP, UDP and SCTP, in this order.
pub const PROTECTED_ANY: u32 = 3 * WORDS_OF_A_PROTOCOL;

/// Words of PROTECTED.
pub const PROTECTED_WORDS: u32 = PROTECTED_ANY + 1;

/// Where a port (host order) of a protocol (by its IP number) stands: the word, and its bit there. `None` for a protocol without ports.
#[inline(always)]
pub const fn protected_place(proto: u8, port: u16) -> Option<(u32, u64)> {
    let first = match proto {
        6 => 0,
        17 => WORDS_OF_A_PROTOCOL,
        132 => 2 * WORDS_OF_A_PROTOCOL,
        _ => return None,
    };
    let port = port as u32;
    Some((first + port / u64::BITS, 1 << (port % u64::BITS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for proto in [6, 17, 132] {
            for port in 0..=u16::MAX {
                let (word, bit) = protected_place(proto, port).unwrap();
                assert!(word < PROTECTED_ANY && bit.is_power_of_two() && seen.insert((word, bit)));
            }
        }
        assert_eq!(seen.len(), 3 << 16);
        assert_eq!(protected_place(1, 80), None);
    }
}
