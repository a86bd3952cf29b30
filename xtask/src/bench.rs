//! `cargo xtask bench`: what is measured with the tests' harness.

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use crate::{
    process::{cargo, run},
    setup::{Purpose, setup},
    test::run_as_root,
    workspace,
};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Benchmark {
    /// One node with many pods: adding and removing one, memory and CPU of the idle agent, a restart
    NodeScale {
        /// Pods at the most
        #[arg(long, default_value_t = 1000)]
        pods: u32,
    },
    /// One real agent beside simulated nodes in a real etcd: time to have ways to all, memory, what a change costs, a restart
    ClusterScale {
        /// Simulated nodes at the most
        #[arg(long, default_value_t = 5000)]
        nodes: u32,
        /// Records of endpoints in the same etcd, of which netpath writes and reads none
        #[arg(long, default_value_t = 0)]
        endpoints: u32,
        /// Leave out that each simulated node renews a lease of its own each 5 s, where the machine cannot do that beside the rest
        #[arg(long)]
        no_renewals: bool,
    },
}

/// Sets up, builds the agent for release, and measures; the table goes to standard output.
///
/// # Errors
/// Something is missing, the build fails, or what is measured does.
pub(crate) fn bench(benchmark: &Benchmark) -> Result<()> {
    let (name, sizes) = match benchmark {
        Benchmark::NodeScale { pods } => ("node_scale", vec![pods.to_string()]),
        Benchmark::ClusterScale { nodes, endpoints, no_renewals } => {
            let sizes = [nodes, endpoints].map(ToString::to_string);
            (
                "cluster_scale",
                sizes.into_iter().chain(no_renewals.then(|| "--no-renewals".to_owned())).collect(),
            )
        }
    };
    setup(Purpose::Test)?;
    run(cargo().args(["build", "--release", "--package", "netpath", "--bin", "netpath"]))?;
    // What measures waits for the agent: it need not be fast itself, and is built already for the tests.
    let mut bench = cargo();
    bench.args(["bench", "--profile", "dev", "--package", "netpath-tests", "--bench", name, "--"]);
    bench.args(sizes).env("NETPATH_BIN", workspace::target().join("release/netpath"));
    run_as_root(&mut bench)?;
    let status = bench.status().context("starting cargo bench")?;
    ensure!(status.success(), "measuring failed: {status}");
    Ok(())
}
