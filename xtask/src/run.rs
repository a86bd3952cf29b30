//! `cargo xtask run`: the main job.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    process::{as_root, cargo, run as run_to_end},
    setup::{Purpose, packages, setup},
    workspace,
};

/// Sets up, builds, and becomes `netpath lab run`.
///
/// # Errors
/// Something is missing, the build fails, or the lab cannot be started.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup(Purpose::Run)?;
    let servers = packages::servers(Some(&servers(args)))?;
    run_to_end(cargo().args(["build", "--release", "--package", "netpath", "--bin", "netpath"]))?;
    let binary = workspace::target().join("release/netpath");
    // By `env`, since sudo may have a PATH of its own.
    let mut path = OsString::from("PATH=");
    let known = env::var_os("PATH").unwrap_or_default();
    // Where Debian has what only root runs.
    let all = servers.into_iter().chain(env::split_paths(&known)).chain(["/usr/sbin".into()]);
    path.push(env::join_paths(all).context("putting a PATH together")?);
    let mut lab = as_root("env")?;
    lab.arg(path).arg(&binary);
    // Where the caller is, not the checkout: arguments may hold paths.
    lab.current_dir(env::current_dir().context("asking for the current directory")?);
    Err(lab.args(["lab", "run"]).args(args).exec()).with_context(|| format!("starting {}", binary.display()))
}

/// The packages of what a lab with these arguments starts.
fn servers(args: &[OsString]) -> Vec<&'static str> {
    let asked = |flag: &str| {
        args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.split('=').next() == Some(flag))
    };
    let all = [("--nodes", "etcd-server"), ("--bgp", "bird2")];
    all.into_iter().filter(|(flag, _)| asked(flag)).map(|(_, package)| package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_of_nodes_needs_etcd_and_one_with_bgp_bird() {
        let of = |line: &str| servers(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(of("--once -o json").is_empty());
        assert_eq!(of("--nodes 3 --once"), ["etcd-server"]);
        assert_eq!(of("--once --nodes=3 --bgp"), ["etcd-server", "bird2"]);
    }
}
