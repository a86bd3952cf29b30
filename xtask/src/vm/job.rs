//! What the guest does: a shell script and the files it needs.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stderr},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::Tier;
use crate::{
    process::{cargo, output, run},
    setup::nextest,
    test::{PACKAGES, host},
    workspace,
};

/// Where the guest finds the directory it shares with us; see init.sh.
const SHARE: &str = "/.netpath-vm/share";
/// The list of skipped tests, in the shared directory.
pub(super) const SKIPPED: &str = "skipped.txt";
/// nextest's report, in the shared directory.
pub(super) const JUNIT: &str = "junit.xml";

/// Files of the shared directory.
pub(super) struct Job {
    /// Their names and contents.
    pub(super) files: Vec<(&'static str, String)>,
}

/// A command instead of the tests.
///
/// # Errors
/// An argument is not UTF-8.
pub(super) fn command(args: &[OsString]) -> Result<Job> {
    Ok(Job { files: vec![("job", format!("cd {} && exec {}\n", quoted(workspace::root())?, words(args)?))] })
}

/// Builds the tests here, and has nextest run them there. It asks cargo nothing, having its answers from here.
///
/// # Errors
/// The build fails.
pub(super) fn tests(tiers: &[Tier], args: &[OsString]) -> Result<Job> {
    // With the targets and packages of `cargo xtask test`, so that each finds what the other has built.
    run(cargo()
        .args(["build", "--bin", "netpath", "--bin", "netpath-cni", "--lib", "--tests"])
        .args(PACKAGES))?;
    crate::next::build()?;
    let mut list = nextest::command()?;
    list.args(["nextest", "list", "--list-type", "binaries-only", "--message-format", "json"]).args(PACKAGES);
    for tier in tiers {
        list.args(["--test", tier.name()]);
    }
    let binaries = output(&mut list).context("listing the test binaries")?;
    // What is for other platforms only has not been fetched.
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--offline", "--filter-platform"]).arg(host()?);
    let metadata = output(&mut metadata)?;
    let color = if stderr().is_terminal() { "always" } else { "never" };
    let target = workspace::target();
    // The console is a terminal to nextest: a progress bar would draw itself over and over.
    let script = format!(
        "cd {root}\n\
         export HOME=/root NETPATH_BIN={netpath} NETPATH_SKIP_FILE={SHARE}/{SKIPPED}\n\
         {nextest} nextest run --profile vm --color {color} --show-progress none --binaries-metadata {SHARE}/binaries.json \
         --cargo-metadata {SHARE}/cargo.json {args}\n\
         status=$?\n\
         cp {junit} {SHARE}/{JUNIT}\n\
         exit $status\n",
        root = quoted(workspace::root())?,
        netpath = quoted(&target.join("debug/netpath"))?,
        nextest = quoted(&nextest::find().context("looking for cargo-nextest")?)?,
        junit = quoted(&target.join("nextest/vm/junit.xml"))?,
        args = words(args)?,
    );
    let files =
        [("job", script), ("binaries.json", binaries), ("cargo.json", metadata), (SKIPPED, String::new())];
    Ok(Job { files: files.into() })
}

/// Arguments as the shell reads them.
fn words(args: &[OsString]) -> Result<String> {
    let words =
        args.iter().map(|arg| arg.to_str().with_context(|| format!("{} is not UTF-8", arg.display())));
    let words: Vec<_> = words.collect::<Result<_>>()?;
    shlex::try_join(words).context("an argument that no shell takes")
}

fn quoted(path: &Path) -> Result<String> {
    words(&[path.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_the_shell() {
        let args = ["-E".into(), "test(a) & !test('b c')".into()];
        assert_eq!(shlex::split(&words(&args).unwrap()).unwrap(), args.map(|arg| arg.into_string().unwrap()));
    }
}
