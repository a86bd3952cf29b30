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

/// What to add to a sum over `old` so that it is one over `new`: not folded, as the kernel's `bpf_csum_diff` gives it.
#[inline(always)]
pub const fn difference<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut sum = 0_u64;
    let mut at = 0;
    while at < N {
        sum += !old[at] as u64 + new[at] as u64;
        at += 1;
    }
    // At most 2 N words of 32 bits: what two folds leave fits.
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
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
        fn a_difference_replaces_all_words(check: u16, old: [u32; 4], new: [u32; 4]) {
            let one_by_one = old.iter().zip(&new).fold(check, |check, (&old, &new)| replace_u32(check, old, new));
            let sum = u64::from(!check) + u64::from(difference(&old, &new));
            let mut at_once = sum;
            while at_once > 0xffff {
                at_once = (at_once & 0xffff) + (at_once >> 16);
            }
            // One's complement has two zeros.
            let zero = |check: u16| if check == 0xffff { 0 } else { check };
            prop_assert_eq!(zero(!(at_once as u16)), zero(one_by_one));
        }

        #[test]
        fn a_word_is_two_halves(check: u16, old: u32, new: u32) {
            let high = replace_u16(check, (old >> 16) as u16, (new >> 16) as u16);
            prop_assert_eq!(replace_u32(check, old, new), replace_u16(high, old as u16, new as u16));
        }
    }
}
