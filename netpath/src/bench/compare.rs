//! Two runs side by side, such as of two machines, kernels or versions.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Document, Figure, series::Question, stats::round};

/// Two runs side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Figures that both have, in the order of the first.
    pub rows: Vec<Compared>,
    /// What differs between the runs themselves, and what only one of them has.
    pub notes: Vec<String>,
}

/// A figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Name of the mode.
    pub mode: String,
    /// Name of the path.
    pub path: Option<String>,
    /// Name of the protocol.
    pub protocol: Option<String>,
    /// Name of the workload.
    pub workload: String,
    /// What varies within the workload.
    pub variant: Option<String>,
    /// How many of it.
    pub amount: Option<u64>,
    /// What both are in.
    pub unit: String,
    /// Median of the first run.
    pub a: f64,
    /// Median of the second.
    pub b: f64,
    /// The second to the first.
    pub ratio: f64,
    /// `better` or `worse` is the second if the intervals do not meet, else `same`.
    pub verdict: String,
    /// Ratio to mode `bridge` in the first.
    pub ratio_bridge_a: Option<f64>,
    /// In the second.
    pub ratio_bridge_b: Option<f64>,
}

impl Compared {
    pub(super) fn question(&self) -> Question<'_> {
        Question {
            workload: &self.workload,
            path: self.path.as_deref(),
            protocol: self.protocol.as_deref(),
            variant: self.variant.as_deref(),
            amount: self.amount,
        }
    }
}

/// Compares what two runs have in common.
pub fn compare(a: &Document, b: &Document) -> Comparison {
    let mut of_b: BTreeMap<_, _> = b.results.iter().map(|figure| (identity(figure), figure)).collect();
    let (mut rows, mut only_a) = (Vec::new(), 0);
    for figure in &a.results {
        match of_b.remove(&identity(figure)) {
            Some(other) => rows.push(row(figure, other)),
            None => only_a += 1,
        }
    }
    let mut notes = differences(a, b);
    for (count, name) in [(only_a, "A"), (of_b.len(), "B")] {
        if count > 0 {
            notes.push(format!("{count} figures are in {name} only"));
        }
    }
    Comparison { rows, notes }
}

fn identity(figure: &Figure) -> (Question<'_>, &str, &str) {
    (figure.question(), figure.mode.as_str(), figure.unit.as_str())
}

fn row(a: &Figure, b: &Figure) -> Compared {
    let verdict = if a.ci_low <= b.ci_high && b.ci_low <= a.ci_high {
        "same"
    } else if (b.median < a.median) == a.is_time() {
        "better"
    } else {
        "worse"
    };
    Compared {
        mode: a.mode.clone(),
        path: a.path.clone(),
        protocol: a.protocol.clone(),
        workload: a.workload.clone(),
        variant: a.variant.clone(),
        amount: a.amount,
        unit: a.unit.clone(),
        a: a.median,
        b: b.median,
        ratio: if a.median > 0.0 { round(b.median / a.median, 3) } else { 0.0 },
        verdict: verdict.to_owned(),
        ratio_bridge_a: a.ratio_bridge,
        ratio_bridge_b: b.ratio_bridge,
    }
}

/// What of the environments differs, a line each.
fn differences(a: &Document, b: &Document) -> Vec<String> {
    let (a, b) = (&a.environment, &b.environment);
    let pairs = [
        ("netpath", a.netpath.clone(), b.netpath.clone()),
        ("build", a.build.clone(), b.build.clone()),
        ("kernel", a.kernel.clone(), b.kernel.clone()),
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        ("rounds", a.rounds.to_string(), b.rounds.to_string()),
        ("milliseconds a turn", a.slice_ms.to_string(), b.slice_ms.to_string()),
    ];
    pairs.into_iter().filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name}: A {a}, B {b}")).collect()
}
