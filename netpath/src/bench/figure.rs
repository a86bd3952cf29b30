//! What a run tells of a series.

use serde::{Deserialize, Serialize};

use super::names::{Key, Path, Protocol, Unit};

/// One row of the results. Names are stable: scripts rely on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Name of the mode.
    pub mode: String,
    /// Name of the path; null where there is none.
    pub path: Option<String>,
    /// Name of the protocol; null where there is none.
    pub protocol: Option<String>,
    /// Name of the workload.
    pub workload: String,
    /// What varies within the workload: `bytes`, `connections`, `endpoints`, `flows`, `add`, `remove`, a program's name.
    #[serde(default)]
    pub variant: Option<String>,
    /// How many of it.
    #[serde(default)]
    pub amount: Option<u64>,
    /// What median, p99 and the interval are in.
    pub unit: String,
    /// Median over rounds; of times each round's is the median of its samples.
    pub median: f64,
    /// What 99 of 100 samples are no worse than; null if there are less than 100.
    pub p99: Option<f64>,
    /// Where the true median lies: from here
    pub ci_low: f64,
    /// to here,
    pub ci_high: f64,
    /// with this probability.
    pub confidence: f64,
    /// Median over rounds of the ratio to mode `direct` within the round; null without that mode.
    pub ratio_direct: Option<f64>,
    /// Its interval, from here
    #[serde(default)]
    pub ratio_direct_low: Option<f64>,
    /// to here.
    #[serde(default)]
    pub ratio_direct_high: Option<f64>,
    /// The same to mode `bridge`.
    pub ratio_bridge: Option<f64>,
    /// Its interval, from here
    #[serde(default)]
    pub ratio_bridge_low: Option<f64>,
    /// to here.
    #[serde(default)]
    pub ratio_bridge_high: Option<f64>,
    /// The mode that does the same by other means, if that was measured: `routed` of `netpath-direct`, `vxlan` of `netpath-vxlan`.
    #[serde(default)]
    pub peer: Option<String>,
    /// The same to that mode.
    #[serde(default)]
    pub ratio_peer: Option<f64>,
    /// Its interval, from here
    #[serde(default)]
    pub ratio_peer_low: Option<f64>,
    /// to here.
    #[serde(default)]
    pub ratio_peer_high: Option<f64>,
    /// Of `scale`, the same to the tables with 2 endpoints and no flows, each as a ratio to `direct` between pods; else null.
    #[serde(default)]
    pub ratio_empty: Option<f64>,
    /// Its interval, from here
    #[serde(default)]
    pub ratio_empty_low: Option<f64>,
    /// to here.
    #[serde(default)]
    pub ratio_empty_high: Option<f64>,
    /// Turns it was given.
    pub rounds: usize,
    /// Samples in all of them.
    pub samples: u64,
    /// Turns among them that were repeated, since a packet was lost.
    #[serde(default)]
    pub repeats: usize,
    /// Whether the interval is so wide that the figure tells little.
    pub noisy: bool,
    /// The distribution of samples: parts of all, and the value that so many are not above. Empty if there are few.
    #[serde(default)]
    pub quantiles: Vec<(f64, f64)>,
}

impl Figure {
    /// Everything that tells it from others but the mode.
    pub(super) fn question(&self) -> Question<'_> {
        let (path, protocol) = (self.path.as_deref(), self.protocol.as_deref());
        Question {
            workload: &self.workload,
            path,
            protocol,
            variant: self.variant.as_deref(),
            amount: self.amount,
        }
    }

    /// Whether less is better.
    pub(super) fn is_time(&self) -> bool {
        Unit::of(&self.unit).is_some_and(Unit::is_time)
    }
}

/// What a figure answers, for one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question<'a> {
    pub(super) workload: &'a str,
    pub(super) path: Option<&'a str>,
    pub(super) protocol: Option<&'a str>,
    pub(super) variant: Option<&'a str>,
    pub(super) amount: Option<u64>,
}

impl Question<'_> {
    /// All but the workload, in words.
    pub(super) fn words(&self) -> String {
        let variation = self.variation();
        let parts = [self.path.unwrap_or(""), self.protocol.unwrap_or(""), &variation];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// What varies, in words.
    pub(super) fn variation(&self) -> String {
        match (self.amount, self.variant) {
            (Some(1), Some(variant)) => format!("1 {}", variant.trim_end_matches('s')),
            (Some(amount), Some(variant)) => format!("{amount} {variant}"),
            (_, variant) => variant.unwrap_or_default().to_owned(),
        }
    }
}

/// A case that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("measuring {mode} {workload} {} {}, round {round}: {reason}", path.as_deref().unwrap_or(""), protocol.as_deref().unwrap_or(""))]
pub struct Failure {
    /// Name of the mode.
    pub mode: String,
    /// Name of the path.
    pub path: Option<String>,
    /// Name of the protocol.
    pub protocol: Option<String>,
    /// Name of the workload.
    pub workload: String,
    /// Round in which it failed, from 1.
    pub round: usize,
    /// The kernel's reason.
    pub reason: String,
}

impl Failure {
    pub(super) fn new(key: &Key, round: usize, reason: impl Into<String>) -> Self {
        Self {
            mode: key.mode.to_owned(),
            path: key.path.map(Path::name).map(str::to_owned),
            protocol: key.protocol.map(Protocol::name).map(str::to_owned),
            workload: key.workload.name().to_owned(),
            round,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::Figure;

    /// A round trip of 10 us over TCP.
    pub(in crate::bench) fn figure(
        mode: &str,
        workload: &str,
        path: &str,
        variation: Option<(&str, u64)>,
    ) -> Figure {
        Figure {
            mode: mode.into(),
            path: Some(path.into()),
            protocol: Some("tcp".into()),
            workload: workload.into(),
            variant: variation.map(|(variant, _)| variant.into()),
            amount: variation.map(|(_, amount)| amount),
            unit: "us".into(),
            median: 10.0,
            ci_low: 9.5,
            ci_high: 10.5,
            confidence: 0.99,
            rounds: 11,
            samples: 1000,
            ..Figure::default()
        }
    }
}
