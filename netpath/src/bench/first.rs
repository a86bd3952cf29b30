//! The first round trip of a new pod: what has to be asked and answered before its first packet gets through.

use std::{io, sync::Arc};

use indicatif::ProgressBar;

use super::{
    Mode, Path, Protocol, Unit, Workload,
    load::{Cores, rr},
    measure::Found,
    names::Key,
    run::blocking,
    series::{Failure, Series},
    sockets,
};
use crate::lab::{LabError, error::Doing};

/// Each round a new pod of each mode that can have one asks the mode's second pod. One that has no answer is told, and its
/// mode is given up.
///
/// # Errors
/// If a histogram cannot be made.
pub(super) async fn measure(
    modes: &Arc<[Box<dyn Mode>]>,
    rounds: usize,
    cores: Cores,
    progress: &ProgressBar,
) -> Result<Found, LabError> {
    let mut found = Found::default();
    let mut rows = Vec::new();
    for (at, mode) in modes.iter().enumerate() {
        let key = Key {
            workload: Workload::FirstPacket,
            path: Some(Path::PodPod),
            protocol: Some(Protocol::Udp),
            variant: None,
            amount: None,
            mode: mode.name(),
        };
        let series = Series::new(key, Unit::Micros).doing(|| "preparing to measure".into())?;
        rows.push((at, Some(series)));
    }
    for round in 1..=rounds {
        for (at, series) in &mut rows {
            let Some(own) = series else { continue };
            let Some(newcomer) = modes[*at].newcomer(round as u8) else {
                *series = None;
                continue;
            };
            progress.set_message(own.key.to_string());
            let (modes, at) = (Arc::clone(modes), *at);
            let asked = match newcomer.await {
                Ok(pod) => blocking("measuring", move || {
                    let pair = modes[at].pair(Path::PodPod).map_err(io::Error::other)?;
                    rr::first(&pod, &pair, cores)
                })
                .await?
                .map_err(|error| sockets::explain(&error)),
                Err(error) => Err(error.to_string()),
            };
            let added =
                asked.and_then(|took| own.add_one(took.as_nanos() as u64).map_err(|error| error.to_string()));
            if let Err(reason) = added {
                found.failures.push(Failure::new(&own.key, round, reason));
                *series = None;
            }
            progress.inc(1);
        }
    }
    found.series.extend(rows.into_iter().filter_map(|(_, series)| series));
    Ok(found)
}
