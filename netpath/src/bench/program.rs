//! What one run of each program costs, by the kernel's own count while real packets pass.

use std::{collections::BTreeMap, io, sync::Arc};

use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use indicatif::ProgressBar;

use super::{
    Mode, Path, Plan, Protocol, Site, Unit, Workload,
    load::{Cores, rr},
    measure::Found,
    names::Key,
    run::blocking,
    series::{Failure, Series},
    sockets,
};
use crate::lab::{LabError, error::Doing};

/// Runs below which a program's mean time is not told: those of a timer or a neighbour, not of the round trips.
const FEW: u64 = 100;

/// TCP round trips on each path with the kernel's clock around every program. The clock itself is in the figure: some
/// tens of nanoseconds, so the other workloads are measured without it.
///
/// # Errors
/// If the agent does not answer, or a histogram cannot be made.
pub(super) async fn measure(
    site: &Site,
    modes: &Arc<[Box<dyn Mode>]>,
    paths: &[Path],
    plan: Plan,
    cores: Cores,
    progress: &ProgressBar,
) -> Result<Found, LabError> {
    let Some(at) = modes.iter().position(|mode| mode.name() == "netpath") else {
        return Ok(Found::default());
    };
    let status = site.agent().await?.status().await.doing(|| "asking the agent for its programs".into())?;
    let names: BTreeMap<u32, String> = status.programs.into_iter().map(|one| (one.id, one.name)).collect();
    let mut found = Found::default();
    for &path in paths {
        let (modes, names, progress) = (Arc::clone(modes), names.clone(), progress.clone());
        let measured = blocking("measuring", move || -> io::Result<_> {
            let mut series: BTreeMap<String, Series> = BTreeMap::new();
            for _ in 0..plan.rounds {
                progress.set_message(format!("netpath program {path}"));
                for (name, time) in turn(modes[at].as_ref(), path, &names, plan, cores)? {
                    let own = match series.entry(name) {
                        std::collections::btree_map::Entry::Occupied(own) => own.into_mut(),
                        std::collections::btree_map::Entry::Vacant(place) => {
                            let key = key(path, Some(place.key().clone()));
                            place.insert(Series::new(key, Unit::Nanos)?)
                        }
                    };
                    own.add_one(time)?;
                }
                progress.inc(1);
            }
            Ok(series.into_values().collect::<Vec<_>>())
        });
        match measured.await? {
            Ok(series) => found.series.extend(series),
            Err(error) => {
                found.failures.push(Failure::new(&key(path, None), 1, sockets::explain(&error)));
            }
        }
    }
    Ok(found)
}

fn key(path: Path, program: Option<String>) -> Key {
    Key {
        workload: Workload::Program,
        path: Some(path),
        protocol: Some(Protocol::Tcp),
        variant: program,
        amount: None,
        mode: "netpath",
    }
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
    rr::tcp(&pair, 1, plan.slice, cores)?;
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
