//! What can go wrong between a caller and the agent.

use std::{error::Error, io, path::Path, path::PathBuf};

use crate::api::types::{Failure, FailureCode};

/// What can go wrong. The message says what was asked and why it failed; [`ClientError::hint`] says what to try.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket, or not any more.
    #[error("reaching the agent at {}: {reason}", socket.display())]
    NotReachable {
        /// The socket tried.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The agent understood and said no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// What came back is not what this build understands.
    #[error("understanding the agent's answer to {request}: {reason}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    /// What to try, if there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NotReachable { reason, .. } if reason.contains("ermission") => {
                Some("run it as root, or as a member of the group api.group if the configuration names one")
            }
            Self::NotReachable { .. } => Some(
                "start the agent with `netpath agent run`, or name another one with `--instance`; \
                 its log says why it ended",
            ),
            Self::Refused(failure) => failure.hint.as_deref(),
            Self::Protocol { .. } => Some(
                "compare the versions of `netpath --version` and of the running agent; restart the agent after an upgrade",
            ),
        }
    }

    /// Whether the agent says that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(Failure { code: FailureCode::NotFound, .. }))
    }

    pub(super) fn connecting(socket: &Path, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no such socket, so no agent of this instance runs here".to_owned()
            }
            io::ErrorKind::ConnectionRefused => {
                "nobody listens on the socket, so the agent has ended".to_owned()
            }
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        Self::NotReachable { socket: socket.to_owned(), reason }
    }

    /// An error of the HTTP connection: bytes that are not HTTP are the peer's fault, all else is its absence.
    pub(super) fn transport(socket: &Path, request: &str, error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Protocol {
                request: request.to_owned(),
                reason: format!("not HTTP: {}", deepest(error)),
            };
        }
        let reason = if error.is_incomplete_message() || error.is_closed() || is_early_end(error) {
            "the agent closed the connection before its answer was complete".to_owned()
        } else {
            format!("the connection broke: {}", deepest(error))
        };
        Self::NotReachable { socket: socket.to_owned(), reason }
    }
}

/// A body that ends before its length or its last chunk comes as an I/O error inside hyper's.
fn is_early_end(error: &hyper::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn deepest(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
