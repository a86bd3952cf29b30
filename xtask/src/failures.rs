//! `cargo xtask failures`: what a cluster loses while parts of it fail, into the table of docs/CLUSTER.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
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
/// Where the tests are, and how each says what its rows are called by.
const TESTS: &str = "tests/netns/failures";
const FINISH: &str = ".finish(\"";
/// Each scenario has a row for each.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
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
/// Something is missing, a test fails, or one tells no figures; the page is as it was then.
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
    rows.sort();
    check_complete(&rows, &defined(&workspace::root().join(TESTS))?)?;
    let path = workspace::root().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    fs::write(&path, replaced(&text, &table(&rows))?).with_context(|| format!("writing {PAGE}"))
}

/// The scenarios of all tests, by what they say in the end.
fn defined(dir: &Path) -> Result<BTreeSet<String>> {
    let doing = || format!("reading {}", dir.display());
    let mut all = BTreeSet::new();
    for file in fs::read_dir(dir).with_context(doing)? {
        let text = fs::read_to_string(file.with_context(doing)?.path()).with_context(doing)?;
        let tests = text.matches("#[test]").count();
        let told: Vec<_> = text.split(FINISH).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        ensure!(told.len() == tests, "{tests} tests and {told:?} in a file of {}", dir.display());
        all.extend(told.into_iter().map(str::to_owned));
    }
    ensure!(!all.is_empty(), "no tests in {}", dir.display());
    Ok(all)
}

/// Every scenario has one row for each family, and there are no others.
fn check_complete(rows: &[Vec<String>], scenarios: &BTreeSet<String>) -> Result<()> {
    let told: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let row = |scenario| FAMILIES.map(|family| (scenario, family));
    let wanted: Vec<_> = scenarios.iter().map(String::as_str).flat_map(row).collect();
    let missing: Vec<_> = wanted.iter().filter(|one| !told.contains(one)).collect();
    ensure!(missing.is_empty(), "no figures of {missing:?}");
    ensure!(told.len() == wanted.len(), "figures of {told:?}, where {wanted:?} are wanted");
    Ok(())
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

    #[test]
    fn a_table_with_a_row_missing_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert!(defined(dir.path()).is_err(), "no tests");
        file("one.rs", "#[test]\nfn a() {\n  scene.finish(\"route flap\", hit);\n}\n");
        file("two.rs", "#[test]\nfn b() {\n  scene\n    .finish(\"link\", hit);\n}\n");
        let scenarios = defined(dir.path()).unwrap();
        let rows = |told: &[(&str, &str)]| -> Vec<Vec<String>> {
            told.iter().map(|(one, family)| vec![(*one).to_owned(), (*family).to_owned()]).collect()
        };
        let all = [("link", "ipv4"), ("link", "ipv6"), ("route flap", "ipv4"), ("route flap", "ipv6")];
        check_complete(&rows(&all), &scenarios).unwrap();
        let refused = |told: &[_]| check_complete(&rows(told), &scenarios).unwrap_err().to_string();
        assert!(refused(&all[..3]).contains("no figures of [(\"route flap\", \"ipv6\")]"));
        assert!(refused(&all[2..]).contains("link"));
        refused(&[&all[..], &all[..1]].concat());
        refused(&[&all[..], &[("unknown", "ipv4")]].concat());
        // A test that says it otherwise is not to be forgotten.
        file("two.rs", "#[test]\nfn b() {\n  let name = \"link\"; scene.finish(name, hit);\n}\n");
        assert!(defined(dir.path()).is_err());
    }

    #[test]
    fn the_page_has_all_that_the_tests_define() {
        let text = fs::read_to_string(workspace::root().join(PAGE)).unwrap();
        let (_, rest) = text.split_once(MARKS[0]).unwrap();
        let (table, _) = rest.split_once(MARKS[1]).unwrap();
        let cells = |line: &str| line.split('|').skip(1).map(|cell| cell.trim().to_owned()).collect();
        let rows: Vec<Vec<String>> = table.lines().skip(2).map(cells).collect();
        check_complete(&rows, &defined(&workspace::root().join(TESTS)).unwrap()).unwrap();
    }
}
