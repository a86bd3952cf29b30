//! Starting other programs.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::stderr,
    os::fd::AsFd as _,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

/// Says what is being done. Never on standard output.
pub(crate) fn say(what: impl AsRef<str>) {
    eprintln!("xtask: {}", what.as_ref());
}

/// A command in the checkout that never asks rustup to install a toolchain by the way.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `rustup run TOOLCHAIN PROGRAM`, without what the cargo that runs us has set for its own children.
pub(crate) fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = command("rustup");
    command.args(["run", toolchain, program]);
    for name in ["CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// A command that runs as root, keeping our environment: directly, or through sudo.
///
/// # Errors
/// Neither root nor sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = root_prefix()?;
    let Some((first, rest)) = prefix.split_first() else { return Ok(command(program)) };
    let mut command = command(first);
    command.args(rest).arg(program);
    Ok(command)
}

/// What to put before a program so that it runs as root; empty if we are.
///
/// # Errors
/// Neither root nor sudo.
pub(crate) fn root_prefix() -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    ensure!(which::which("sudo").is_ok(), "this needs root, and there is no sudo: run it as root");
    // sudo replaces PATH even with -E.
    let mut path = OsString::from("PATH=");
    path.push(env::var_os("PATH").unwrap_or_default());
    Ok(vec!["sudo".into(), "-E".into(), "env".into(), path])
}

/// Runs a command to its end, its output going to our standard error.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let error = stderr().as_fd().try_clone_to_owned().context("duplicating standard error")?;
    let status = command.stdout(error).status().with_context(|| format!("starting {}", shown(command)))?;
    ensure!(status.success(), "{} failed: {status}", shown(command));
    Ok(())
}

/// Standard output of a command, trimmed.
///
/// # Errors
/// It cannot be started, or fails; then with what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}: {}", shown(command), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}
