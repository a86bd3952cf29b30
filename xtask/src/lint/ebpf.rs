//! The eBPF programs: clippy for the BPF target, where their toolchain has one.

use std::process::Command;

use anyhow::Result;

use crate::{
    process::{output, run, rustup_run, say},
    setup::Choice,
    workspace,
};

const TARGET: &str = "bpfel-unknown-none";

/// Lints the programs, with every warning an error.
///
/// # Errors
/// A warning.
pub(crate) fn check(choice: &Choice) -> Result<()> {
    if output(rustup_run(&choice.toolchain, "clippy-driver").arg("--version")).is_ok() {
        return run(cargo(choice, "clippy").args(["--", "-D", "warnings"]));
    }
    say("the eBPF toolchain has no clippy: its compiler's warnings have to do");
    run(cargo(choice, "rustc").args(["--bin", "netpath-ebpf", "--", "-D", "warnings"]))
}

/// cargo for the BPF target, as aya-build calls it.
fn cargo(choice: &Choice, subcommand: &str) -> Command {
    let mut cargo = rustup_run(&choice.toolchain, "cargo");
    cargo.args([subcommand, "--quiet", "--package", "netpath-ebpf", "--release", "--target", TARGET]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(workspace::target().join("ebpf-lint"));
    let host = std::env::consts::ARCH;
    cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{host}\"\x1f-Clink-arg=--btf"));
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &choice.linker);
    if choice.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    cargo
}
