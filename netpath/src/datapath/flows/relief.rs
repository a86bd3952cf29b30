//! Room in a crowded table: flows that are not assured are ended before their time, the longest idle first.
//!
//! A program that finds the table full makes room itself, but only of what its CPU has noted last. A flood of a minute ago
//! stands in no CPU's notes any more; netfilter's collector drops such flows early for the same reason.

const SECOND: u64 = 1_000_000_000;
/// Above so many hundredths of its entries a table is crowded.
pub const CROWDED: u64 = 95;
/// Below so many hundredths it is well again.
pub const WELL: u64 = 90;
/// Seconds that every flow has for its answer, whatever the pressure.
const GRACE: usize = 3;
/// Idle seconds that are told apart; longer is as good as this. Unless configured otherwise, what nobody answered has a
/// minute.
const TOLD_APART: usize = 64;

/// Whether a table is crowded; one that was, stays so until it is well again.
pub fn is_crowded(entries: u64, capacity: u32, was: bool) -> bool {
    entries * 100 > u64::from(capacity) * if was { WELL } else { CROWDED }
}

/// How many flows are not assured, by the whole seconds that they have been idle.
pub(super) struct Unassured([u64; TOLD_APART]);

/// What is to go.
#[derive(Debug)]
pub(super) struct Relief {
    /// All that have been idle for longer than so many seconds.
    seconds: usize,
    /// Of those idle for just so long, how many.
    quota: u64,
}

impl Unassured {
    pub(super) const NONE: Self = Self([0; TOLD_APART]);

    /// Counts a flow that has been idle for so many ns.
    pub(super) fn count(&mut self, idle: u64) {
        self.0[seconds(idle)] += 1;
    }

    /// What brings a crowded table below [`WELL`], or as close as may be.
    pub(super) fn relief(&self, entries: u64, capacity: u32) -> Option<Relief> {
        if !is_crowded(entries, capacity, false) {
            return None;
        }
        // A flow has two entries.
        let mut missing = (entries - u64::from(capacity) * WELL / 100) / 2 + 1;
        for seconds in (GRACE..TOLD_APART).rev() {
            let there = self.0[seconds];
            if there >= missing || seconds == GRACE {
                return Some(Relief { seconds, quota: missing });
            }
            missing -= there;
        }
        None
    }
}

impl Relief {
    /// Whether a flow that is not assured and has been idle for so many ns is to go.
    pub(super) fn takes(&mut self, idle: u64) -> bool {
        let idle = seconds(idle);
        let of_quota = idle == self.seconds && self.quota > 0;
        self.quota -= u64::from(of_quota);
        of_quota || idle > self.seconds
    }
}

fn seconds(idle: u64) -> usize {
    ((idle / SECOND) as usize).min(TOLD_APART - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Idle seconds of those that go, and of those that stay.
    fn split(idle: &[u64], entries: u64, capacity: u32) -> (Vec<u64>, Vec<u64>) {
        let mut unassured = Unassured::NONE;
        idle.iter().for_each(|seconds| unassured.count(seconds * SECOND));
        let Some(mut relief) = unassured.relief(entries, capacity) else { return (vec![], idle.to_vec()) };
        idle.iter().partition(|seconds| relief.takes(*seconds * SECOND))
    }

    #[test]
    fn a_table_is_crowded_from_95_on_until_it_is_below_90() {
        assert!(!is_crowded(95, 100, false) && is_crowded(96, 100, false));
        assert!(!is_crowded(90, 100, true) && is_crowded(91, 100, true));
        assert!(is_crowded(16_777_216, 16_777_216, false) && !is_crowded(0, 64, true));
    }

    #[test]
    fn the_longest_idle_go_first_and_the_young_never() {
        // 96 entries of 100: seven of them are to go, four flows.
        assert_eq!(split(&[5, 9, 5, 2, 7, 900], 96, 100), (vec![5, 9, 7, 900], vec![5, 2]));
        assert_eq!(split(&[5, 9, 5, 2, 7, 900], 95, 100).0, [0; 0], "not crowded");
        assert_eq!(split(&[0, 1, 2], 100, 100).0, [0; 0], "an answer may come yet");
        assert_eq!(split(&[0, 3, 2], 100, 100).0, [3], "less than wanted");
        assert_eq!(split(&[], 100, 100).0, [0; 0]);
    }

    proptest! {
        #[test]
        fn as_many_as_needed_go_and_no_more(
            idle in proptest::collection::vec(0u64..100, 0..400),
            assured in 0u64..200,
            room in 0u64..100,
        ) {
            let entries = 2 * (idle.len() as u64 + assured);
            let capacity = (entries + room).max(64) as u32;
            let (went, stayed) = split(&idle, entries, capacity);
            if !is_crowded(entries, capacity, false) {
                prop_assert!(went.is_empty());
                return Ok(());
            }
            let old = idle.iter().filter(|seconds| **seconds >= GRACE as u64).count();
            let left = entries - 2 * went.len() as u64;
            prop_assert!(went.len() == old || left < u64::from(capacity) * WELL / 100 + 1, "room enough, or nothing left");
            prop_assert!(went.len() <= 1 || left + 2 >= u64::from(capacity) * WELL / 100, "and no more");
            prop_assert!(went.iter().all(|seconds| *seconds >= GRACE as u64));
            let told_apart = |seconds: &u64| (*seconds).min(TOLD_APART as u64 - 1);
            let youngest = went.iter().map(told_apart).min().unwrap_or(u64::MAX);
            prop_assert!(stayed.iter().map(told_apart).filter(|seconds| *seconds >= GRACE as u64).all(|seconds| seconds <= youngest));
        }
    }
}
