//! `cargo xtask`: everything a checkout needs, one file a subcommand.
//!
//! Standard output belongs to what is run (`cargo xtask run -- --once -o json` prints only JSON); what xtask itself
//! has to say goes to standard error.

mod bench;
mod failures;
mod fuzz;
mod lint;
mod next;
mod package;
mod process;
mod run;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Builds, runs, tests and checks netpath.
#[derive(Parser)]
#[command(name = "cargo xtask", version, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building, running and testing need
    Setup,
    /// Build, then bring up a node with pods, check it with real traffic and measure it
    Run {
        /// Arguments of `netpath lab run`, such as `-- --once -o json`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run all tests
    Test {
        /// Arguments of `cargo nextest run`, such as `-- -E 'test(arp)'`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build what a later version might be, for the tests of upgrades; `test` does it as well
    Next,
    /// Run tests on older kernels, in emulated machines
    Vm(vm::Arguments),
    /// Run the programs on damaged packets: a million of them, from a new seed
    Fuzz {
        /// How many packets
        #[arg(long, default_value_t = 1_000_000)]
        runs: u64,
        /// The seed of an earlier run, to repeat it
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Kill the agent a hundred times under traffic, and let a hundred clients add and remove a thousand pods
    Soak {
        /// The seed of an earlier run, to repeat it
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Have parts of a cluster fail under running flows, and put what was lost into docs/CLUSTER.md
    Failures,
    /// Measure what takes too long, or too quiet a machine, for a test
    #[command(subcommand)]
    Bench(bench::Benchmark),
    /// Build a Debian package of the agent
    Package(package::Arguments),
    /// Check format, clippy, rustdoc and the rules of the code base
    Lint,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::setup(setup::Purpose::Everything).map(|_| ()),
        Command::Run { args } => run::run(&args),
        Command::Test { args } => test::test(&args),
        Command::Next => next::build(),
        Command::Vm(arguments) => vm::vm(&arguments),
        Command::Fuzz { runs, seed } => fuzz::fuzz(runs, seed),
        Command::Soak { seed } => soak::soak(seed),
        Command::Failures => failures::failures(),
        Command::Bench(benchmark) => bench::bench(&benchmark),
        Command::Package(arguments) => package::package(&arguments),
        Command::Lint => lint::lint(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
