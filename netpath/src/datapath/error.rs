//! What can go wrong with programs and tables.

use std::{fmt::Display, path::PathBuf};

/// What can go wrong with programs and tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// bpffs is not there and cannot be mounted.
    #[error("mounting bpffs on {path}: {source}")]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The pinned flows have a layout that this build does not know.
    #[error(
        "taking over the flows in {path}: the table has {found}, and this build knows {wanted}; start the later build \
         again that made it, or start this one once with --forget-flows: every connection through this node's \
         translation is lost then"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Key and value sizes found.
        found: String,
        /// Key and value sizes wanted.
        wanted: String,
    },
    /// tcx was asked for where there is none.
    #[error(
        "attaching programs with tcx: this kernel is older than Linux 6.6, which brought it; \
         leave `attach` out of the configuration's [datapath], or set it to \"clsact\""
    )]
    NoTcx,
    /// The kernel's verifier refused a program.
    #[error("loading the program {program}: {reason}")]
    Verifier {
        /// The program.
        program: &'static str,
        /// The kernel's reason, with the end of the verifier's log.
        reason: String,
    },
    /// Anything else, with what was being done.
    #[error("{doing}: {reason}")]
    Kernel {
        /// What was being done, on which object.
        doing: String,
        /// The kernel's reason.
        reason: String,
    },
}

/// Wraps an error of aya or the system with what was being done.
pub(super) fn kernel<E: std::error::Error>(doing: impl Display) -> impl FnOnce(E) -> DatapathError {
    move |error| DatapathError::Kernel { doing: doing.to_string(), reason: chain(&error) }
}

/// The error and its sources in one line: aya keeps the errno in the source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
