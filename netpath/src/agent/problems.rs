//! What is wrong now, by object: since when, and when it is tried again.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

/// Pause after the first failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Something wrong with an object.
#[derive(Clone, Debug)]
struct Problem {
    reason: String,
    since: Instant,
    tries: u32,
    /// When it is tried again; absent for what every pass looks at.
    again: Option<Instant>,
}

/// All that is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<String, Problem>);

/// Whether an object is to be seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing is known to be wrong with it.
    Well,
    /// It has failed, and its pause is over.
    Again,
    /// It has failed, and is left alone for now.
    Later,
}

impl Problems {
    /// Takes down what was found wrong with an object, or that nothing was. `backs_off` is whether the object is left
    /// alone for a while then, longer from failure to failure. Returns whether that is news.
    pub(super) fn note(&mut self, object: &str, outcome: Result<(), String>, backs_off: bool) -> bool {
        let Err(reason) = outcome else { return self.0.remove(object).is_some() };
        let now = Instant::now();
        let fresh = || Problem { reason: String::new(), since: now, tries: 0, again: None };
        let problem = self.0.entry(object.to_owned()).or_insert_with(fresh);
        problem.tries = problem.tries.saturating_add(1);
        problem.again = backs_off.then(|| now + pause(problem.tries));
        let news = problem.reason != reason;
        problem.reason = reason;
        news
    }

    /// How many objects something is wrong with.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether an object's turn has come.
    pub(super) fn turn(&self, object: &str) -> Turn {
        match self.0.get(object).map(|problem| problem.again) {
            None => Turn::Well,
            Some(Some(again)) if again > Instant::now() => Turn::Later,
            Some(_) => Turn::Again,
        }
    }

    /// Ends the pause of an object that something has happened to, or of all; the next one is short again.
    pub(super) fn hurry(&mut self, object: Option<&str>) {
        let concerned = |name: &String| object.is_none_or(|object| object == name);
        for (_, problem) in self.0.iter_mut().filter(|(name, _)| concerned(name)) {
            problem.again = problem.again.map(|_| Instant::now());
            problem.tries = 0;
        }
    }

    /// Lets an object wait again that could not be seen to in its turn: somebody else is at it.
    pub(super) fn put_off(&mut self, object: &str) {
        let now = Instant::now();
        if let Some(problem) =
            self.0.get_mut(object).filter(|problem| problem.again.is_some_and(|at| at <= now))
        {
            problem.again = Some(now + pause(problem.tries.max(1)));
        }
    }

    /// Forgets what was wrong with objects that there are no more.
    pub(super) fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        self.0.retain(|object, _| !gone(object));
    }

    /// When the next pause ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|problem| problem.again).min()
    }

    /// All of it, a line each, with since when and what comes next.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(object, problem)| format!("{object}: {}", problem.line())).collect()
    }

    /// What is wrong with each object.
    pub(super) fn reasons(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(object, problem)| (object.clone(), problem.reason.clone())).collect()
    }
}

impl Problem {
    fn line(&self) -> String {
        let now = Instant::now();
        let seconds = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
        let since = seconds(now - self.since);
        match self.again {
            None => format!("{} (for {since})", self.reason),
            Some(again) => format!(
                "{} (for {since}; failed {} in a row, next try in {})",
                self.reason,
                if self.tries == 1 { "once".to_owned() } else { format!("{} times", self.tries) },
                seconds(again.saturating_duration_since(now)),
            ),
        }
    }
}

/// Twice as long from try to try, and up to a quarter shorter: what failed together need not be tried together.
fn pause(tries: u32) -> Duration {
    let whole = PAUSE.0.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(PAUSE.1);
    let part = RandomState::new().hash_one(tries) % 256;
    whole - whole / 4 * part as u32 / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(problems: &mut Problems, reason: &str) -> bool {
        problems.note("pod a", Err(reason.to_owned()), true)
    }

    #[test]
    fn what_could_not_be_seen_to_waits_and_what_is_gone_is_forgotten() {
        let mut problems = Problems::default();
        problems.put_off("pod a");
        assert_eq!(problems.next(), None, "nothing is wrong with it");
        failed(&mut problems, "no link");
        problems.hurry(None);
        problems.put_off("pod a");
        assert!(problems.next().is_some_and(|next| next > Instant::now()), "or the loop would not rest");
        problems.forget(|object| object.starts_with("uplink "));
        assert_eq!(problems.count(), 1);
        problems.forget(|object| object == "pod a");
        assert_eq!(problems.count(), 0);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_vary() {
        for (tries, whole) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60)] {
            let pauses: Vec<_> = (0..50).map(|_| pause(tries)).collect();
            let range = Duration::from_millis(whole * 750)..=Duration::from_secs(whole);
            assert!(pauses.iter().all(|pause| range.contains(pause)), "{tries}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{tries}: {pauses:?}");
        }
    }

    #[test]
    fn what_fails_is_left_alone_until_something_happens_to_it() {
        let mut problems = Problems::default();
        assert_eq!((problems.turn("pod a"), problems.next()), (Turn::Well, None));
        assert!(failed(&mut problems, "busy"));
        assert!(!failed(&mut problems, "busy") && failed(&mut problems, "gone"));
        assert_eq!(problems.turn("pod a"), Turn::Later);
        let line = problems.lines().remove(0);
        assert!(line.starts_with("pod a: gone (for 0s; failed 3 times in a row, next try in "), "{line}");
        problems.hurry(Some("pod b"));
        assert_eq!(problems.turn("pod a"), Turn::Later, "another one's luck");
        problems.hurry(Some("pod a"));
        assert_eq!(problems.turn("pod a"), Turn::Again);
        failed(&mut problems, "gone");
        assert!(problems.next().unwrap() <= Instant::now() + PAUSE.0, "short again");
        assert!(problems.note("pod a", Ok(()), true));
        assert_eq!((problems.turn("pod a"), problems.lines().len()), (Turn::Well, 0));
    }

    #[test]
    fn what_every_pass_looks_at_has_no_pause() {
        let mut problems = Problems::default();
        problems.note("tables", Err("no space".to_owned()), false);
        assert_eq!((problems.turn("tables"), problems.next()), (Turn::Again, None));
        assert_eq!(problems.lines(), ["tables: no space (for 0s)"]);
    }
}
