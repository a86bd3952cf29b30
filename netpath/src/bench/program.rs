//! What one run of each program costs, by the kernel's own count while real packets pass.

use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc};

use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use ipnet::Ipv4Net;

use super::{
    Mode, Path, Plan, Protocol, Unit, Workload,
    load::{Cores, rr},
    measure::Found,
    names::Key,
    order::order,
    run::{Bench, blocking},
    sockets,
};
use crate::{
    api::types::{DenyAdd, Prefix},
    lab::{LabError, error::Doing},
};

/// Runs below which a program's mean time is not told: those of a timer or a neighbour, not of the round trips.
const FEW: u64 = 100;
/// Somebody who sends nothing (RFC 5737, for documentation): as long as anybody is denied, `xdp_uplink` looks at each packet.
const DENIED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
/// Modes whose programs are measured, and whether somebody is denied meanwhile.
pub(super) const MODES: [(&str, bool); 4] =
    [("netpath", false), ("netpath-xdp", true), ("netpath-direct", false), ("netpath-vxlan", false)];

/// TCP round trips on each path with the kernel's clock around every program. The clock itself is in the figure: some
/// tens of nanoseconds, so the other workloads are measured without it.
///
/// # Errors
/// If the agent does not answer, or a histogram cannot be made.
pub(super) async fn measure(bench: &Bench) -> Result<Found, LabError> {
    let mut found = Found::default();
    for (name, denying) in MODES {
        let Some(at) = bench.modes.iter().position(|mode| mode.name() == name) else { continue };
        let denied = DenyAdd { prefixes: vec![Prefix(DENIED.into())] };
        let agents = bench.modes[at].agents();
        let mut names = BTreeMap::new();
        for agent in agents {
            if denying {
                agent.deny_add(&denied).await.doing(|| format!("denying {DENIED}"))?;
            }
            let status = agent.status().await.doing(|| "asking the agent for its programs".into())?;
            names.extend(status.programs.into_iter().map(|one| (one.id, one.name)));
        }
        let measured = rounds(bench, at, names).await;
        for agent in agents.iter().filter(|_| denying) {
            agent.deny_rm(&DENIED.to_string()).await.doing(|| format!("denying {DENIED} no more"))?;
        }
        found.extend(measured?);
    }
    Ok(found)
}

/// Turns of a round.
pub(super) fn turns(bench: &Bench) -> usize {
    let measured = bench.modes.iter().filter(|mode| MODES.iter().any(|(name, _)| *name == mode.name()));
    measured.map(|mode| paths(mode.as_ref(), &bench.options.paths).len()).sum()
}

/// Those that a mode has.
fn paths(mode: &dyn Mode, wanted: &[Path]) -> Vec<Path> {
    wanted.iter().copied().filter(|path| mode.pair(*path).is_ok()).collect()
}

/// The rounds of the mode at a place, all paths in each. A path that fails is given up.
async fn rounds(bench: &Bench, at: usize, names: BTreeMap<u32, String>) -> Result<Found, LabError> {
    let paths = paths(bench.modes[at].as_ref(), &bench.options.paths);
    let (modes, bar) = (Arc::clone(&bench.modes), bench.bar.clone());
    let (plan, cores) = (bench.plan, bench.cores);
    let measured = blocking("measuring", move || -> io::Result<Found> {
        let (mode, mut found) = (modes[at].as_ref(), Found::default());
        for round in 1..=plan.rounds {
            for path in order(at, round, paths.len()).into_iter().map(|turn| paths[turn]) {
                bar.inc(1);
                if found.failures.iter().any(|one| one.path.as_deref() == Some(path.name())) {
                    continue;
                }
                let own = Key::of(Workload::Program, mode.name());
                let key = Key { path: Some(path), protocol: Some(Protocol::Tcp), ..own };
                bar.set_message(key.to_string());
                match turn(mode, path, &names, plan, cores) {
                    Ok(times) => {
                        for (program, time) in times {
                            found.note(&Key { variant: Some(program), ..key.clone() }, Unit::Nanos, time)?;
                        }
                    }
                    Err(error) => found.give_up(&key, round, sockets::explain(&error)),
                }
            }
        }
        Ok(found)
    });
    measured.await?.doing(|| "noting times".into())
}

/// Mean nanoseconds of each program that ran, on whichever node.
fn turn(
    mode: &dyn Mode,
    path: Path,
    names: &BTreeMap<u32, String>,
    plan: Plan,
    cores: Cores,
) -> io::Result<Vec<(String, u64)>> {
    let pair = mode.pair(path).map_err(io::Error::other)?;
    let _counting = enable_stats(Stats::RunTime).map_err(io::Error::other)?;
    let before = read(names);
    let mut round_trips = 0;
    // On a busy machine a slice may have few of them.
    while round_trips < FEW {
        round_trips += rr::tcp(&pair, 1, plan.slice, cores)?.len();
    }
    let after = read(names);
    let mut sums = BTreeMap::new();
    for (id, (time, runs)) in after {
        let Some((time_before, runs_before)) = before.get(&id) else { continue };
        let sum: &mut (u64, u64) = sums.entry(&names[&id]).or_default();
        *sum = (sum.0 + time - time_before, sum.1 + runs - runs_before);
    }
    let often = sums.into_iter().filter(|(_, (_, runs))| *runs >= FEW);
    Ok(often.map(|(name, (time, runs))| (name.clone(), time / runs)).collect())
}

/// Nanoseconds and runs of the programs so far, by id.
fn read(names: &BTreeMap<u32, String>) -> BTreeMap<u32, (u64, u64)> {
    // One that goes while the list is read is none of ours.
    let programs = loaded_programs().flatten().filter(|program| names.contains_key(&program.id()));
    programs.map(|one| (one.id(), (one.run_time().as_nanos() as u64, one.run_count()))).collect()
}
