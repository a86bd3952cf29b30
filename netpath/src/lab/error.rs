//! What can go wrong with a lab.

use std::{fmt::Display, path::PathBuf};

use crate::net::NetError;

/// Why a lab could not be made, run or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces need root.
    #[error("making namespaces: not root; run it with sudo")]
    NotRoot,
    /// Another of its kind is at work.
    #[error("a {what} is running already{}; end it with Ctrl-C{}", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), if what == "lab" { ", or remove it with 'netpath lab down'" } else { "" })]
    Busy {
        /// `lab` or `bench`.
        what: String,
        /// Its process, if it has written that down.
        pid: Option<u32>,
    },
    /// A step failed.
    #[error("{doing}: {reason}")]
    Step {
        /// What was being done, on which object.
        doing: String,
        /// The reason, and what to try where there is something.
        reason: String,
    },
    /// The agent ended or never answered.
    #[error("starting the agent: {reason}\nthe end of its log ({log}):\n{tail}")]
    Agent {
        /// What happened.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A link, route or namespace.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// Turns the error into a [`LabError::Step`].
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::Step { doing: what(), reason: error.to_string() })
    }
}
