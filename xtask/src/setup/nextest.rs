//! cargo-nextest runs the tests: a process each, so that namespaces of one do not meet another's.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process::{cargo, run, say},
    workspace,
};

/// What is installed if there is none; an older one on `PATH` is told so by .config/nextest.toml.
const VERSION: &str = "0.9.143";

/// Finds it on `PATH` or in `target/tools`, or builds it there.
///
/// # Errors
/// The registry cannot be reached, or the build fails.
pub(super) fn ensure() -> Result<()> {
    if find().is_some() {
        return Ok(());
    }
    say(format!("building cargo-nextest {VERSION} into target/tools, once, some minutes: it runs the tests"));
    let mut install = cargo();
    install.args([
        "install",
        "--quiet",
        "--locked",
        "--no-default-features",
        "--features",
        "default-no-update",
    ]);
    install.arg(format!("cargo-nextest@{VERSION}")).arg("--root").arg(workspace::tools());
    run(&mut install)
}

/// Where it is: on `PATH`, or in `target/tools`.
pub(crate) fn find() -> Option<PathBuf> {
    let own = workspace::tools().join("bin/cargo-nextest");
    which::which("cargo-nextest").ok().or_else(|| own.is_file().then_some(own))
}

/// cargo, finding nextest wherever it is.
///
/// # Errors
/// A directory has a name that `PATH` cannot hold.
pub(crate) fn command() -> Result<Command> {
    let mut cargo = cargo();
    let tools = workspace::tools().join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path =
        env::join_paths(env::split_paths(&path).chain([tools])).context("adding target/tools/bin to PATH")?;
    cargo.env("PATH", path);
    Ok(cargo)
}
