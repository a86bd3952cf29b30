//! cargo-nextest runs the tests: a process each, so that namespaces of one do not meet another's.

use anyhow::Result;

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
    if which::which("cargo-nextest").is_ok() || workspace::tools().join("bin/cargo-nextest").is_file() {
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
