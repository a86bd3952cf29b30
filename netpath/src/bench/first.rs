//! The first round trip of a new pod: what has to be asked and answered before its first packet gets through.

use std::{io, time::Duration};

use super::{
    Path, Protocol, Unit, Workload,
    load::rr,
    measure::Found,
    names::Key,
    order::order,
    run::{Bench, blocking},
    sockets,
};
use crate::lab::{LabError, error::Doing};

/// Number of the pod that asks again where a packet was lost; those of rounds begin with 1.
const SPARE: u8 = 0;

/// A mode that can make pods.
struct Maker {
    /// Its place among the modes.
    at: usize,
    key: Key,
    repeats: usize,
    failed: bool,
}

/// Each round a new pod of each mode that can have one asks the mode's second pod. A mode may lose one packet, which is told;
/// with the next its figures are given up.
///
/// # Errors
/// If a histogram cannot be made.
pub(super) async fn measure(bench: &Bench) -> Result<Found, LabError> {
    let mut found = Found::default();
    let able = bench.modes.iter().enumerate().filter(|(_, mode)| mode.newcomer(SPARE).is_some());
    let mut makers: Vec<_> = able
        .map(|(at, mode)| {
            let own = Key::of(Workload::FirstPacket, mode.name());
            let key = Key { path: Some(Path::PodPod), protocol: Some(Protocol::Udp), ..own };
            Maker { at, key, repeats: 0, failed: false }
        })
        .collect();
    for round in 1..=bench.plan.rounds {
        for turn in order(0, round, makers.len()) {
            let maker = &mut makers[turn];
            bench.bar.inc(1);
            if maker.failed {
                continue;
            }
            bench.bar.set_message(maker.key.to_string());
            match maker.turn(bench, round as u8).await {
                Ok(took) => found
                    .note(&maker.key, Unit::Micros, took.as_nanos() as u64)
                    .doing(|| "noting a time".into())?,
                Err(reason) => {
                    maker.failed = true;
                    found.give_up(&maker.key, round, reason);
                }
            }
        }
    }
    for series in &mut found.series {
        series.repeats = makers.iter().find(|maker| maker.key == series.key).map_or(0, |maker| maker.repeats);
    }
    Ok(found)
}

impl Maker {
    async fn turn(&mut self, bench: &Bench, number: u8) -> Result<Duration, String> {
        let mut asked = self.ask(bench, number).await;
        if matches!(&asked, Ok(Err(error)) if sockets::is_timeout(error)) && self.repeats == 0 {
            self.repeats = 1;
            asked = self.ask(bench, SPARE).await;
        }
        asked.map_err(|error| error.to_string())?.map_err(|error| sockets::explain(&error))
    }

    /// A pod is made and asks; the inner error is that of asking.
    async fn ask(&self, bench: &Bench, number: u8) -> Result<io::Result<Duration>, LabError> {
        let mode = &bench.modes[self.at];
        let newcomer = mode.newcomer(number).ok_or("it makes no pods").doing(|| "making a pod".into())?;
        let (pod, modes, at, cores) = (newcomer.await?, bench.modes.clone(), self.at, bench.cores);
        blocking("measuring", move || {
            let pair = modes[at].pair(Path::PodPod).map_err(io::Error::other)?;
            rr::first(&pod, &pair, cores)
        })
        .await
    }
}
