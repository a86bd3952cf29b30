//! A token bucket, told as one time: when it will be full. What is taken puts that off.

/// How long the bucket takes to get so many bytes back, ns; `rate` is in bytes a second.
#[inline(always)]
pub const fn cost(bytes: u32, rate: u64) -> u64 {
    match (bytes as u64 * 1_000_000_000).checked_div(rate) {
        Some(cost) => cost,
        None => 0,
    }
}

/// When the bucket is full that was to be full at `full`, before a packet of this cost: `Ok` if it holds as much, which puts it
/// off, and `Err` if not. All of it in ns; `burst` is how long an empty one takes to be full.
///
/// # Errors
/// The same time, for a packet that it has too little for.
#[inline(always)]
pub const fn admit(full: u64, now: u64, cost: u64, burst: u64) -> Result<u64, u64> {
    // Later than an empty one would be: of a slower rate, or of the slot's earlier pod. This one waits for its own burst, and
    // no longer.
    let empty = now.saturating_add(burst);
    let from = if full < now {
        now
    } else if full > empty {
        empty
    } else {
        full
    };
    if from.saturating_add(cost) <= empty { Ok(from) } else { Err(from) }
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
                if let Ok(from) = admit(full, now, cost, burst) {
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
        assert_eq!(admit(u64::MAX, 1000, 10, 100), Err(1100), "as if it were empty");
        assert_eq!(admit(1100, 1000, 10, 100), Err(1100));
        assert_eq!(admit(1100, 1010, 10, 100), Ok(1100), "and then it fills");
        assert_eq!(admit(5000, 1010, 10, 100), Err(1110));
        assert_eq!(admit(7, 1010, 10, 100), Ok(1010), "no more than full");
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
                if let Ok(from) = admit(full, now, cost, burst) {
                    full = from + cost;
                    taken += cost;
                }
            }
            prop_assert!(taken <= now - SECOND + burst, "{} of {}", taken, now - SECOND + burst);
        }
    }
}
