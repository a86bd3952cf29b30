//! A run's summary for a page of documentation.

use std::collections::BTreeMap;

use super::{Document, modes, table};

/// What the run was made on, its budgets, and its medians with modes beside each other, as Markdown.
pub fn summary(document: &Document) -> String {
    let environment = &document.environment;
    let machine = if environment.virtual_machine { ", a virtual machine" } else { "" };
    let sure = document.confidence().unwrap_or_default() * 100.0;
    let mut text = format!(
        "netpath {}, Linux {}, {}, {} cores{machine}; {} rounds of {} ms, intervals at {sure:.0} %; {}.\n\n",
        environment.netpath,
        environment.kernel,
        environment.cpu,
        environment.cores,
        environment.rounds,
        environment.slice_ms,
        environment.began
    );
    text += &document.warnings.iter().map(|warning| format!("- Warning: {warning}.\n")).collect::<String>();
    if !document.warnings.is_empty() {
        text.push('\n');
    }
    text += &lines(&["what", "budget", "measured", "verdict", "why"]);
    for one in &document.budgets {
        let verdict = if one.verdict == "missed" { "**missed**" } else { &one.verdict };
        text += &line([&one.what, &one.budget(), &one.seen(), verdict, &one.why]);
    }
    text.push('\n');
    text + &medians(document)
}

/// Questions that several modes answer, a line each.
fn medians(document: &Document) -> String {
    let names: Vec<_> = modes::names().collect();
    let mut header = vec!["what", "unit"];
    header.extend(&names);
    let mut text = lines(&header);
    for figures in document.results.chunk_by(|a, b| a.question() == b.question()) {
        let by_mode: BTreeMap<_, _> = figures.iter().map(|one| (one.mode.as_str(), one)).collect();
        if by_mode.len() < 2 {
            continue;
        }
        let cell = |mode: &&str| {
            by_mode.get(mode).map_or_else(String::new, |one| {
                format!("{}{}", if one.noisy { "~" } else { "" }, table::number(one.median))
            })
        };
        let what = [figures[0].workload.clone(), figures[0].question().words()].join(" ");
        let cells = [what, figures[0].unit.clone()].into_iter().chain(names.iter().map(cell));
        text += &line(cells);
    }
    text
}

fn lines(header: &[&str]) -> String {
    line(header) + &line(header.iter().map(|_| "---"))
}

fn line<S: AsRef<str>>(cells: impl IntoIterator<Item = S>) -> String {
    let cells: String =
        cells.into_iter().map(|cell| format!(" {} |", cell.as_ref().replace('|', "\\|"))).collect();
    format!("|{cells}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Figure, budgets, figure::testing::figure};

    #[test]
    fn modes_stand_beside_each_other_and_budgets_below_each_other() {
        let one = |mode, median| Figure { median, ..figure(mode, "rr", "pod-pod", Some(("bytes", 1))) };
        let results =
            vec![one("direct", 9.5), one("netpath", 10.0), figure("netpath", "program", "pod-pod", None)];
        let budgets = budgets::judge(&results);
        let document = Document { results, budgets, warnings: vec!["a | b".into()], ..Document::default() };
        let text = summary(&document);
        assert!(
            text.contains("| rr pod-pod, tcp, 1 byte | us | 9.50 |  |  |  |  |  |  | 10.00 |  |  |  |"),
            "{text}"
        );
        assert!(!text.contains("program"), "{text}");
        assert!(
            text.contains("| adding a pod | at most 0.33, / bridge | - | cannot tell | not measured"),
            "{text}"
        );
    }
}
