//! What was found.

use std::fmt;

use serde::{Serialize, Serializer};

/// Objects that one finding names before it counts the rest.
const NAMED: usize = 5;

/// How a check came out. In JSON `ok`, `warning`, `failed`, `not_applicable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, but may not for long, or not as well as it could.
    Warning,
    /// Packets are lost, or the agent cannot do its work.
    Failed,
    /// There is nothing to judge here; `seen` says why.
    NotApplicable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::NotApplicable => "not applicable",
        })
    }
}

/// What one check says. Commands in `advice` stand between backquotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) status: Outcome,
    pub(super) seen: String,
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(seen: impl Into<String>) -> Self {
        Self { status: Outcome::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn not_applicable(why: impl Into<String>) -> Self {
        Self { status: Outcome::NotApplicable, seen: why.into(), advice: None }
    }

    pub(super) fn warning(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Outcome::Warning, seen: seen.into(), advice: Some(advice.into()) }
    }

    pub(super) fn failed(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Outcome::Failed, ..Self::warning(seen, advice) }
    }

    /// What was to be read cannot be read.
    pub(super) fn unread(reason: impl fmt::Display) -> Self {
        Self::warning(format!("it cannot be read: {reason}"), "run it as root on the node itself")
    }
}

/// What is wrong with several objects, each with its fix.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(String, String)>);

impl Faults {
    pub(super) fn add(&mut self, seen: impl Into<String>, fix: impl Into<String>) {
        self.0.push((seen.into(), fix.into()));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The worse of nothing and `status`; `fine` says what was seen if nothing is wrong.
    pub(super) fn finding(self, status: Outcome, fine: impl Into<String>) -> Finding {
        if self.0.is_empty() {
            return Finding::ok(fine);
        }
        let more = self.0.len().saturating_sub(NAMED);
        let (mut seen, mut fixes): (Vec<String>, Vec<String>) = self.0.into_iter().take(NAMED).unzip();
        if more > 0 {
            seen.push(format!("and {more} more"));
            fixes.push("and so for the others".to_owned());
        }
        fixes.dedup();
        Finding { status, seen: seen.join("; "), advice: Some(fixes.join("; ")) }
    }
}

/// A check as it came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Stable name of the check.
    pub name: &'static str,
    /// Group it is in.
    pub group: &'static str,
    /// How it came out.
    pub status: Outcome,
    /// What was seen.
    pub seen: String,
    /// The fix: commands between backquotes, or a line of the configuration.
    pub advice: Option<String>,
}

/// All checks, in the order of their groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Row>,
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut report = serializer.serialize_struct("Report", 2)?;
        report.serialize_field("summary", &self.summary())?;
        report.serialize_field("checks", &self.checks)?;
        report.end()
    }
}

impl Report {
    /// Whether any check failed.
    pub fn failed(&self) -> bool {
        self.count(Outcome::Failed) > 0
    }

    /// `23 ok, 1 warning, 2 failed, 5 not applicable`; what none came out as is left out.
    pub fn summary(&self) -> String {
        let all = [Outcome::Ok, Outcome::Warning, Outcome::Failed, Outcome::NotApplicable];
        let counted = all.map(|outcome| (outcome, self.count(outcome))).into_iter();
        let words: Vec<_> = counted
            .filter(|(_, count)| *count > 0)
            .map(|(outcome, count)| match (outcome, count) {
                (Outcome::Warning, 2..) => format!("{count} warnings"),
                _ => format!("{count} {outcome}"),
            })
            .collect();
        words.join(", ")
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|row| row.status == outcome).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let row = |status: &Outcome| Row {
            name: "mtu",
            group: "network",
            status: *status,
            seen: String::new(),
            advice: None,
        };
        Report { checks: outcomes.iter().map(row).collect() }
    }

    #[test]
    fn the_summary_counts_and_only_failures_fail() {
        use Outcome::{Failed, NotApplicable, Ok, Warning};
        let one = report(&[Ok, Warning, Ok, NotApplicable]);
        assert_eq!(one.summary(), "2 ok, 1 warning, 1 not applicable");
        assert!(!one.failed());
        let two = report(&[Warning, Failed, Warning]);
        assert_eq!(two.summary(), "2 warnings, 1 failed");
        assert!(two.failed());
        let json = serde_json::to_value(&one).unwrap();
        assert_eq!(json["checks"][3]["status"], "not_applicable");
        assert_eq!(json["summary"], "2 ok, 1 warning, 1 not applicable");
    }

    #[test]
    fn many_faults_are_counted_and_a_fix_that_all_share_is_said_once() {
        let mut faults = Faults::default();
        (0..7).for_each(|number| faults.add(format!("np{number}"), "`restart`"));
        let finding = faults.finding(Outcome::Failed, "fine");
        assert_eq!(finding.seen, "np0; np1; np2; np3; np4; and 2 more");
        assert_eq!(finding.advice.unwrap(), "`restart`; and so for the others");
        assert_eq!(Faults::default().finding(Outcome::Failed, "fine"), Finding::ok("fine"));
    }
}
