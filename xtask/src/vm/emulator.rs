//! QEMU: the machine's own if it has one, else an unpacked one. To install it may not be possible beside parts of another release.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process::command, setup::unpack, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Where Debian 12 has libraries, below the root; QEMU's modules are below the first.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// A command that starts QEMU as this process's child, which the kernel ends should this one die without a chance to.
///
/// # Errors
/// There is none, and apt has none either.
pub(super) fn emulator() -> Result<Command> {
    let mut emulator = command("setpriv");
    emulator.args(["--pdeathsig", "KILL", "--"]);
    if which::which(PROGRAM).is_ok() {
        emulator.arg(PROGRAM);
        return Ok(emulator);
    }
    let root = workspace::state().join("qemu");
    let program = root.join("usr/bin").join(PROGRAM);
    if !program.is_file() {
        unpack(&root)?;
    }
    let libraries = LIBRARIES.map(|dir| root.join(dir));
    emulator.env("LD_LIBRARY_PATH", search_path(&libraries)?);
    emulator.env("QEMU_MODULE_DIR", libraries[0].join("qemu"));
    emulator.arg(program);
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        emulator.arg("-L").arg(root.join(firmware));
    }
    Ok(emulator)
}

/// Whole or not at all.
fn unpack(root: &Path) -> Result<()> {
    let part = root.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    unpack::unpack_all(PACKAGE, &part)?;
    fs::rename(&part, root).with_context(|| format!("moving {} to {}", part.display(), root.display()))
}

/// Directories of libraries before those of the environment.
fn search_path(libraries: &[PathBuf]) -> Result<OsString> {
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    // An empty one would be the directory that one is in.
    let others = env::split_paths(&others).filter(|dir| !dir.as_os_str().is_empty());
    let all = libraries.iter().cloned().chain(others);
    env::join_paths(all).context("naming QEMU's libraries")
}
