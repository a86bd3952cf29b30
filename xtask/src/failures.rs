//! `cargo xtask failures`: what a cluster loses while parts of it fail, into the table of docs/CLUSTER.md.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, run},
    setup::{Purpose, setup},
    test::runner,
    workspace,
};

const PAGE: &str = "docs/CLUSTER.md";
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- failures: cargo xtask failures -->\n", "<!-- /failures -->\n"];
/// How the tests' lines begin.
const LINE: &str = "FIGURES ";
/// A figure of a line, the first of them what the row is called by, and its column's head.
const COLUMNS: [(&str, &str); 10] = [
    ("scenario", "what fails"),
    ("family", "family"),
    ("lost", "lost of flows that go on"),
    ("of", "of"),
    ("hit_lost", "lost of flows that are hit"),
    ("hit_of", "of"),
    ("gap_ms", "longest gap, ms"),
    ("converge_s", "nothing lost after, s"),
    ("records_s", "all is well after, s"),
    ("leaks", "leaks"),
];

/// Sets up, builds, runs the tests one after another, and puts their figures into the page.
///
/// # Errors
/// Something is missing, a test fails, or tells no figures; the page is as it was then.
pub(crate) fn failures() -> Result<()> {
    setup(Purpose::Test)?;
    run(cargo().args(["build", "--package", "netpath", "--bin", "netpath"]))?;
    let mut nextest = runner()?;
    nextest.args(["nextest", "run", "--package", "netpath-tests", "--no-capture"]);
    nextest.args(["--filterset", "binary(netns) and test(/^failures::/)"]);
    let mut child = nextest.stdout(Stdio::piped()).spawn().context("starting cargo nextest")?;
    let told = child.stdout.take().context("the tests' output")?;
    let mut rows = Vec::new();
    for line in BufReader::new(told).lines() {
        let line = line.context("reading the tests' output")?;
        eprintln!("{line}");
        rows.extend(line.trim().strip_prefix(LINE).map(row).transpose()?);
    }
    ensure!(child.wait().context("waiting for cargo nextest")?.success(), "a test failed");
    ensure!(!rows.is_empty(), "no test told any figures");
    rows.sort();
    let path = workspace::root().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    fs::write(&path, replaced(&text, &table(&rows))?).with_context(|| format!("writing {PAGE}"))
}

/// The figures of a line, in the columns' order.
fn row(line: &str) -> Result<Vec<String>> {
    let figures: BTreeMap<_, _> = line.split(' ').filter_map(|figure| figure.split_once('=')).collect();
    let figure = |(name, _): &(&str, &str)| {
        let found = figures.get(name).with_context(|| format!("no {name} in: {line}"))?;
        Ok(found.replace('_', " "))
    };
    COLUMNS.iter().map(figure).collect()
}

fn table(rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let head = line(COLUMNS.iter().map(|(_, head)| *head).collect());
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    format!("{head}|{}\n{}", "---|".repeat(COLUMNS.len()), rows.collect::<String>())
}

/// The page with another table between its marks.
fn replaced(text: &str, table: &str) -> Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin).with_context(|| format!("{PAGE} lacks {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{PAGE} lacks {end}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_rows_between_the_marks() {
        let told = "scenario=agents_killed family=ipv4 lost=0 of=10 hit_lost=1 hit_of=2 gap_ms=3 converge_s=4.0 \
                    records_s=5.1 leaks=0";
        let rows = [row(told).unwrap()];
        assert_eq!(rows[0][..3], ["agents killed", "ipv4", "0"]);
        let page = format!("before\n{}old\n{}after\n", MARKS[0], MARKS[1]);
        let page = replaced(&page, &table(&rows)).unwrap();
        assert!(page.starts_with("before\n<!--") && page.ends_with("<!-- /failures -->\nafter\n"), "{page}");
        assert!(page.contains("| agents killed | ipv4 | 0 | 10 | 1 | 2 | 3 | 4.0 | 5.1 | 0 |\n"), "{page}");
        assert!(!page.contains("old"));
        assert!(row("scenario=x").is_err() && replaced("no marks", "").is_err());
    }
}
