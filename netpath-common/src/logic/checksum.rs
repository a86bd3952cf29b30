//! Incremental Internet checksum (RFC 1624).

/// The one's complement sum folded to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    // Two folds reach 16 bits from any u32: the first leaves at most 0x1_fffe.
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Checksum after one 16-bit word changed. All values as they stand in the packet (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn replace_u16(check: u16, old: u16, new: u16) -> u16 {
    !fold((!check) as u32 + (!old) as u32 + new as u32)
}

/// Checksum after one 32-bit word changed.
#[inline(always)]
pub const fn replace_u32(check: u16, old: u32, new: u32) -> u16 {
    let check = replace_u16(check, old as u16, new as u16);
    replace_u16(check, (old >> 16) as u16, (new >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum = words.iter().fold(0u64, |sum, &word| sum + u64::from(word));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn replacing_equals_recomputing(mut words in proptest::collection::vec(1u16.., 4..20), at: prop::sample::Index, new in 1u16..) {
            let check = full(&words);
            let at = at.index(words.len());
            let updated = replace_u16(check, words[at], new);
            words[at] = new;
            prop_assert_eq!(updated, full(&words));
        }

        #[test]
        fn a_word_is_two_halves(check: u16, old: u32, new: u32) {
            let high = replace_u16(check, (old >> 16) as u16, (new >> 16) as u16);
            prop_assert_eq!(replace_u32(check, old, new), replace_u16(high, old as u16, new as u16));
        }
    }
}
