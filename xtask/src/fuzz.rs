//! `cargo xtask fuzz`: `tests/prog/fuzz` for longer than CI has time for.

use anyhow::Result;

use crate::{
    process::{cargo, run},
    setup::{Purpose, setup},
    test::runner,
};

/// Sets up, builds, and runs the programs on that many damaged packets; the test prints its seed.
///
/// # Errors
/// Something is missing, or a packet has shown a mistake: the message holds the packets.
pub(crate) fn fuzz(runs: u64, seed: Option<u64>) -> Result<()> {
    setup(Purpose::Test)?;
    run(cargo().args(["build", "--package", "netpath-tests", "--test", "prog"]))?;
    let mut nextest = runner()?;
    nextest.args(["nextest", "run", "--package", "netpath-tests", "--no-capture"]);
    // The default profile ends what takes minutes.
    nextest.args(["--profile", "long", "--filterset", "binary(prog) and test(=fuzz::fuzz_from_a_new_seed)"]);
    nextest.env("NETPATH_FUZZ_RUNS", runs.to_string());
    if let Some(seed) = seed {
        nextest.env("NETPATH_FUZZ_SEED", seed.to_string());
    }
    run(&mut nextest)
}
