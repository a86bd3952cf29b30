//! What a run with several nodes has found: rows for the document, and a matrix of nodes.

use std::fmt::Write as _;

use comfy_table::{Cell, ContentArrangement};

use super::{Cluster, Member};
use crate::{
    api::{
        client::ClientError,
        types::{ClusterNode, Status},
    },
    bench::{Figure, Measured},
    lab::{
        checks::{Check, nodes::pair},
        report::{Report, Row, right, table},
    },
};

/// What a benchmark calls a way between two pods.
pub(super) fn mode(backend: &str) -> &'static str {
    match backend {
        "local" => "netpath",
        "vxlan" => "netpath-vxlan",
        _ => "netpath-direct",
    }
}

/// What round trips are measured by.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];

/// From the matrix and the round trips. What could not be measured becomes a failed check.
pub(super) fn report(cluster: &Cluster, mut checks: Vec<Check>, measured: Measured) -> Report {
    let pairs: Vec<_> = cluster.pairs().collect();
    let row = |figure: Figure| {
        let (from, to) = pairs.get(figure.amount? as usize)?;
        let path = if from.name() == to.name() { "pod-pod" } else { "pod-pod-remote" };
        let (from, to) = (Some(from.name().to_owned()), Some(to.name().to_owned()));
        Some(Row { path: path.into(), from, to, ..Row::from(figure) })
    };
    let latency: Vec<Row> = measured.figures.into_iter().filter_map(row).collect();
    for ((from, to), protocol) in pairs.iter().flat_map(|one| PROTOCOLS.map(|protocol| (*one, protocol))) {
        if latency.iter().any(|row| row.is_of(from.name(), to.name()) && row.protocol == protocol) {
            continue;
        }
        let its = measured.failures.iter().filter(|failure| failure.protocol.as_deref() == Some(protocol));
        let reasons: Vec<_> = its.map(ToString::to_string).collect();
        checks.push(Check::failed(format!("{}latency, {protocol}", pair(from, to)), reasons.join("; ")));
    }
    Report { checks, latency }
}

/// The matrix, what else was checked, and whatever has failed.
pub(super) fn tables(cluster: &Cluster, report: &Report) -> String {
    let fine = report.checks.iter().filter(|check| check.ok).count();
    format!(
        "{}\n{}\n{fine} of {} checks are fine.\n\nFrom pods of the nodes on the left to pods of those above: how they are reached, and the \
         median round trip with client and server on one core.",
        matrix(cluster, report),
        others(cluster, report),
        report.checks.len(),
    )
}

fn matrix(cluster: &Cluster, report: &Report) -> String {
    let heads = cluster.members.iter().map(|member| format!("{}\nlink{}", member.name(), member.node.link));
    let heads: Vec<String> = [String::new()].into_iter().chain(heads).collect();
    let mut table = table(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    // Lines that a terminal breaks are easier to read than columns of one letter.
    table.set_content_arrangement(ContentArrangement::Disabled);
    for from in &cluster.members {
        let cells = cluster.members.iter().map(|to| Cell::new(cell(from, to, report)));
        table.add_row([Cell::new(from.name())].into_iter().chain(cells));
    }
    table.to_string()
}

/// How one node's pods reach another's, and how fast.
fn cell(from: &Member, to: &Member, report: &Report) -> String {
    let begin = pair(from, to);
    let fine = report.checks.iter().filter(|check| check.name.starts_with(&begin)).all(|check| check.ok);
    let mut lines = vec![format!("{} {}", if fine { '✓' } else { '✗' }, from.backend(to))];
    let is_its =
        |row: &&Row| row.from.as_deref() == Some(from.name()) && row.to.as_deref() == Some(to.name());
    let times = report.latency.iter().filter(is_its);
    lines.extend(times.map(|row| format!("{:<4} {:6.1} µs", row.protocol, row.median_us)));
    lines.join("\n")
}

/// What is about no two nodes, and what has failed.
fn others(cluster: &Cluster, report: &Report) -> String {
    let mut table = table(&["", "check", "round trip", "seen"]);
    let begins: Vec<String> = cluster.pairs().map(|(from, to)| pair(from, to)).collect();
    let is_pairs = |check: &Check| begins.iter().any(|begin| check.name.starts_with(begin));
    for check in report.checks.iter().filter(|check| !check.ok || !is_pairs(check)) {
        table.add_row([
            Cell::new(if check.ok { "✓" } else { "✗" }),
            Cell::new(&check.name),
            right(check.rtt_us.map_or_else(String::new, |rtt| format!("{rtt:.1} µs"))),
            Cell::new(&check.detail),
        ]);
    }
    table.to_string()
}

/// One look at a node.
pub(super) struct Look {
    /// As it is registered, if it is.
    pub(super) own: Option<ClusterNode>,
    /// What it says of itself.
    pub(super) status: Status,
    /// Packets dropped.
    pub(super) drops: u64,
}

/// All nodes by their names as a table, and what is wrong with them: also those that do not answer.
pub(super) fn looks(looks: &[(&str, Result<Look, ClientError>)]) -> String {
    let mut rows = table(&["node", "state", "blocks", "pods", "flows", "packets", "drops"]);
    let mut problems = String::new();
    for (name, look) in looks {
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                rows.add_row([*name, "no answer"]);
                let _ = writeln!(problems, "{name}: {error}");
                continue;
            }
        };
        let (state, blocks) = look.own.as_ref().map_or_else(Default::default, |own| {
            let blocks: Vec<String> = own.blocks.iter().map(ToString::to_string).collect();
            (own.state.clone(), blocks.join(", "))
        });
        let packets: u64 = look.status.traffic.iter().map(|one| one.packets).sum();
        rows.add_row([
            Cell::new(name),
            Cell::new(state),
            Cell::new(blocks),
            right(look.status.pods),
            right(look.status.flows),
            right(packets),
            right(look.drops),
        ]);
        problems.extend(look.status.problems.iter().map(|one| format!("{name}: {one}\n")));
    }
    format!("{rows}\n{problems}")
}
