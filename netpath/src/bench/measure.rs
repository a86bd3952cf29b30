//! Turns: modes next to each other, round after round.

use std::io;

use indicatif::ProgressBar;

use super::{
    Mode, Pair, Plan,
    figure::{Failure, Figure},
    load::Cores,
    names::{Key, Path, Unit, Workload},
    order::order,
    series::{Series, figures},
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

    /// Adds a turn of one sample to the series of this name, which begins with its first.
    ///
    /// # Errors
    /// If a histogram cannot be made, or cannot grow.
    pub(super) fn note(&mut self, key: &Key, unit: Unit, value: u64) -> io::Result<()> {
        if let Some(series) = self.series.iter_mut().find(|series| series.key == *key) {
            return series.add_one(value);
        }
        let mut series = Series::new(key.clone(), unit)?;
        series.add_one(value)?;
        self.series.push(series);
        Ok(())
    }

    /// Gives up all that this mode has of a workload on a path: figures without some of their turns would be compared with
    /// others' of other rounds.
    pub(super) fn give_up(&mut self, key: &Key, round: usize, reason: impl Into<String>) {
        let is_its = |one: &Key| (one.mode, one.workload, one.path) == (key.mode, key.workload, key.path);
        self.series.retain(|series| !is_its(&series.key));
        self.failures.push(Failure::new(key, round, reason));
    }

    /// Takes what a workload of netpath's own has found; its failure does not cost the other workloads' figures.
    pub(super) fn take(&mut self, workload: Workload, found: Result<Self, LabError>) {
        match found {
            Ok(found) => self.extend(found),
            Err(error) => {
                let key = Key::of(workload, "netpath");
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
        let turn = patiently(&mut self.series.repeats, || self.task.turn(&self.pair, plan.slice, cores));
        if let Err(error) = turn.and_then(|turn| self.series.add(&turn)) {
            self.failure = Some(Failure::new(&self.series.key, round, sockets::explain(&error)));
        }
    }
}

/// Does something that may lose a datagram, such as to the backlog of a busy core, and does it once more if nobody answered.
///
/// # Errors
/// What went wrong, the second time if it is that nobody answered.
pub(super) fn patiently<T>(repeats: &mut usize, mut turn: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match turn() {
        Err(error) if sockets::is_timeout(&error) => {
            *repeats += 1;
            turn()
        }
        outcome => outcome,
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
            let pairs = modes.iter().filter_map(|mode| Some((mode.name(), task.pair(*mode, path)?)));
            let case = |(mode, pair)| Case::new(task, pair, key(mode, path, task));
            groups.push(pairs.map(case).collect::<io::Result<Vec<_>>>()?);
        }
    }
    Ok(groups)
}

/// What the figure of a task is called.
pub(super) fn key(mode: &'static str, path: Path, task: Task) -> Key {
    let (variant, amount) = task.variation().unzip();
    let own = Key::of(task.workload(), mode);
    let (path, protocol) = (Some(path), Some(task.protocol()));
    Key { path, protocol, variant: variant.map(str::to_owned), amount, ..own }
}

/// Gives every case a turn in each round, moving `progress` by one a turn. Blocks for about rounds × cases × (slice +
/// warm-up). Who comes after whom within a group is shuffled from round to round. A case that fails is given up; the others
/// go on.
pub(super) fn interleave(
    mut groups: Vec<Vec<Case<'_>>>,
    plan: &Plan,
    cores: Cores,
    progress: &ProgressBar,
) -> Found {
    for round in 1..=plan.rounds {
        for (number, group) in groups.iter_mut().enumerate() {
            for at in order(number, round, group.len()) {
                let case = &mut group[at];
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

/// Round trips of the smallest messages between pairs of namespaces, each with the name of its mode, in one interleaved run.
/// A figure has no path; its amount is its pair's place in the list.
///
/// # Errors
/// If this process may not run on any core, or a histogram cannot be made.
pub fn latency_between(
    pairs: &[(&'static str, Pair<'_>)],
    plan: &Plan,
    progress: &ProgressBar,
) -> io::Result<Measured> {
    let group = |task: &Task| {
        let cases = (0..).zip(pairs).map(|(place, (mode, pair))| {
            let (protocol, amount) = (Some(task.protocol()), Some(place));
            Case::new(*task, *pair, Key { protocol, amount, ..Key::of(task.workload(), mode) })
        });
        cases.collect::<io::Result<Vec<_>>>()
    };
    let groups = LATENCY.iter().map(group).collect::<io::Result<Vec<_>>>()?;
    progress.set_length((LATENCY.len() * pairs.len() * plan.rounds) as u64);
    let found = interleave(groups, plan, Cores::choose()?, progress);
    Ok(Measured { figures: figures(found.series, &[]), failures: found.failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loss_costs_a_turn_and_two_cost_the_case() {
        let mut repeats = 0;
        let mut losses = 1;
        let mut turn = || {
            losses -= 1;
            if losses >= 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(7) }
        };
        assert_eq!(patiently(&mut repeats, &mut turn).unwrap(), 7);
        assert_eq!(patiently(&mut repeats, turn).unwrap(), 7);
        assert_eq!(repeats, 1);
        let lost: io::Result<()> = patiently(&mut repeats, || Err(io::ErrorKind::TimedOut.into()));
        assert!(lost.is_err() && repeats == 2);
        // What a second time would not mend is told at once.
        let refused: io::Result<()> =
            patiently(&mut repeats, || Err(io::ErrorKind::ConnectionRefused.into()));
        assert!(refused.is_err() && repeats == 2);
    }

    #[test]
    fn who_is_given_up_keeps_no_figures_of_that_workload() {
        let mut found = Found::default();
        let key =
            |mode, variant: &str| Key { variant: Some(variant.into()), ..Key::of(Workload::Attach, mode) };
        for (mode, variant) in
            [("bridge", "add"), ("bridge", "remove"), ("netpath", "add"), ("bridge", "add")]
        {
            found.note(&key(mode, variant), Unit::Millis, 1).unwrap();
        }
        assert_eq!(found.series.len(), 3);
        found.give_up(&key("bridge", "add"), 2, "no plugin");
        assert_eq!(found.series.iter().map(|one| one.key.mode).collect::<Vec<_>>(), ["netpath"]);
        assert_eq!((found.failures.len(), found.failures[0].round), (1, 2));
    }
}
