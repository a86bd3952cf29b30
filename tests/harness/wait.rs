//! Waiting for what should happen soon.

use std::time::{Duration, Instant};

use crate::node::PATIENCE;

/// Between two askings: short beside what is waited for, long enough to leave the processor to those who are waited for.
const REST: Duration = Duration::from_millis(5);

/// Asks again and again until it is so.
///
/// # Panics
/// If it is not so in time; `what` says what was waited for.
pub fn until(what: &str, so: impl FnMut() -> bool) {
    within(PATIENCE, what, so);
}

/// The same in a time of its own; returns how long it took.
///
/// # Panics
/// If it is not so in time.
pub fn within(time: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < time, "waited in vain for {time:?}: {what}");
        rest();
    }
    begun.elapsed()
}

/// The pause between two askings.
pub fn rest() {
    std::thread::sleep(REST);
}
