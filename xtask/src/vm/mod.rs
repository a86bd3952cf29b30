//! `cargo xtask vm`: tests on other kernels, in QEMU.
//!
//! The guest sees the host's root read-only (9p) under an overlay in memory, so that it runs the test binaries and the
//! tools that are here; nothing is installed in it. It is emulated in software: no KVM is asked for, any machine does.

mod emulator;
mod guest;
mod image;
mod job;
mod kernel;
mod report;

use std::{ffi::OsString, fs, fs::File, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    process::say,
    setup::{Purpose, setup},
    workspace,
};

/// What to run, on which kernels.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Kernels: the newest of this series that apt has
    #[arg(long = "kernel", value_name = "SERIES", default_values = ["6.1", "6.12"])]
    kernels: Vec<String>,
    /// Test tiers
    #[arg(long = "tier", value_name = "TIER", value_enum, default_values_t = [Tier::Prog, Tier::Netns])]
    tiers: Vec<Tier>,
    /// Minutes that a kernel may take before its guest is killed
    #[arg(long, value_name = "MINUTES", default_value_t = 45)]
    timeout: u64,
    /// Run the arguments as a command in the guest instead of the tests, such as `--exec -- ip link`
    #[arg(long, requires = "args")]
    exec: bool,
    /// Arguments of `cargo nextest run`, such as `-- -E 'test(arp)'`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// A tier of `netpath-tests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    Prog,
    Netns,
}

impl Tier {
    /// The name of its test binary.
    const fn name(self) -> &'static str {
        match self {
            Self::Prog => "prog",
            Self::Netns => "netns",
        }
    }
}

/// Sets up, builds here, runs in a guest of each kernel, and says how it went.
///
/// # Errors
/// Something is missing, a test fails, a guest panics or takes too long.
pub(crate) fn vm(arguments: &Arguments) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "testing on other kernels: only x86-64 guests are supported");
    setup(Purpose::Vm)?;
    let dir = workspace::state().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let lock = dir.join("lock");
    let lock = File::create(&lock).with_context(|| format!("opening {}", lock.display()))?;
    if lock.try_lock().is_err() {
        say("waiting for another `cargo xtask vm` of this checkout");
        lock.lock().context("waiting for another `cargo xtask vm`")?;
    }
    let kernels = arguments.kernels.iter().map(|series| kernel::ready(&dir, series));
    let kernels: Vec<_> = kernels.collect::<Result<_>>()?;
    let job = if arguments.exec {
        job::command(&arguments.args)?
    } else {
        job::tests(&arguments.tiers, &arguments.args)?
    };
    let mut results = Vec::new();
    for kernel in &kernels {
        say(format!("starting {} in QEMU; it is emulated, so this is slow", kernel.package));
        let limit = Duration::from_secs(arguments.timeout * 60);
        results.push((kernel, guest::run(kernel, &job, limit)));
    }
    report::summary(&results, !arguments.exec)
}
