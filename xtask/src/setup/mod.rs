//! `cargo xtask setup`: finds or installs what building, running and testing need.
//!
//! What is there is used. What is not is installed, saying what and why: Debian packages through apt, programs built
//! from the crates registry into `target/tools`. The choice is written down ([`choice`]), so that it takes
//! milliseconds the next time.

mod choice;
mod later;
mod linker;
pub(crate) mod nextest;
pub(crate) mod packages;
mod toolchain;
pub(crate) mod unpack;

use anyhow::{Context as _, Error, Result, bail, ensure};

pub(crate) use choice::Choice;
use packages::Package;
use toolchain::Toolchain;

use crate::process::{command, output, run, say};

/// What the set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Only looking at the code.
    Lint,
    /// Building, and the lab.
    Run,
    /// Building, and packing.
    Package,
    /// Building, and the tests.
    Test,
    /// Building, and the tests on other kernels.
    Vm,
    /// All of these but the last.
    Everything,
}

/// Makes everything ready.
///
/// # Errors
/// One list of all that is missing and could not be installed.
pub(crate) fn setup(purpose: Purpose) -> Result<Choice> {
    let mut missing = Missing::default();
    let packages = packages::missing(purpose);
    if !packages.is_empty() {
        missing.note_packages(packages::install(&packages), &packages);
    }
    if matches!(purpose, Purpose::Test | Purpose::Vm | Purpose::Everything) {
        missing.note(nextest::ensure(), "cargo-nextest, which runs the tests");
        missing.note(packages::servers(None), "prometheus and etcd, which tests ask");
        missing.note(
            later::ensure(),
            "libcni, by which tests ask for STATUS and GC, Go that builds it, and etcd 3.5",
        );
    }
    if matches!(purpose, Purpose::Lint | Purpose::Everything) {
        missing.note(components(), "rustfmt and clippy for stable Rust");
    }
    let choice = Choice::recorded().map_or_else(ebpf, Ok);
    let choice = missing.note(choice, "a toolchain that builds eBPF programs, and bpf-linker");
    choice.filter(|_| missing.0.is_empty()).ok_or_else(|| missing.into_error())
}

/// What could not be made ready, a line or more each.
#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    /// Notes a failure, and goes on.
    fn note<T>(&mut self, result: Result<T>, what: &str) -> Option<T> {
        result.inspect_err(|error| self.0.push(format!("{what}: {error:#}"))).ok()
    }

    /// The same for packages, with the reason why each is needed.
    fn note_packages(&mut self, result: Result<()>, packages: &[Package]) {
        if let Err(error) = result {
            let lines =
                packages.iter().map(|package| format!("{}: {} ({error:#})", package.name, package.why));
            self.0.extend(lines);
        }
    }

    fn into_error(self) -> Error {
        let list: String =
            self.0.iter().map(|line| format!("\n  - {}", line.replace('\n', "\n    "))).collect();
        Error::msg(format!("missing, and could not be installed:{list}"))
    }
}

/// Chooses what the eBPF programs are built with: first what is complete, then what only lacks bpf-linker, then the
/// distribution's packages.
fn ebpf() -> Result<Choice> {
    which::which("rustup").context("rustup is not on PATH; get it from https://rustup.rs")?;
    let mut found = toolchain::found();
    let complete = found.iter().find_map(|toolchain| Some((toolchain, linker::find(toolchain)?)));
    if let Some((toolchain, linker)) = complete {
        return Choice::record(toolchain, &linker);
    }
    if found.is_empty() {
        found.extend(toolchain::add_source_to_nightly());
    }
    let mut failures = Vec::new();
    for toolchain in &found {
        match with_linker(toolchain) {
            Ok(choice) => return Ok(choice),
            Err(error) => failures.push(format!("{}: {error:#}", toolchain.version)),
        }
    }
    if found.iter().all(|toolchain| toolchain.name != toolchain::DISTRIBUTION) {
        match distribution().and_then(|toolchain| with_linker(&toolchain)) {
            Ok(choice) => return Ok(choice),
            Err(error) => failures.push(format!("the distribution's rustc: {error:#}")),
        }
    }
    bail!(
        "tried\n{}\none of these would do: Debian's {} and llvm-NN-dev; \
         or `rustup toolchain install nightly --component rust-src` and a bpf-linker {} on PATH",
        failures.join("\n"),
        packages::toolchain().iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(", "),
        linker::VERSION,
    );
}

/// Finds or builds the linker for a toolchain.
fn with_linker(toolchain: &Toolchain) -> Result<Choice> {
    if let Some(linker) = linker::find(toolchain) {
        return Choice::record(toolchain, &linker);
    }
    if linker::llvm_prefix(toolchain.llvm).is_none() {
        let packages = linker::packages(toolchain.llvm);
        install_known(&packages)?;
    }
    Choice::record(toolchain, &linker::install(toolchain)?)
}

/// Installs the distribution's compiler with its source.
fn distribution() -> Result<Toolchain> {
    install_known(&packages::toolchain())?;
    toolchain::inspect(toolchain::DISTRIBUTION)
}

/// Installs packages if apt has them all: this may not be Debian, or not its newest state.
fn install_known(packages: &[Package]) -> Result<()> {
    packages::update().with_context(|| format!("installing {}", names(packages)))?;
    let unknown: Vec<_> =
        packages.iter().filter(|package| !packages::known(&package.name)).cloned().collect();
    ensure!(unknown.is_empty(), "apt has no package {}", names(&unknown));
    packages::install(packages)
}

fn names(packages: &[Package]) -> String {
    packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// rustup's minimal profile leaves them out.
fn components() -> Result<()> {
    let there = |tool: &str| output(command("cargo").args([tool, "--version"])).is_ok();
    if there("fmt") && there("clippy") {
        return Ok(());
    }
    say("adding rustfmt and clippy to rustup's stable toolchain: `cargo xtask lint` runs them");
    run(command("rustup").args(["component", "add", "rustfmt", "clippy"]))
}
