//! What a run has found: as tables for people, as one JSON document for programs.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::checks::Check;
use crate::bench::{Figure, Measured};

/// What a run has found. Field names are stable: scripts rely on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The connectivity matrix.
    pub checks: Vec<Check>,
    /// Round trips of the modes.
    pub latency: Vec<Row>,
}

/// One row of the latency table. Times are of whole round trips.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the mode.
    pub mode: String,
    /// Name of the path.
    pub path: String,
    /// Name of the protocol.
    pub protocol: String,
    /// Median over rounds of each round's median, microseconds.
    pub median_us: f64,
    /// 99th percentile of all round trips, microseconds; `None` if there are less than 100.
    pub p99_us: Option<f64>,
    /// To mode `direct` on the same path; `None` if that was not measured.
    pub ratio_direct: Option<f64>,
    /// To mode `bridge` on the same path; `None` if that was not measured.
    pub ratio_bridge: Option<f64>,
    /// Name of the client's node, in a lab with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Name of the server's node, in a lab with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl From<Figure> for Row {
    fn from(figure: Figure) -> Self {
        Self {
            mode: figure.mode,
            path: figure.path.unwrap_or_default(),
            protocol: figure.protocol.unwrap_or_default(),
            median_us: figure.median,
            p99_us: figure.p99,
            ratio_direct: figure.ratio_direct,
            ratio_bridge: figure.ratio_bridge,
            from: None,
            to: None,
        }
    }
}

impl Row {
    /// Whether it is of these two nodes.
    pub(super) fn is_of(&self, from: &str, to: &str) -> bool {
        (self.from.as_deref(), self.to.as_deref()) == (Some(from), Some(to))
    }
}

impl Report {
    /// From the matrix and the benchmark. A case that could not be measured becomes a failed check, so that no reader
    /// takes its absence for success.
    pub(super) fn new(mut checks: Vec<Check>, measured: Measured) -> Self {
        checks.extend(measured.failures.iter().map(|failure| {
            let [path, protocol] =
                [&failure.path, &failure.protocol].map(|name| name.as_deref().unwrap_or("-"));
            let name = format!("latency, {} {path} {protocol}", failure.mode);
            Check::failed(name, failure.to_string())
        }));
        Self { checks, latency: measured.figures.into_iter().map(Row::from).collect() }
    }

    /// Whether every check is fine (and there are some).
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// Both tables, and one line that says how many checks are fine.
    pub(super) fn tables(&self) -> String {
        let fine = self.checks.iter().filter(|check| check.ok).count();
        format!(
            "{}\n{fine} of {} checks are fine.\n\n{}\nRound trips with client and server on one core; ratios are medians over \
             the rounds of one interleaved run.",
            self.check_table(),
            self.checks.len(),
            self.latency_table()
        )
    }

    fn check_table(&self) -> Table {
        let mut table = table(&["", "check", "round trip", "seen"]);
        for check in &self.checks {
            table.add_row([
                Cell::new(if check.ok { "✓" } else { "✗" }),
                Cell::new(&check.name),
                right(check.rtt_us.map_or_else(String::new, |rtt| format!("{rtt:.1} µs"))),
                Cell::new(&check.detail),
            ]);
        }
        table
    }

    fn latency_table(&self) -> Table {
        let mut table = table(&["path", "protocol", "mode", "median", "p99", "/ direct", "/ bridge"]);
        let ratio =
            |ratio: Option<f64>| right(ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}")));
        for row in &self.latency {
            table.add_row([
                Cell::new(&row.path),
                Cell::new(&row.protocol),
                Cell::new(&row.mode),
                right(format!("{:.2} µs", row.median_us)),
                right(row.p99_us.map_or_else(|| "-".into(), |p99| format!("{p99:.2} µs"))),
                ratio(row.ratio_direct),
                ratio(row.ratio_bridge),
            ]);
        }
        table
    }
}

/// An empty table with borders.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

/// A cell for numbers.
pub(crate) fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::Failure;

    fn report() -> Report {
        let check =
            Check { name: "pod → pod".into(), ok: true, rtt_us: Some(9.5), detail: "echoed".into() };
        let row = Row {
            mode: "bridge".into(),
            path: "pod-outside".into(),
            protocol: "tcp".into(),
            median_us: 20.5,
            p99_us: Some(31.0),
            ratio_direct: None,
            ratio_bridge: Some(1.0),
            from: None,
            to: None,
        };
        Report { checks: vec![check], latency: vec![row] }
    }

    #[test]
    fn json_has_the_stable_shape() {
        let want = json!({
            "checks": [{"name": "pod → pod", "ok": true, "rtt_us": 9.5, "detail": "echoed"}],
            "latency": [{"mode": "bridge", "path": "pod-outside", "protocol": "tcp", "median_us": 20.5, "p99_us": 31.0,
                "ratio_direct": null, "ratio_bridge": 1.0}],
        });
        assert_eq!(serde_json::to_value(report()).unwrap(), want);
    }

    #[test]
    fn a_case_that_was_not_measured_fails_the_run() {
        assert!(report().passed());
        assert!(!Report::default().passed());
        let failure = Failure {
            mode: "netpath".into(),
            path: Some("pod-pod".into()),
            protocol: Some("udp".into()),
            workload: "rr".into(),
            round: 2,
            reason: "timed out".into(),
        };
        let report = Report::new(report().checks, Measured { figures: Vec::new(), failures: vec![failure] });
        assert!(!report.passed());
        assert_eq!(report.checks[1].rtt_us, None);
        assert_eq!(report.checks[1].name, "latency, netpath pod-pod udp");
        assert!(report.checks[1].detail.contains("round 2: timed out"));
    }

    #[test]
    fn tables_tick_and_leave_out_what_is_not_there() {
        let text = report().tables();
        assert!(text.contains('✓') && text.contains("9.5 µs") && text.contains("1 of 1 checks"));
        assert!(text.contains("20.50 µs") && text.contains(" - "));
    }
}
