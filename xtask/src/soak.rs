//! `cargo xtask soak`: the tests of crashes and crowds in full, for longer than CI has time for.

use anyhow::Result;

use crate::{
    process::{cargo, run},
    setup::{Purpose, setup},
    test::runner,
};

/// Kills of each family's agent.
const KILLS: &str = "100";
/// Pods of each of a hundred clients.
const CROWD: &str = "10";
const TESTS: &str = "binary(netns) and (test(=restart::crash_and_restart_of_the_agent_lose_no_packet::ipv4) \
    or test(=restart::crash_and_restart_of_the_agent_lose_no_packet::ipv6) \
    or test(=crowd::a_hundred_clients_at_once_end_consistent))";

/// Sets up, builds, and kills the agent a hundred times under traffic, for each family; then has a hundred clients add and
/// remove a thousand pods. The tests print what was sent, lost and reset, and their seeds.
///
/// # Errors
/// Something is missing, or a packet, a connection or a pod was lost.
pub(crate) fn soak(seed: Option<u64>) -> Result<()> {
    setup(Purpose::Test)?;
    run(cargo().args(["build", "--package", "netpath", "--bin", "netpath"]))?;
    let mut nextest = runner()?;
    nextest.args(["nextest", "run", "--package", "netpath-tests", "--no-capture", "--profile", "long"]);
    nextest.args(["--filterset", TESTS]).env("NETPATH_KILLS", KILLS).env("NETPATH_CROWD", CROWD);
    if let Some(seed) = seed {
        nextest.env("NETPATH_SEED", seed.to_string());
    }
    run(&mut nextest)
}
