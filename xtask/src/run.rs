//! `cargo xtask run`: the main job.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    process::{as_root, cargo, run as run_to_end},
    setup::{Purpose, setup},
    workspace,
};

/// Sets up, builds, and becomes `netpath lab run`.
///
/// # Errors
/// Something is missing, the build fails, or the lab cannot be started.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup(Purpose::Run)?;
    run_to_end(cargo().args(["build", "--release", "--package", "netpath", "--bin", "netpath"]))?;
    let binary = workspace::target().join("release/netpath");
    let mut lab = as_root(&binary)?;
    // Where the caller is, not the checkout: arguments may hold paths.
    lab.current_dir(std::env::current_dir().context("asking for the current directory")?);
    Err(lab.args(["lab", "run"]).args(args).exec()).with_context(|| format!("starting {}", binary.display()))
}
