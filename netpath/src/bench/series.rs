//! What was measured, and the figures made of it.

use std::{collections::BTreeMap, io};

use hdrhistogram::Histogram;

use super::{
    figure::Figure,
    modes,
    names::{Key, Path, Unit, Workload},
    stats::{self, Interval, round},
};

/// An interval wider than this part of its median tells little.
const NOISY: f64 = 0.2;
/// Endpoints in the smallest tables of `scale`.
pub(super) const EMPTY: u64 = 2;
/// Parts of all samples that a distribution is told at.
const QUANTILES: [f64; 23] = [
    0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    0.9, 0.95, 0.99, 0.999,
];

/// What one turn of a case found, in raw units: nanoseconds, or somethings a second.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// What stands for it.
    pub(super) value: f64,
    /// Every sample.
    pub(super) samples: Histogram<u64>,
}

impl Turn {
    /// The samples' median.
    pub(super) fn median(samples: Histogram<u64>) -> Self {
        Self { value: samples.value_at_quantile(0.5) as f64, samples }
    }
}

/// All turns of a case.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) key: Key,
    pub(super) unit: Unit,
    /// One value a round, raw.
    rounds: Vec<f64>,
    samples: Histogram<u64>,
    /// Turns that were repeated, since something was lost.
    pub(super) repeats: usize,
}

impl Series {
    /// Without turns yet.
    ///
    /// # Errors
    /// If its histogram cannot be made.
    pub(super) fn new(key: Key, unit: Unit) -> io::Result<Self> {
        Ok(Self { key, unit, rounds: Vec::new(), samples: stats::histogram()?, repeats: 0 })
    }

    /// Adds a turn.
    ///
    /// # Errors
    /// If the histogram cannot grow.
    pub(super) fn add(&mut self, turn: &Turn) -> io::Result<()> {
        self.rounds.push(turn.value);
        self.samples.add(&turn.samples).map_err(io::Error::other)
    }

    /// Adds a turn of one sample.
    ///
    /// # Errors
    /// If the histogram cannot grow.
    pub(super) fn add_one(&mut self, value: u64) -> io::Result<()> {
        self.rounds.push(value as f64);
        self.samples.record(value).map_err(io::Error::other)
    }

    /// Whether there are samples enough for a hundredth of them to mean something. Those of `program` are means of a turn.
    fn tells_samples(&self) -> bool {
        self.samples.len() >= 100 && self.key.workload != Workload::Program
    }

    fn figure(&self, bases: &BTreeMap<Key, &[f64]>) -> Option<Figure> {
        let interval = Interval::of(&self.rounds)?;
        let ratio = |mode| stats::ratio(&self.rounds, bases.get(&Key { mode, ..self.key.clone() })?);
        let (direct, bridge) = (ratio("direct"), ratio("bridge"));
        let peer = modes::peer(self.key.mode).and_then(|peer| Some((peer, ratio(peer)?)));
        let (peer, beside_peer) = peer.unzip();
        let empty = self.beside_empty(bases);
        let told = |raw: f64| significant(raw / self.unit.raw());
        // What 99 of 100 are no worse than.
        let p99 = if self.unit.is_time() { 0.99 } else { 0.01 };
        let median = |ratio: &Option<Interval>| ratio.map(|one| round(one.median, 3));
        let low = |ratio: &Option<Interval>| ratio.map(|one| round(one.low, 3));
        let high = |ratio: &Option<Interval>| ratio.map(|one| round(one.high, 3));
        Some(Figure {
            mode: self.key.mode.to_owned(),
            path: self.key.path.map(|path| path.name().to_owned()),
            protocol: self.key.protocol.map(|protocol| protocol.name().to_owned()),
            workload: self.key.workload.name().to_owned(),
            variant: self.key.variant.clone(),
            amount: self.key.amount,
            unit: self.unit.name().to_owned(),
            median: told(interval.median),
            p99: self.tells_samples().then(|| told(self.samples.value_at_quantile(p99) as f64)),
            ci_low: told(interval.low),
            ci_high: told(interval.high),
            confidence: round(interval.confidence, 3),
            ratio_direct: median(&direct),
            ratio_direct_low: low(&direct),
            ratio_direct_high: high(&direct),
            ratio_bridge: median(&bridge),
            ratio_bridge_low: low(&bridge),
            ratio_bridge_high: high(&bridge),
            peer: peer.map(str::to_owned),
            ratio_peer: median(&beside_peer),
            ratio_peer_low: low(&beside_peer),
            ratio_peer_high: high(&beside_peer),
            ratio_empty: median(&empty),
            ratio_empty_low: low(&empty),
            ratio_empty_high: high(&empty),
            rounds: self.rounds.len(),
            samples: self.samples.len(),
            repeats: self.repeats,
            noisy: interval.spread() > NOISY,
            quantiles: self.quantiles().map(|(part, raw)| (part, told(raw))).collect(),
        })
    }

    /// Of `scale`: the ratio to the smallest tables. Those were measured minutes ago, so each side is taken as the ratio to what
    /// `direct` had between its pods in the same round.
    fn beside_empty(&self, bases: &BTreeMap<Key, &[f64]>) -> Option<Interval> {
        if self.key.workload != Workload::Scale {
            return None;
        }
        let own = |key: &Key| {
            let direct = Key { mode: "direct", path: Some(Path::PodPod), ..key.clone() };
            Some(stats::ratios(bases.get(key)?, bases.get(&direct)?))
        };
        let empty = Key { variant: Some("endpoints".into()), amount: Some(EMPTY), ..self.key.clone() };
        stats::ratio(&own(&self.key)?, &own(&empty)?)
    }

