//! Waiting for what should happen soon.

use std::time::{Duration, Instant};

use crate::node::PATIENCE;

/// Between two askings: short beside what is waited for, long enough to leave the processor to those who are waited for.
const REST: Duration = Duration::from_millis(5);

/// Asks again and again until it is so.
///
/// # Panics
/// If it is not so in time; `what` says what was waited for.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        rest();
    }
}

/// The pause between two askings.
pub fn rest() {
    std::thread::sleep(REST);
}
