//! Two runs side by side, such as of two machines, kernels or versions.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Document, Environment, Figure, Path, budgets::SURE, figure::Question, stats::round};

/// Two runs side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// What is judged: `median`, or `ratio` to a mode of the same run where kernel or processor differ.
    pub judged: String,
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
    /// The second to the first: of the medians, or of the ratios if those are judged; null if a run has no such ratio.
    pub ratio: Option<f64>,
    /// `better` or `worse` is the second if the intervals do not meet, `same` if they do; `cannot tell` if they hold the true
    /// median with less than 95 %, or if there is no ratio to judge.
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
    let same_machine = a.environment.kernel == b.environment.kernel && a.environment.cpu == b.environment.cpu;
    let judged: fn(&Figure) -> Option<Values> = if same_machine { medians } else { ratios };
    let (mut rows, mut only_a) = (Vec::new(), 0);
    for figure in &a.results {
        match of_b.remove(&identity(figure)) {
            Some(other) => rows.push(row(figure, other, judged)),
            None => only_a += 1,
        }
    }
    let mut notes = differences(&a.environment, &b.environment);
    for (count, name) in [(only_a, "A"), (of_b.len(), "B")] {
        if count > 0 {
            notes.push(format!("{count} figures are in {name} only"));
        }
    }
    Comparison { judged: if same_machine { "median" } else { "ratio" }.into(), rows, notes }
}

fn identity(figure: &Figure) -> (Question<'_>, &str, &str) {
    (figure.question(), figure.mode.as_str(), figure.unit.as_str())
}

/// A value, and where the true one lies.
struct Values {
    value: f64,
    low: f64,
    high: f64,
}

fn medians(figure: &Figure) -> Option<Values> {
    Some(Values { value: figure.median, low: figure.ci_low, high: figure.ci_high })
}

/// To `bridge`, and of that mode itself to `direct`; between nodes to the mode that does the same, and of that one to `direct`.
fn ratios(figure: &Figure) -> Option<Values> {
    let across = figure.path.as_deref() == Some(Path::PodPodRemote.name()) && figure.mode != "direct";
    let (value, low, high) = if figure.peer.is_some() {
        (figure.ratio_peer, figure.ratio_peer_low, figure.ratio_peer_high)
    } else if figure.mode == "bridge" || across {
        (figure.ratio_direct, figure.ratio_direct_low, figure.ratio_direct_high)
    } else {
        (figure.ratio_bridge, figure.ratio_bridge_low, figure.ratio_bridge_high)
    };
    Some(Values { value: value?, low: low?, high: high? })
}

fn row(a: &Figure, b: &Figure, judged: fn(&Figure) -> Option<Values>) -> Compared {
    let both = judged(a).zip(judged(b));
    let verdict = match &both {
        Some(_) if a.confidence.min(b.confidence) < SURE => "cannot tell",
        None => "cannot tell",
        Some((a, b)) if a.low <= b.high && b.low <= a.high => "same",
        Some((of_a, of_b)) if (of_b.value < of_a.value) == a.is_time() => "better",
        Some(_) => "worse",
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
        ratio: both.filter(|(a, _)| a.value > 0.0).map(|(a, b)| round(b.value / a.value, 3)),
        verdict: verdict.to_owned(),
        ratio_bridge_a: a.ratio_bridge,
        ratio_bridge_b: b.ratio_bridge,
    }
}