    /// Nothing if there are too few samples for a distribution.
    fn quantiles(&self) -> impl Iterator<Item = (f64, f64)> {
        let parts: &[f64] = if self.tells_samples() { &QUANTILES } else { &[] };
        parts.iter().map(|part| (*part, self.samples.value_at_quantile(*part) as f64))
    }
}

/// The figures of all series, with ratios to those of `direct` and `bridge` that differ in nothing else; ordered.
pub(super) fn figures(mut series: Vec<Series>, modes: &[&str]) -> Vec<Figure> {
    let place = |mode: &str| modes.iter().position(|one| *one == mode);
    series.sort_by(|a, b| {
        let key = |one: &Series| Key { mode: "", ..one.key.clone() };
        (key(a), place(a.key.mode)).cmp(&(key(b), place(b.key.mode)))
    });
    let bases = series.iter().map(|one| (one.key.clone(), one.rounds.as_slice())).collect();
    series.iter().filter_map(|one| one.figure(&bases)).collect()
}

/// Five significant digits: what a histogram does not know is not told.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let decimals = 4 - value.abs().log10().floor() as i32;
    if decimals > 0 { round(value, decimals) } else { value.round() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Document, Failure, Protocol, html, tables};

    fn series(mode: &'static str, unit: Unit, rounds: &[u64]) -> Series {
        let key = Key {
            workload: Workload::Rr,
            path: Some(Path::PodPod),
            protocol: Some(Protocol::Tcp),
            variant: Some("bytes".into()),
            amount: Some(1),
            mode,
        };
        let mut series = Series::new(key, unit).unwrap();
        rounds.iter().for_each(|round| series.add_one(*round).unwrap());
        series
    }

    #[test]
    fn figures_are_in_the_order_of_modes_with_ratios_of_the_same_question() {
        let mut other = series("direct", Unit::Micros, &[1; 3]);
        other.key.amount = Some(1024);
        let all = vec![
            other,
            series("netpath", Unit::Micros, &[11_000, 220_000, 11_000]),
            series("direct", Unit::Micros, &[10_000, 200_000, 10_000]),
        ];
        let figures = figures(all, &["direct", "netpath"]);
        let order: Vec<_> = figures.iter().map(|one| (one.mode.as_str(), one.amount)).collect();
        assert_eq!(order, [("direct", Some(1)), ("netpath", Some(1)), ("direct", Some(1024))]);
        let netpath = &figures[1];
        assert_eq!((netpath.median, netpath.ci_low, netpath.ci_high), (11.0, 11.0, 220.0));
        assert_eq!((netpath.ratio_direct, netpath.ratio_direct_high), (Some(1.1), Some(1.1)));
        assert_eq!((netpath.ratio_bridge, netpath.noisy), (None, true));
        // Of three samples, none is the worst hundredth.
        assert_eq!(netpath.p99, None);
    }

    #[test]
    fn of_rates_the_worst_hundredth_is_the_slowest() {
        let rounds: Vec<u64> = (1..=200).map(|one| one * 1_000_000_000).collect();
        let figures = figures(vec![series("bridge", Unit::Gigabits, &rounds)], &["bridge"]);
        let p99 = figures[0].p99.unwrap();
        assert!((p99 - 2.0).abs() < 0.01 && figures[0].median == 100.5, "{:?}", figures[0]);
        assert!(!figures[0].is_time() && figures[0].confidence >= 0.95);
        assert_eq!(figures[0].quantiles.len(), QUANTILES.len());
        let mut means = series("netpath", Unit::Nanos, &[7; 200]);
        means.key.workload = Workload::Program;
        let told = super::figures(vec![means], &["netpath"]);
        assert!(
            told[0].p99.is_none() && told[0].quantiles.is_empty(),
            "a mean has no distribution: {told:?}"
        );
    }

    #[test]
    fn large_tables_are_beside_small_ones_by_what_direct_had() {
        let scale = |mode, path, variant: &str, amount, rounds: &[u64]| {
            let mut series = series(mode, Unit::Micros, rounds);
            let key = series.key.clone();
            series.key = Key {
                workload: Workload::Scale,
                path: Some(path),
                variant: Some(variant.into()),
                amount: Some(amount),
                ..key
            };
            series
        };
        // The machine became twice as slow between the steps; netpath became 2.2 times.
        let all = vec![
            scale("direct", Path::PodPod, "endpoints", EMPTY, &[10, 20]),
            scale("netpath", Path::PodOutside, "endpoints", EMPTY, &[20, 40]),
            scale("direct", Path::PodPod, "flows", 500, &[20, 20]),
            scale("netpath", Path::PodOutside, "flows", 500, &[44, 44]),
        ];
        let figures = figures(all, &["direct", "netpath"]);
        let ratio = |amount| {
            let own = figures.iter().find(|one| one.mode == "netpath" && one.amount == Some(amount));
            own.unwrap().ratio_empty
        };
        assert_eq!((ratio(500), ratio(EMPTY)), (Some(1.1), Some(1.0)));
    }

    #[test]
    fn a_document_survives_json_and_is_told_without_markup_of_others() {
        let figures = figures(vec![series("direct", Unit::Micros, &[10_000; 3])], &["direct"]);
        let mut document = Document { results: figures, ..Document::default() };
        document.warnings.push("<script>".into());
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
        assert!(document.passed());
        let page = html(&document).unwrap();
        assert!(page.contains("<svg") && page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(tables(&document).contains("10.00 us"));
        document.failures.push(Failure::new(&series("direct", Unit::Micros, &[]).key, 2, "no answer"));
        assert!(!document.passed() && tables(&document).contains("round 2: no answer"));
    }
}
