//! Medians with confidence intervals, ratios and histograms.

use std::io;

use hdrhistogram::Histogram;

/// How sure an interval should be, if there are enough rounds for it.
const CONFIDENCE: f64 = 0.95;

/// A median, and where the true one lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Probability that it lies there; below 0.95 if there are less than six values.
    pub(super) confidence: f64,
}

impl Interval {
    /// From values in any order, `None` if there are none. Order statistics: whatever the values' distribution, the true
    /// median lies outside the k-th smallest to the k-th largest only if less than k of n values fall on one side of it,
    /// as k heads of n coins.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // One value outside at each end costs most confidence is left with; go on while it is enough.
        let mut chance = 0.5_f64.powi(count as i32);
        let (mut outside, mut cut, mut confidence) = (chance, 0, 1.0 - 2.0 * chance);
        for next in 1..count.div_ceil(2) {
            chance *= (count - next + 1) as f64 / next as f64;
            outside += chance;
            if 1.0 - 2.0 * outside < CONFIDENCE {
                break;
            }
            (cut, confidence) = (next, 1.0 - 2.0 * outside);
        }
        Some(Self {
            median,
            low: sorted[cut],
            high: sorted[count - 1 - cut],
            confidence: confidence.max(0.0),
        })
    }

    /// Width of the interval as a part of the median.
    pub(super) fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / self.median } else { 0.0 }
    }
}

/// Three significant digits of whatever is recorded.
///
/// # Errors
/// If it cannot be allocated.
pub(super) fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new(3).map_err(io::Error::other)
}

/// Median of numbers in any order; the mean of the middle two if their count is even. `None` if there are none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Ratio within each round, over the rounds. `None` if there is no round with both.
pub(super) fn ratio(values: &[f64], bases: &[f64]) -> Option<Interval> {
    Interval::of(&ratios(values, bases))
}

/// The ratio of each round that has both.
pub(super) fn ratios(values: &[f64], bases: &[f64]) -> Vec<f64> {
    values.iter().zip(bases).filter(|(_, base)| **base > 0.0).map(|(v, b)| v / b).collect()
}

/// A number with so many decimals.
pub(super) fn round(value: f64, decimals: i32) -> f64 {
    let unit = 10_f64.powi(decimals);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_noisy_round_moves_no_ratio() {
        // Round 2 was ten times slower for both: medians of each alone would still do, but the ratio must not notice.
        assert_eq!(ratio(&[11.0, 110.0, 12.0], &[10.0, 100.0, 10.0]).unwrap().median, 1.1);
        assert_eq!(ratio(&[11.0], &[]), None);
        assert_eq!(ratio(&[11.0], &[0.0]), None);
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Order statistics for the median at 95 %, as printed in statistics books: n, k, confidence.
        for (count, rank, confidence) in
            [(5, 1, 0.9375), (6, 1, 0.9688), (9, 2, 0.9609), (15, 4, 0.9648), (20, 6, 0.9586)]
        {
            let values: Vec<f64> = (1..=count).map(f64::from).collect();
            let interval = Interval::of(&values).unwrap();
            assert_eq!(
                (interval.low, interval.high),
                (f64::from(rank), f64::from(count + 1 - rank)),
                "{count}"
            );
            assert!((interval.confidence - confidence).abs() < 1e-4, "{interval:?}");
        }
        let one = Interval::of(&[7.0]).unwrap();
        assert_eq!((one.low, one.high, one.confidence), (7.0, 7.0, 0.0));
        assert_eq!(Interval::of(&[]), None);
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_median_and_lies_among_the_values(
            values in prop::collection::vec(0.1_f64..1e9, 1..300),
        ) {
            let interval = Interval::of(&values).unwrap();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(least <= interval.low && interval.low <= interval.median);
            prop_assert!(interval.median <= interval.high && interval.high <= most);
            prop_assert!((0.0..=1.0).contains(&interval.confidence));
            prop_assert!(values.len() < 6 || interval.confidence >= CONFIDENCE);
            prop_assert!(interval.spread() >= 0.0);
        }

        #[test]
        fn the_order_of_rounds_and_their_scale_do_not_matter(
            mut values in prop::collection::vec(1.0_f64..1e6, 2..60), scale in 0.5_f64..64.0,
        ) {
            let before = Interval::of(&values).unwrap();
            let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
            let own = ratio(&scaled, &values).unwrap();
            prop_assert!((own.median / scale - 1.0).abs() < 1e-9 && own.spread() < 1e-9);
            values.reverse();
            prop_assert_eq!(Interval::of(&values).unwrap(), before);
        }

        #[test]
        fn a_true_median_is_found_as_often_as_is_told(seed in any::<u64>()) {
            // 400 experiments of 11 uniform rounds: at 95 %, 360 hits or less are 4 standard deviations off.
            let mut state = seed | 1;
            let mut uniform = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1_u64 << 53) as f64
            };
            let hits = (0..400).filter(|_| {
                let values: Vec<f64> = (0..11).map(|_| uniform()).collect();
                let interval = Interval::of(&values).unwrap();
                interval.low <= 0.5 && 0.5 <= interval.high
            });
            prop_assert!(hits.count() > 360);
        }
    }

    #[test]
    fn histogram_keeps_three_digits() {
        let mut histogram = histogram().unwrap();
        for value in [10_456, 40_000_000_000] {
            histogram.reset();
            histogram.record(value).unwrap();
            let kept = histogram.value_at_quantile(0.5) as f64;
            assert!((kept / value as f64 - 1.0).abs() < 0.001);
        }
    }
}
