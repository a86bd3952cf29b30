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
pub(super) const MODES: [(&str, bool); 2] = [("netpath", false), ("netpath-xdp", true)];

/// TCP round trips on each path with the kernel's clock around every program. The clock itself is in the figure: some
/// tens of nanoseconds, so the other workloads are measured without it.
///
/// # Errors
/// If the agent does not answer, or a histogram cannot be made.
pub(super) async fn measure(bench: &Bench) -> Result<Found, LabError> {
    let agent = bench.site.agent().await?;
    let mut found = Found::default();
    for (name, denying) in MODES {
        let Some(at) = bench.modes.iter().position(|mode| mode.name() == name) else { continue };
        if denying {
            let denied = DenyAdd { prefixes: vec![Prefix(DENIED.into())] };
            agent.deny_add(&denied).await.doing(|| format!("denying {DENIED}"))?;
        }
        let status = agent.status().await.doing(|| "asking the agent for its programs".into())?;
        let names = status.programs.into_iter().map(|one| (one.id, one.name)).collect();
        let measured = rounds(bench, at, names).await;
        if denying {
            agent.deny_rm(&DENIED.to_string()).await.doing(|| format!("denying {DENIED} no more"))?;
        }
        found.extend(measured?);
    }
    Ok(found)
}

/// The rounds of the mode at a place, all paths in each. A path that fails is given up.
async fn rounds(bench: &Bench, at: usize, names: BTreeMap<u32, String>) -> Result<Found, LabError> {
    let (modes, paths, bar) = (Arc::clone(&bench.modes), bench.options.paths.clone(), bench.bar.clone());
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

/// Mean nanoseconds of each program that ran.
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
    let mean = |(id, (time, runs)): (u32, (u64, u64))| {
        let (time_before, runs_before) = before.get(&id)?;
        let runs = runs - runs_before;
        (runs >= FEW).then(|| (names[&id].clone(), (time - time_before) / runs))
    };
    Ok(after.into_iter().filter_map(mean).collect())
}

/// Nanoseconds and runs of the programs so far, by id.
fn read(names: &BTreeMap<u32, String>) -> BTreeMap<u32, (u64, u64)> {
    // One that goes while the list is read is none of ours.
    let programs = loaded_programs().flatten().filter(|program| names.contains_key(&program.id()));
    programs.map(|one| (one.id(), (one.run_time().as_nanos() as u64, one.run_count()))).collect()
}
