//! A token bucket, told as one time: when it will be full. What is taken puts that off.

/// How long the bucket takes to get so many bytes back, ns; `rate` is in bytes a second.
#[inline(always)]
pub const fn cost(bytes: u32, rate: u64) -> u64 {
    match (bytes as u64 * 1_000_000_000).checked_div(rate) {
        Some(cost) => cost,
        None => 0,
    }
}

/// From when on a packet of this cost puts the bucket off that is full at `full`, or `None` if it holds less than that. All
/// of it in ns; `burst` is how long an empty one takes to be full.
#[inline(always)]
pub const fn admit(full: u64, now: u64, cost: u64, burst: u64) -> Option<u64> {
    // Later than an empty one would be: of another rate, or of an earlier pod.
    let empty = now.saturating_add(burst);
    let from = if full < now {
        now
    } else if full > empty {
        empty
    } else {
        full
    };
    if from.saturating_add(cost) <= empty { Some(from) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_was_saved_goes_at_once_and_then_it_is_the_rate() {
        // A million bytes a second, a tenth of that at once.
        let (rate, burst) = (1_000_000, SECOND / 10);
        let sent = |span: u64, every: u64| {
            let (mut full, mut bytes) = (0, 0);
            for now in (SECOND..SECOND + span).step_by(every as usize) {
                let cost = cost(1000, rate);
                if let Some(from) = admit(full, now, cost, burst) {
                    full = from + cost;
                    bytes += 1000;
                }
            }
            bytes
        };
        assert_eq!(sent(1, 1), 1000);
        assert_eq!(sent(SECOND / 100, 100_000), 100_000, "less than its share, and the burst");
        assert_eq!(sent(SECOND, 100_000), 1_100_000 - 1000, "the rate, and the burst once");
        assert_eq!(sent(SECOND, SECOND / 500), 500_000, "below the rate nothing is refused");
    }

    #[test]
    fn another_rate_or_an_earlier_pod_is_not_waited_for() {
        assert_eq!(admit(u64::MAX, 1000, 10, 100), None, "as if it were empty");
        assert_eq!(admit(1100, 1000, 10, 100), None);
        assert_eq!(admit(1100, 1010, 10, 100), Some(1100), "and then it fills");
        assert_eq!(admit(5000, 1010, 10, 100), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            rate in 125_u64..125_000_000_000_000,
            steps in proptest::collection::vec((0_u64..SECOND / 50, 60_u32..70_000), 1..200),
        ) {
            let burst = cost(200_000, rate);
            let (mut full, mut now, mut taken) = (0, SECOND, 0_u64);
            for (pause, bytes) in steps {
                now += pause;
                let cost = cost(bytes, rate);
                if let Some(from) = admit(full, now, cost, burst) {
                    full = from + cost;
                    taken += cost;
                }
            }
            prop_assert!(taken <= now - SECOND + burst, "{} of {}", taken, now - SECOND + burst);
        }
    }
}
