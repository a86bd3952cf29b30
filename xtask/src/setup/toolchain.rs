//! Toolchains that can build for the BPF target.
//!
//! rustup ships no standard library for BPF, so cargo builds `core` itself (`-Z build-std`). That takes the library's
//! source, and a nightly or a stable compiler told to accept unstable options.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::process::{output, run, rustup_run, say};

/// A toolchain with the standard library's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// What `rustup run` takes: a name, or the absolute path of a prefix with `bin/rustc` and `bin/cargo`.
    pub(crate) name: String,
    /// First line of `rustc -vV`.
    pub(crate) version: String,
    /// Whether it accepts unstable options by itself.
    pub(crate) nightly: bool,
    /// Major version of its LLVM; bpf-linker's must match.
    pub(crate) llvm: u32,
    /// The standard library's source.
    pub(crate) library: PathBuf,
}

/// The name that rustup gives the latest nightly.
const NIGHTLY: &str = "nightly";
/// Where a distribution installs its compiler.
pub(crate) const DISTRIBUTION: &str = "/usr";

/// Every usable toolchain that is there, best first.
pub(crate) fn found() -> Vec<Toolchain> {
    [NIGHTLY, DISTRIBUTION].into_iter().filter_map(|name| inspect(name).ok()).collect()
}

/// Adds the library's source to an installed nightly. `None` if there is no nightly or rustup cannot reach its server.
pub(crate) fn add_source_to_nightly() -> Option<Toolchain> {
    output(rustup_run(NIGHTLY, "rustc").arg("-vV")).ok()?;
    say(
        "adding the standard library's source to rustup's nightly: cargo builds `core` for the BPF target from it",
    );
    let mut rustup = crate::process::command("rustup");
    match run(rustup.args(["component", "add", "rust-src", "--toolchain", NIGHTLY])) {
        Ok(()) => inspect(NIGHTLY).ok(),
        Err(error) => {
            say(format!("that did not work, looking further: {error:#}"));
            None
        }
    }
}

/// Looks at one toolchain.
///
/// # Errors
/// It is not there, too old, or has no library source.
pub(crate) fn inspect(name: &str) -> Result<Toolchain> {
    let rustc = |argument: &[&str]| output(rustup_run(name, "rustc").args(argument));
    let version = Version::parse(&rustc(&["-vV"])?)?;
    let wanted = release(env!("CARGO_PKG_RUST_VERSION"));
    ensure!(version.release >= wanted, "{} is older than {}", version.line, env!("CARGO_PKG_RUST_VERSION"));
    let library = Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library");
    ensure!(library.join("core/Cargo.toml").is_file(), "{name} has no {}", library.display());
    Ok(Toolchain {
        name: name.to_owned(),
        nightly: version.nightly,
        llvm: version.llvm,
        version: version.line,
        library,
    })
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    line: String,
    release: (u32, u32),
    nightly: bool,
    llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("rustc -vV says no {name:?}"))
        };
        let version = field("release:")?;
        let llvm = field("LLVM version:")?.split('.').next().unwrap_or_default();
        Ok(Self {
            line: text.lines().next().unwrap_or_default().to_owned(),
            release: release(version),
            nightly: version.contains("nightly") || version.contains("dev"),
            llvm: llvm.parse().with_context(|| format!("reading LLVM version {llvm:?}"))?,
        })
    }
}

/// Major and minor number of `1.95` or `1.97.0-nightly`.
fn release(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rustc_says() {
        let nightly = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4";
        assert_eq!(
            Version::parse(nightly).unwrap(),
            Version {
                line: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)".into(),
                release: (1, 97),
                nightly: true,
                llvm: 22
            }
        );
        let stable =
            Version::parse("rustc 1.96.0 (built from a tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8")
                .unwrap();
        assert!(!stable.nightly && stable.release > release("1.95"));
        assert!(Version::parse("rustc 1.96.0").is_err());
    }
}
