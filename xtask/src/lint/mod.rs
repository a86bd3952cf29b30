//! `cargo xtask lint`: format, clippy, rustdoc, and the rules that this code base holds itself to.

mod ebpf;
mod imports;
mod markers;
mod paths;
mod scenarios;
mod sizes;
mod source;
mod unsafety;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::{cargo, run, say},
    setup::{Purpose, setup},
    workspace,
};

/// Runs every check, also after one has failed.
///
/// # Errors
/// Names the checks that failed; what they found stands above.
pub(crate) fn lint() -> Result<()> {
    let choice = setup(Purpose::Lint)?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, check: &dyn Fn() -> Result<()>| {
        say(format!("lint: {name}"));
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    step("rules", &|| rules());
    step("format", &|| run(cargo().args(["fmt", "--all", "--check"])));
    step("clippy", &|| {
        let targets = ["--workspace", "--exclude", "netpath-ebpf", "--all-targets"];
        run(cargo().args(["clippy", "--quiet"]).args(targets).args(["--", "-D", "warnings"]))
    });
    step("clippy of the eBPF programs", &|| ebpf::check(&choice));
    step("rustdoc", &|| {
        let packages = ["--workspace", "--exclude", "netpath-ebpf", "--no-deps", "--document-private-items"];
        run(cargo().args(["doc", "--quiet"]).args(packages).env("RUSTDOCFLAGS", "-D warnings"))
    });
    ensure!(failed.is_empty(), "lint failed: {}", failed.join(", "));
    Ok(())
}

/// The rules that no other tool knows.
fn rules() -> Result<()> {
    let mut findings = Vec::new();
    let files = source::files(workspace::root(), &["rs", "toml"])?;
    ensure!(!files.is_empty(), "found no file to check");
    for (path, text) in files {
        findings.extend(markers::check(&path, &text));
        if path.ends_with(".rs") {
            let source = source::Source::parse(path, text).context("reading Rust")?;
            let checks = [imports::check, unsafety::check, sizes::check];
            findings.extend(checks.into_iter().flat_map(|check| check(&source)));
        }
    }
    findings.extend(scenarios::check(workspace::root())?);
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} places break a rule of the code base (CONTRIBUTING.md, \"Style\")", findings.len());
    }
    Ok(())
}
