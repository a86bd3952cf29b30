//! What can go wrong in a capture.

use std::fmt::Display;

use crate::{datapath::DatapathError, net::NetError};

/// What can go wrong in a capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// No interface has the name that was asked for.
    #[error("capturing at {wanted}: the pod and the node have no such interface; there are: {there}")]
    NoPoint {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Entering a namespace.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The flow table.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Nobody reads the standard output any more.
    #[error("the standard output is closed")]
    Closed,
    /// Anything else, with what was being done.
    #[error("{doing}: {reason}")]
    Other {
        /// What was being done, on which object.
        doing: String,
        /// The system's reason.
        reason: String,
    },
}

impl CaptureError {
    pub(super) fn new(doing: impl Into<String>, reason: impl Display) -> Self {
        Self::Other { doing: doing.into(), reason: reason.to_string() }
    }
}
