//! Turns: modes next to each other, round after round.

use std::io;

use indicatif::ProgressBar;

use super::{
    Mode, Pair, Plan,
    load::Cores,
    names::{Key, Path, Workload},
    series::{Failure, Figure, Series, figures},
    sockets,
    task::{LATENCY, Task},
};
use crate::lab::LabError;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) series: Vec<Series>,
    pub(super) failures: Vec<Failure>,
}

/// The figures of what was found.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// In order of workload, path, protocol, mode.
    pub figures: Vec<Figure>,
    /// Cases given up.
    pub failures: Vec<Failure>,
}

impl Found {
    pub(super) fn extend(&mut self, other: Self) {
        self.series.extend(other.series);
        self.failures.extend(other.failures);
    }

    /// Takes what a workload of netpath's own has found; its failure does not cost the other workloads' figures.
    pub(super) fn take(&mut self, workload: Workload, found: Result<Self, LabError>) {
        match found {
            Ok(found) => self.extend(found),
            Err(error) => {
                let key = Key {
                    workload,
                    path: None,
                    protocol: None,
                    variant: None,
                    amount: None,
                    mode: "netpath",
                };
                self.failures.push(Failure::new(&key, 1, error.to_string()));
            }
        }
    }
}

/// One mode in a group of cases that differ in nothing else.
pub(super) struct Case<'a> {
    task: Task,
    pair: Pair<'a>,
    series: Series,
    failure: Option<Failure>,
}

impl<'a> Case<'a> {
    /// A case with a name of its own.
    ///
    /// # Errors
    /// If its histogram cannot be made.
    pub(super) fn new(task: Task, pair: Pair<'a>, key: Key) -> io::Result<Self> {
        Ok(Self { task, pair, series: Series::new(key, task.unit())?, failure: None })
    }

    fn turn(&mut self, round: usize, plan: &Plan, cores: Cores) {
        if self.failure.is_some() {
            return;
        }
        let turn = self.task.turn(&self.pair, plan.slice, cores);
        if let Err(error) = turn.and_then(|turn| self.series.add(&turn)) {
            self.failure = Some(Failure::new(&self.series.key, round, sockets::explain(&error)));
        }
    }
}

/// Cases of every path and task, in groups that differ in the mode only.
///
/// # Errors
/// If a histogram cannot be made.
pub(super) fn groups<'a>(
    modes: &[&'a dyn Mode],
    paths: &[Path],
    tasks: &[Task],
) -> io::Result<Vec<Vec<Case<'a>>>> {
    let mut groups = Vec::new();
    for &path in paths {
        for &task in tasks.iter().filter(|task| task.suits(path)) {
            let pairs = modes.iter().filter_map(|mode| Some((mode.name(), mode.pair(path).ok()?)));
            let case = |(mode, pair)| Case::new(task, pair, key(mode, path, task));
            groups.push(pairs.map(case).collect::<io::Result<Vec<_>>>()?);
        }
    }
    Ok(groups)
}

/// What the figure of a task is called.
pub(super) fn key(mode: &'static str, path: Path, task: Task) -> Key {
    let (variant, amount) = task.variation().unzip();
    Key {
        workload: task.workload(),
        path: Some(path),
        protocol: Some(task.protocol()),
        variant: variant.map(str::to_owned),
        amount,
        mode,
    }
}

/// Gives every case a turn in each round, moving `progress` by one a turn. Blocks for about rounds × cases × (slice +
/// warm-up). Within a group who begins changes from round to round, so that no mode always follows the same one. A case
/// that fails is given up; the others go on.
pub(super) fn interleave(
    mut groups: Vec<Vec<Case<'_>>>,
    plan: &Plan,
    cores: Cores,
    progress: &ProgressBar,
) -> Found {
    for round in 1..=plan.rounds {
        for group in &mut groups {
            let count = group.len();
            for at in 0..count {
                let case = &mut group[(at + round) % count];
                progress.set_message(case.series.key.to_string());
                case.turn(round, plan, cores);
                progress.inc(1);
            }
        }
    }
    let mut found = Found::default();
    for case in groups.into_iter().flatten() {
        match case.failure {
            None => found.series.push(case.series),
            Some(failure) => found.failures.push(failure),
        }
    }
    found
}

/// Round trips of the smallest messages, on some paths of every mode.
///
/// # Errors
/// If this process may not run on any core, or a histogram cannot be made.
pub fn latency(
    modes: &[&dyn Mode],
    paths: &[Path],
    plan: &Plan,
    progress: &ProgressBar,
) -> io::Result<Measured> {
    let groups = groups(modes, paths, LATENCY)?;
    progress.set_length((groups.iter().map(Vec::len).sum::<usize>() * plan.rounds) as u64);
    let found = interleave(groups, plan, Cores::choose()?, progress);
    let names: Vec<_> = modes.iter().map(|mode| mode.name()).collect();
    Ok(Measured { figures: figures(found.series, &names), failures: found.failures })
}