/// What of the environments differs, a line each.
fn differences(a: &Environment, b: &Environment) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let jit = |on: Option<bool>| on.map_or("unknown", |on| if on { "on" } else { "off" }).to_owned();
    let pairs = [
        ("netpath", a.netpath.clone(), b.netpath.clone()),
        ("build", a.build.clone(), b.build.clone()),
        ("kernel", a.kernel.clone(), b.kernel.clone()),
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        ("virtual machine", a.virtual_machine.to_string(), b.virtual_machine.to_string()),
        ("governor", text(&a.governor), text(&b.governor)),
        ("JIT of programs", jit(a.jit), jit(b.jit)),
        ("programs attached by", text(&a.attach), text(&b.attach)),
        ("threads of one core", a.threads_of_one_core.to_string(), b.threads_of_one_core.to_string()),
        ("over two NUMA nodes", a.across_nodes.to_string(), b.across_nodes.to_string()),
        ("rounds", a.rounds.to_string(), b.rounds.to_string()),
        ("milliseconds a turn", a.slice_ms.to_string(), b.slice_ms.to_string()),
    ];
    let pairs = pairs.into_iter().map(|(name, a, b)| (name.to_owned(), a, b));
    let maps = [("mode", &a.modes, &b.modes), ("mitigation", &a.mitigations, &b.mitigations)];
    let maps = maps.into_iter().flat_map(|(kind, a, b)| {
        let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
        let value = |of: &BTreeMap<String, String>, name| of.get(name).map_or("none", |one| one).to_owned();
        names.into_iter().map(move |name| (format!("{kind} {name}"), value(a, name), value(b, name)))
    });
    pairs.chain(maps).filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name}: A {a}, B {b}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::testing::figure;

    fn run(kernel: &str, median: f64, ratio: f64) -> Document {
        let environment = Environment { kernel: kernel.into(), ..Environment::default() };
        let netpath = Figure {
            median,
            ci_low: median - 0.5,
            ci_high: median + 0.5,
            ratio_bridge: Some(ratio),
            ratio_bridge_low: Some(ratio - 0.01),
            ratio_bridge_high: Some(ratio + 0.01),
            ..figure("netpath", "rr", "pod-pod", Some(("bytes", 1)))
        };
        Document { environment, results: vec![netpath], ..Document::default() }
    }

    fn verdict(a: &Document, b: &Document) -> (String, String, Option<f64>) {
        let mut comparison = compare(a, b);
        let row = comparison.rows.remove(0);
        (comparison.judged, row.verdict, row.ratio)
    }

    #[test]
    fn machines_compare_as_ratios_and_one_machine_as_times() {
        let told = |a, b| verdict(&a, &b);
        let (median, ratio) = ("median".to_owned(), "ratio".to_owned());
        assert_eq!(told(run("6.1", 10.0, 0.8), run("6.1", 12.0, 0.8)), (median, "worse".into(), Some(1.2)));
        // Another kernel is slower at everything, and netpath is the same beside a bridge.
        assert_eq!(
            told(run("6.1", 10.0, 0.8), run("6.12", 12.0, 0.8)),
            (ratio.clone(), "same".into(), Some(1.0))
        );
        assert_eq!(
            told(run("6.1", 10.0, 0.8), run("6.12", 12.0, 0.6)),
            (ratio.clone(), "better".into(), Some(0.75))
        );
        let mut alone = run("6.12", 12.0, 0.6);
        alone.results[0].ratio_bridge = None;
        assert_eq!(told(run("6.1", 10.0, 0.8), alone), (ratio, "cannot tell".into(), None));
    }

    #[test]
    fn between_nodes_another_machine_is_judged_by_who_does_the_same() {
        let across = |kernel: &str, mode: &str, peer: Option<f64>, direct: f64| {
            let mut run = run(kernel, 10.0, 0.8);
            let around = |value: f64| (Some(value), Some(value - 0.01), Some(value + 0.01));
            let one = &mut run.results[0];
            (one.mode, one.path) = (mode.into(), Some("pod-pod-remote".into()));
            (one.ratio_direct, one.ratio_direct_low, one.ratio_direct_high) = around(direct);
            (one.ratio_peer, one.ratio_peer_low, one.ratio_peer_high) =
                peer.map_or((None, None, None), around);
            one.peer = peer.map(|_| "routed".into());
            one.ratio_bridge = None;
            run
        };
        let own = |kernel, peer| across(kernel, "netpath-direct", Some(peer), 1.5);
        assert_eq!(verdict(&own("6.1", 0.8), &own("6.12", 0.4)).1, "better");
        let peer = |kernel, direct| across(kernel, "routed", None, direct);
        assert_eq!(
            verdict(&peer("6.1", 2.0), &peer("6.12", 3.0)),
            ("ratio".into(), "worse".into(), Some(1.5))
        );
    }

    #[test]
    fn few_rounds_tell_nothing() {
        let (a, mut b) = (run("6.1", 10.0, 0.8), run("6.1", 20.0, 0.8));
        b.results[0].confidence = 0.75;
        assert_eq!(verdict(&a, &b).1, "cannot tell");
    }

    #[test]
    fn what_makes_another_machine_of_it_is_told() {
        let a = Environment { governor: Some("powersave".into()), jit: Some(true), ..Environment::default() };
        let mut b = Environment { attach: Some("clsact".into()), virtual_machine: true, ..a.clone() };
        b.mitigations.insert("retbleed".into(), "IBRS".into());
        b.modes.insert("bridge".into(), "without br_netfilter".into());
        assert_eq!(
            differences(&a, &b),
            [
                "virtual machine: A false, B true",
                "programs attached by: A unknown, B clsact",
                "mode bridge: A none, B without br_netfilter",
                "mitigation retbleed: A none, B IBRS",
            ]
        );
        assert_eq!(differences(&a, &a), [""; 0]);
    }
}
