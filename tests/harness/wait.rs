//! Waiting for what should happen soon.

use std::time::Instant;

use crate::node::PATIENCE;

/// Asks again and again until it is so.
///
/// # Panics
/// If it is not so in time; `what` says what was waited for.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
