//! `cargo xtask test`: all tests.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, root_prefix, run, say},
    setup::{Purpose, nextest, setup},
    workspace,
};

/// Tests that may be skipped where CI runs; every other skip fails there.
const EXPECTED: &str = "tests/expected-skips.txt";

/// Sets up, builds, runs unit, program, namespace, end-to-end and documentation tests, and says what was skipped.
///
/// # Errors
/// Something is missing, a test fails, or CI skipped a test that is not in tests/expected-skips.txt.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    setup(Purpose::Test)?;
    let skips = workspace::state().join("skipped.txt");
    fs::write(&skips, "").with_context(|| format!("emptying {}", skips.display()))?;
    // All targets at once: the features of shared dependencies, hence their artifacts, are then those nextest wants.
    run(cargo()
        .args(["build", "--bin", "netpath", "--bin", "netpath-cni", "--lib", "--tests"])
        .args(PACKAGES))?;
    crate::next::build()?;

    let ci = env::var_os("CI").is_some_and(|value| value == "true");
    let mut nextest = runner()?;
    nextest.args(["nextest", "run"]).args(PACKAGES);
    if ci {
        nextest.args(["--profile", "ci"]);
    }
    if env::var_os("NEXTEST_TEST_THREADS").is_none() {
        nextest.env("NEXTEST_TEST_THREADS", at_once().to_string());
    }
    let tests = run(nextest.args(args).env("NETPATH_SKIP_FILE", &skips));
    // A selection of tests asks for these only.
    let docs = if args.is_empty() { docs() } else { Ok(()) };

    let text = fs::read_to_string(&skips).with_context(|| format!("reading {}", skips.display()))?;
    let skipped = parse(&text);
    report(&skipped);
    tests.and(docs)?;
    if ci {
        check(&skipped)?;
    }
    Ok(())
}

/// How many tests run at once: three for two processors. Most wait for the kernel or a lease more than they compute; at two for
/// one they start to disturb each other's clocks.
fn at_once() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    processors + processors / 2
}

/// The programs build for another target.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "netpath-ebpf"];

/// cargo with what the tests expect in the environment, its test binaries running as root.
pub(crate) fn runner() -> Result<Command> {
    let mut cargo = nextest::command()?;
    cargo.env("NETPATH_BIN", workspace::target().join("debug/netpath"));
    run_as_root(&mut cargo)?;
    Ok(cargo)
}

/// Has a cargo command run what it has built as root.
pub(crate) fn run_as_root(cargo: &mut Command) -> Result<()> {
    let prefix = root_prefix()?;
    if !prefix.is_empty() {
        // As cargo spells it in variables.
        let host = host()?.to_uppercase().replace(['-', '.'], "_");
        cargo.env(format!("CARGO_TARGET_{host}_RUNNER"), prefix.join(OsStr::new(" ")));
    }
    Ok(())
}

/// The host's triple.
pub(crate) fn host() -> Result<String> {
    let text = crate::process::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV says no host")?.to_owned())
}

/// nextest runs none of these.
fn docs() -> Result<()> {
    run(cargo().args(["test", "--quiet", "--doc", "--package", "netpath-common", "--package", "netpath"]))
}

/// Skipped tests by name, each with its reason: `name: reason` a line.
pub(crate) fn parse(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap_or((line, "no reason given"))).collect()
}

fn report(skipped: &BTreeMap<&str, &str>) {
    if skipped.is_empty() {
        return say("no test was skipped");
    }
    say(format!("{} skipped:", skipped.len()));
    for (name, reason) in skipped {
        say(format!("  {name}: {reason}"));
    }
}

/// CI knows what its machine cannot do; anything else that is skipped is a test that proves nothing.
pub(crate) fn check(skipped: &BTreeMap<&str, &str>) -> Result<()> {
    let path = workspace::root().join(Path::new(EXPECTED));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let unexpected = unexpected(skipped, &parse(&text));
    ensure!(unexpected.is_empty(), "skipped, but not in {EXPECTED}: {}", unexpected.join(", "));
    Ok(())
}

fn unexpected<'a>(skipped: &BTreeMap<&'a str, &str>, expected: &BTreeMap<&str, &str>) -> Vec<&'a str> {
    skipped.keys().filter(|name| !expected.contains_key(*name)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_has_to_be_expected() {
        let expected = parse("# comment\n\nvm::old_kernel: no kernel package here\n");
        let skipped = parse("vm::old_kernel: no qemu\nnetns::netkit: kernel has none: really\n");
        assert_eq!(skipped["netns::netkit"], "kernel has none: really");
        assert_eq!(unexpected(&skipped, &expected), ["netns::netkit"]);
        assert!(unexpected(&parse("vm::old_kernel\n"), &expected).is_empty());
    }
}
