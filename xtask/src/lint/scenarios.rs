//! docs/SCENARIOS.md names a test for every scenario: each must be there, or the table says more than is true.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::source::Finding;

const TABLE: &str = "docs/SCENARIOS.md";

/// Names in the table that no test has.
///
/// # Errors
/// The table cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join(TABLE)).with_context(|| format!("reading {TABLE}"))?;
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        for name in names(line) {
            if let Some(problem) = problem(root, name) {
                findings.push(Finding::new(TABLE, index + 1, format!("`{name}`: {problem}")));
            }
        }
    }
    Ok(findings)
}

/// The tests a line names: what stands in backquotes and has the form `tier::file::test`.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|name| name.matches("::").count() >= 2)
}

/// What is wrong with a name, if anything. A last part `{ipv4,ipv6}` names the two tests that `for_both_families!` makes of
/// a function, which it must list then.
fn problem(root: &Path, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split("::").collect();
    let family = parts.pop_if(|last| *last == "{ipv4,ipv6}").is_some();
    let (tier, file, test) = (parts[0], parts.get(1..parts.len() - 1)?.join("/"), parts.last()?);
    let read = |path: String| Some((fs::read_to_string(root.join(&path)).ok()?, path));
    let found =
        read(format!("tests/{tier}/{file}.rs")).or_else(|| read(format!("tests/{tier}/{file}/mod.rs")));
    let Some((text, path)) = found else { return Some(format!("there is no tests/{tier}/{file}.rs")) };
    if !text.contains(&format!("fn {test}(")) {
        return Some(format!("{path} has no such test"));
    }
    let list = text.split("for_both_families!(").nth(1).and_then(|rest| rest.split(");").next());
    let both = list.is_some_and(|list| list.split(',').any(|entry| entry.trim() == *test));
    match (family, both) {
        (true, false) => Some(format!("{path} does not run it for both families")),
        (false, true) => Some("it has a test for each family; name them".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_looked_up() {
        let line = "| a `word`, `netns::b::c` | `prog::d::e::{ipv4,ipv6}` |";
        assert_eq!(names(line).collect::<Vec<_>>(), ["netns::b::c", "prog::d::e::{ipv4,ipv6}"]);
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("tests/prog")).unwrap();
        let source = "for_both_families!(e,\n f,);\nfn e(f: Family) {}\nfn f(f: Family) {}\nfn g() {}\n";
        fs::write(root.path().join("tests/prog/d.rs"), source).unwrap();
        let problem = |name| problem(root.path(), name);
        for good in ["prog::d::e::{ipv4,ipv6}", "prog::d::f::{ipv4,ipv6}", "prog::d::g"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in ["prog::d::e", "prog::d::g::{ipv4,ipv6}", "prog::d::h", "prog::x::e::{ipv4,ipv6}"] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
