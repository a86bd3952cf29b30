//! What came out, a kernel after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{guest::Outcome, kernel::Kernel};
use crate::{
    process::say,
    test::{check, parse},
};

/// Says for each kernel what passed, failed and was skipped.
///
/// # Errors
/// Anything failed; or CI skipped a test that is not in tests/expected-skips.txt.
pub(super) fn summary(results: &[(&Kernel, Result<Outcome>)], tests: bool) -> Result<()> {
    let mut failed = Vec::new();
    let mut skipped = String::new();
    for (kernel, result) in results {
        say(format!("--- {} ({})", kernel.series, kernel.package));
        let passed = match result {
            Ok(outcome) => shown(outcome, tests).map(|()| outcome.passed),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        match passed {
            Ok(true) => {}
            Ok(false) => failed.push(kernel.series.as_str()),
            Err(error) => {
                say(format!("{error:#}"));
                failed.push(&kernel.series);
            }
        }
        if let Ok(outcome) = result {
            skipped.extend(outcome.skipped.lines().map(|line| format!("{} {line}\n", kernel.series)));
        }
    }
    ensure!(failed.is_empty(), "failed on {}", failed.join(", "));
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        check(&parse(&skipped))?;
    }
    Ok(())
}

fn shown(outcome: &Outcome, tests: bool) -> Result<()> {
    let Outcome { passed, took, junit, skipped } = outcome;
    let took = Duration::from_secs(took.as_secs());
    if !tests {
        say(format!("{} after {took:?}", if *passed { "done" } else { "the command failed" }));
        return Ok(());
    }
    let junit = junit.as_ref().context("nextest left no report: its reason is above")?;
    let counts = Counts::parse(junit)?;
    let skipped = parse(skipped);
    let ran = counts.total.saturating_sub(counts.failed.len() + skipped.len());
    say(format!("{ran} passed, {} failed, {} skipped, in {took:?}", counts.failed.len(), skipped.len()));
    for (name, reason) in &skipped {
        say(format!("  skipped {name}: {reason}"));
    }
    for name in &counts.failed {
        say(format!("  FAILED {name}"));
    }
    Ok(())
}

/// What nextest's report says.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    total: usize,
    failed: Vec<String>,
}

impl Counts {
    fn parse(junit: &str) -> Result<Self> {
        let document = roxmltree::Document::parse(junit).context("reading nextest's report")?;
        let cases: Vec<_> = document.descendants().filter(|node| node.has_tag_name("testcase")).collect();
        let failed = cases.iter().filter(|case| {
            case.children().any(|child| child.has_tag_name("failure") || child.has_tag_name("error"))
        });
        let name = |case: &roxmltree::Node| {
            let part = |name| case.attribute(name).unwrap_or("?").to_owned();
            format!("{} {}", part("classname"), part("name"))
        };
        Ok(Self { total: cases.len(), failed: failed.map(name).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_nextest_reports() {
        let junit = r#"<?xml version="1.0" encoding="UTF-8"?>
            <testsuites name="nextest-run" tests="3"><testsuite name="p::prog">
                <testcase name="a" classname="p::prog"/>
                <testcase name="b" classname="p::prog"><failure type="test failure"/></testcase>
                <testcase name="c" classname="p::prog"><flakyFailure/></testcase>
            </testsuite></testsuites>"#;
        assert_eq!(Counts::parse(junit).unwrap(), Counts { total: 3, failed: vec!["p::prog b".into()] });
    }
}
