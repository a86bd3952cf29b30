//! Tables for people.

use comfy_table::{Cell, Table};

use super::{Comparison, Document, Figure};
use crate::lab::report::{right, table};

/// What a run has found: a table for each workload, and what was left out or is doubtful.
pub fn tables(document: &Document) -> String {
    let mut text = String::new();
    let mut workloads: Vec<&str> = document.results.iter().map(|figure| figure.workload.as_str()).collect();
    workloads.dedup();
    for workload in workloads {
        let figures = document.results.iter().filter(|figure| figure.workload == workload);
        text += &format!("{workload}: {}\n{}\n\n", meaning(workload), of_workload(figures));
    }
    if document.budgets.iter().any(|one| one.measured.is_some()) {
        text += &format!("What netpath holds itself to\n{}\n\n", budgets(document));
    }
    text += &notes(document).into_iter().map(|note| note + "\n").collect::<String>();
    let environment = &document.environment;
    text + &format!(
        "{} rounds of {} ms, interleaved; medians over rounds with the interval that holds the true one with a probability of \
         {:.0} %; ratios are taken within a round.\n",
        environment.rounds,
        environment.slice_ms,
        document.confidence().unwrap_or_default() * 100.0
    )
}

/// Budgets of what was measured.
fn budgets(document: &Document) -> Table {
    let mut table = table(&["", "budget", "measured", "", "why"]);
    for one in document.budgets.iter().filter(|one| one.measured.is_some()) {
        table.add_row([
            Cell::new(&one.what),
            Cell::new(one.budget()),
            right(one.seen()),
            Cell::new(&one.verdict),
            Cell::new(&one.why),
        ]);
    }
    table
}

/// What was left out, failed or is doubtful, a line each.
pub(super) fn notes(document: &Document) -> Vec<String> {
    let alike = document.skipped.chunk_by(|a, b| (&a.mode, &a.reason) == (&b.mode, &b.reason));
    let skipped = alike.map(|all| {
        let parts = all.iter().flat_map(|one| [&one.path, &one.workload]).flatten();
        let parts: Vec<&str> = parts.map(String::as_str).collect();
        let space = if parts.is_empty() { "" } else { " " };
        format!("skipped {}{space}{}: {}", all[0].mode, parts.join(", "), all[0].reason)
    });
    let failures = document.failures.iter().map(|one| format!("failed: {one}"));
    let warnings = document.warnings.iter().map(|one| format!("warning: {one}"));
    skipped.chain(failures).chain(warnings).collect()
}

/// What a workload is, for who reads its figures.
pub(super) fn meaning(workload: &str) -> &'static str {
    match workload {
        "rr" => "request and response on one connection, whole round trip, both sides on one core",
        "crr" => "connect, request, response, close, one connection after the other, both sides on one core",
        "stream" => "payload that arrives, sender and receiver on a core each",
        "pps" => "datagrams in 64-byte frames that arrive, sender and receiver on a core each",
        "first-packet" => "the first round trip of a pod that was just made",
        "attach" => {
            "a pod added, and removed, by a process (until it answers, and until nothing is left), and one that does nothing; bridge is the reference CNI plugin"
        }
        "program" => "one run of a program during TCP round trips, the kernel's clock included",
        "drop" => "packets that are dropped, each way of dropping them, sender and dropper on one core",
        "scale" => "round trips with so much in netpath's tables",
        _ => "",
    }
}

fn of_workload<'a>(figures: impl Iterator<Item = &'a Figure>) -> Table {
    let figures: Vec<_> = figures.collect();
    let scale = figures.iter().any(|figure| figure.ratio_empty.is_some());
    let mut header = vec!["path", "", "", "mode", "median", "interval", "p99", "/ direct", "/ bridge"];
    let peers = figures.iter().any(|figure| figure.peer.is_some());
    header.extend(peers.then_some("/ peer"));
    header.extend(scale.then_some("/ 2 endpoints"));
    let mut table = table(&header);
    for figure in figures {
        let text = |ratio: Option<f64>, low: Option<f64>, high: Option<f64>| match (ratio, low, high) {
            (Some(ratio), Some(low), Some(high)) => format!("{ratio:.3} ({low:.2} to {high:.2})"),
            _ => "-".into(),
        };
        let ratio = |ratio, low, high| right(text(ratio, low, high));
        let noisy = if figure.noisy { "~" } else { "" };
        let mut row = vec![
            Cell::new(figure.path.as_deref().unwrap_or("")),
            Cell::new(figure.protocol.as_deref().unwrap_or("")),
            Cell::new(figure.question().variation()),
            Cell::new(&figure.mode),
            right(format!("{noisy}{} {}", number(figure.median), figure.unit)),
            right(format!("{} to {}", number(figure.ci_low), number(figure.ci_high))),
            right(figure.p99.map_or_else(|| "-".into(), number)),
            ratio(figure.ratio_direct, figure.ratio_direct_low, figure.ratio_direct_high),
            ratio(figure.ratio_bridge, figure.ratio_bridge_low, figure.ratio_bridge_high),
        ];
        let peer = text(figure.ratio_peer, figure.ratio_peer_low, figure.ratio_peer_high);
        let of = figure.peer.as_ref().map_or_else(String::new, |of| format!(" of {of}"));
        row.extend(peers.then(|| right(peer + &of)));
        let empty = (figure.ratio_empty, figure.ratio_empty_low, figure.ratio_empty_high);
        row.extend(scale.then(|| ratio(empty.0, empty.1, empty.2)));
        table.add_row(row);
    }
    table
}

/// Two runs side by side.
pub fn comparison(comparison: &Comparison) -> String {
    let (what, told) = match comparison.judged.as_str() {
        "ratio" => (
            "ratios to bridge",
            "Kernel or processor differ: B / A is of the ratios to mode bridge (of bridge itself, to direct; between nodes, to the mode \
             that does the same by other means, of which to direct). ",
        ),
        _ => ("medians", ""),
    };
    let mut table =
        table(&["workload", "path", "", "", "mode", "A", "B", "A / bridge", "B / bridge", "B / A", ""]);
    let ratio = |ratio: Option<f64>| right(ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}")));
    for row in &comparison.rows {
        table.add_row([
            Cell::new(&row.workload),
            Cell::new(row.path.as_deref().unwrap_or("")),
            Cell::new(row.protocol.as_deref().unwrap_or("")),
            Cell::new(row.question().variation()),
            Cell::new(&row.mode),
            right(format!("{} {}", number(row.a), row.unit)),
            right(format!("{} {}", number(row.b), row.unit)),
            ratio(row.ratio_bridge_a),
            ratio(row.ratio_bridge_b),
            ratio(row.ratio),
            Cell::new(&row.verdict),
        ]);
    }
    let notes: String = comparison.notes.iter().map(|note| format!("{note}\n")).collect();
    format!(
        "{table}\n{notes}{told}Better and worse are told where the intervals of A's and B's {what} do not meet, and hold the \
         true one with 95 % at least.\n"
    )
}

/// A number as short as it can be told: three to five digits, with thousands.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 1e4 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
