//! Medians, ratios and histograms.

use std::io;

use hdrhistogram::Histogram;

/// Nanoseconds up to a minute, three significant digits.
///
/// # Errors
/// If it cannot be allocated.
pub(super) fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)
}

/// Microseconds with two decimals from nanoseconds.
pub(super) fn micros(nanoseconds: u64) -> f64 {
    round(nanoseconds as f64 / 1000.0, 100.0)
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

/// Median over rounds of the ratio within each round, three decimals. `None` if there is no round with both.
pub(super) fn median_ratio(values: &[f64], bases: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> =
        values.iter().zip(bases).filter(|(_, base)| **base > 0.0).map(|(v, b)| v / b).collect();
    median(&ratios).map(|ratio| round(ratio, 1000.0))
}

fn round(value: f64, unit: f64) -> f64 {
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
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
        assert_eq!(median_ratio(&[11.0, 110.0, 12.0], &[10.0, 100.0, 10.0]), Some(1.1));
        assert_eq!(median_ratio(&[11.0], &[]), None);
        assert_eq!(median_ratio(&[11.0], &[0.0]), None);
    }

    #[test]
    fn nanoseconds_become_microseconds_with_two_decimals() {
        assert_eq!(micros(10_456), 10.46);
    }

    #[test]
    fn histogram_keeps_three_digits() {
        let mut histogram = histogram().unwrap();
        histogram.record(10_456).unwrap();
        let value = histogram.value_at_quantile(0.5) as f64;
        assert!((value / 10_456.0 - 1.0).abs() < 0.001);
    }
}
