//! Builds the eBPF programs into `OUT_DIR/netpath-ebpf`, with the toolchain that `cargo xtask setup` chose.
//!
//! `cargo xtask setup` writes its choice to `target/xtask/toolchain.env`; the environment variables of the same
//! names win over it. The build itself runs in a child process of this script, because aya-build takes
//! `RUSTC_BOOTSTRAP` and the linker from its own environment, where they must not reach the userspace build.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

/// Toolchain for `rustup run`: a name, or the absolute path of a prefix with `bin/rustc`.
const TOOLCHAIN: &str = "NETPATH_EBPF_TOOLCHAIN";
/// `1` if that toolchain is not a nightly, so that it accepts `-Z build-std`.
const BOOTSTRAP: &str = "NETPATH_EBPF_BOOTSTRAP";
/// Path of bpf-linker.
const LINKER: &str = "NETPATH_BPF_LINKER";
/// Set in the child that builds.
const CHILD: &str = "NETPATH_EBPF_BUILD_CHILD";

fn main() -> ExitCode {
    let done = env::var(CHILD).map_or_else(|_| start(), |toolchain| build(&toolchain));
    // Returned, it would bury the compiler's errors above it under a backtrace.
    if let Err(error) = done {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Finds out what to build with, and starts the child.
fn start() -> Result<()> {
    for name in [TOOLCHAIN, BOOTSTRAP, LINKER] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "../Cargo.toml", "../netpath-common/Cargo.toml", "../netpath-common/src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let choice = choice()?;
    let get = |name: &str| choice.get(name).map(String::as_str).unwrap_or_default();
    let toolchain = get(TOOLCHAIN);
    ensure!(
        !toolchain.is_empty() && Path::new(get(LINKER)).is_file(),
        "building the eBPF programs: no toolchain with the standard library's source and bpf-linker is set up \
         here; run `cargo xtask setup`, or set {TOOLCHAIN}, {LINKER} and, for a stable rustc, {BOOTSTRAP}=1"
    );

    let mut child = Command::new(env::current_exe()?);
    child.env(CHILD, toolchain);
    // Progress lines would come back as warnings with every later build.
    child.env("CARGO_TERM_QUIET", "true");
    for target in ["BPFEL", "BPFEB"] {
        child.env(format!("CARGO_TARGET_{target}_UNKNOWN_NONE_LINKER"), get(LINKER));
    }
    match get(BOOTSTRAP) {
        "" => child.env_remove("RUSTC_BOOTSTRAP"),
        value => child.env("RUSTC_BOOTSTRAP", value),
    };
    let status = child.status().context("starting the build of the eBPF programs")?;
    ensure!(
        status.success(),
        "building the eBPF programs with `rustup run {toolchain}` failed (above); \
         if the toolchain has changed since, run `cargo xtask setup`"
    );
    Ok(())
}

/// The child: cargo for the BPF target, its ELF copied into `OUT_DIR`.
fn build(toolchain: &str) -> Result<()> {
    let log = env::var_os("CARGO_FEATURE_DEBUG_LOG").is_some();
    let package = Package {
        name: "netpath-ebpf",
        root_dir: "../netpath-ebpf",
        no_default_features: false,
        features: if log { &["log"] } else { &[] },
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
}

/// What setup wrote, overridden by the environment.
fn choice() -> Result<HashMap<String, String>> {
    let mut choice = HashMap::new();
    if let Some(path) = choice_file()? {
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        choice.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    for name in [TOOLCHAIN, BOOTSTRAP, LINKER] {
        if let Ok(value) = env::var(name) {
            choice.insert(name.to_owned(), value);
        }
    }
    Ok(choice)
}

/// `xtask/toolchain.env` in the target directory: `OUT_DIR` lies somewhere below it.
fn choice_file() -> Result<Option<PathBuf>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    Ok(out.ancestors().map(|dir| dir.join("xtask/toolchain.env")).find(|path| path.is_file()))
}
