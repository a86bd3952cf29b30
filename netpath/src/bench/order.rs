//! Who comes after whom.

/// The order of a group's members in a round: another one in each group and round, the same in each run. A member that always
/// came after the same one would be measured with what that one leaves in caches, queues and timers.
pub(super) fn order(group: usize, round: usize, count: usize) -> Vec<usize> {
    let mut state = (group as u64) << 32 | round as u64;
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, (next(&mut state) % (last as u64 + 1)) as usize);
    }
    order
}

/// SplitMix64: good from any seed on, however like another.
const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_and_follows_everybody_as_often() {
        let (members, rounds) = (8, 40);
        let mut followed = vec![0; members * members];
        for group in 0..20 {
            for round in 1..=rounds {
                let order = order(group, round, members);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..members).collect::<Vec<_>>());
                order.windows(2).for_each(|pair| followed[pair[0] * members + pair[1]] += 1);
            }
        }
        // 800 rounds with 7 pairs each of 56 that there are: 100 each, standard deviation 9.4.
        let pairs = followed.iter().enumerate().filter(|(at, _)| at / members != at % members);
        assert!(pairs.clone().all(|(_, times)| (55..=145).contains(times)), "{followed:?}");
        assert_eq!(order(3, 5, members), order(3, 5, members));
        assert_ne!(order(3, 5, members), order(3, 6, members));
        assert_eq!((order(0, 1, 0), order(0, 1, 1)), (vec![], vec![0]));
    }
}
