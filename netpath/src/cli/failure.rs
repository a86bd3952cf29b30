//! From an error to what a person reads and a script tests.

use std::{fmt, io, path::Path};

use crate::api::{
    client::ClientError,
    types::{Failure, FailureCode},
};

const FAILED: u8 = 1;
const WRONG_ARGUMENTS: u8 = 2;
const NOT_REACHABLE: u8 = 3;

/// A failure of the command line's own doing.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub(super) struct Failed {
    /// What was being done, on which object.
    pub(super) what: String,
    /// Why it failed.
    pub(super) reason: String,
    /// What to try.
    pub(super) hint: &'static str,
}

/// Arguments that clap lets pass and that are wrong all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(String);

impl Usage {
    /// What a check of the arguments said.
    pub(super) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(chain(&error.into()))
    }
}

/// A command that could not be run in a pod; the status is what shells give.
#[derive(Debug, thiserror::Error)]
#[error("running {program}: {reason}")]
pub(super) struct NotRun {
    program: String,
    reason: String,
    status: u8,
}

impl NotRun {
    /// From what `execve` said.
    pub(super) fn new(program: &Path, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Self { program: program.display().to_string(), reason: error.to_string(), status }
    }
}

/// Nobody reads the standard output any more (`netpath flow ls | head`): nothing is wrong.
#[derive(Debug, thiserror::Error)]
#[error("the standard output is closed")]
pub(super) struct OutputClosed;

/// What to print on stderr, and the exit status. Displays as `netpath: WHAT: REASON` and a line `try: HINT`.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// 0 done, 1 failed, 2 wrong arguments, 3 the agent is not reachable; 126 and 127 for `pod exec`.
    pub status: u8,
    /// What was being done and why it failed; empty if there is nothing to say.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
}

impl Report {
    /// Reads an error of [`run`](super::run).
    pub fn of(error: &anyhow::Error) -> Self {
        if error.is::<OutputClosed>() {
            return Self { status: 0, message: String::new(), hint: None };
        }
        let (mut status, mut hint) = (FAILED, None);
        for cause in error.chain() {
            if let Some(cause) = cause.downcast_ref::<ClientError>() {
                status = match cause {
                    ClientError::NotReachable { .. } => NOT_REACHABLE,
                    ClientError::Refused(Failure { code: FailureCode::Invalid, .. }) => WRONG_ARGUMENTS,
                    ClientError::Refused(_) | ClientError::Protocol { .. } => FAILED,
                };
                hint = cause.hint().map(str::to_owned);
            } else if let Some(cause) = cause.downcast_ref::<Failed>() {
                hint = Some(cause.hint.to_owned());
            } else if let Some(cause) = cause.downcast_ref::<NotRun>() {
                status = cause.status;
            } else if cause.is::<Usage>() {
                status = WRONG_ARGUMENTS;
            }
        }
        Self { status, message: chain(error), hint }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return Ok(());
        }
        writeln!(f, "netpath: {}", self.message)?;
        match &self.hint {
            Some(hint) => writeln!(f, "try: {hint}"),
            None => Ok(()),
        }
    }
}

/// The causes, outermost first. Some errors already end with the words of their source; those are said once.
fn chain(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if message.ends_with(&words) {
            continue;
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&words);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: FailureCode) -> anyhow::Error {
        let hint = Some("choose another".to_owned());
        ClientError::Refused(Failure { code, message: "adding pod a: it exists".to_owned(), hint }).into()
    }

    #[test]
    fn every_kind_of_failure_has_its_status() {
        let gone = ClientError::NotReachable { socket: "/run/x.sock".into(), reason: "gone".into() };
        let garbage = ClientError::Protocol { request: "GET /".into(), reason: "garbage".into() };
        let rows = [
            (refused(FailureCode::Invalid), 2),
            (refused(FailureCode::NotFound), 1),
            (refused(FailureCode::Conflict), 1),
            (refused(FailureCode::Exhausted), 1),
            (refused(FailureCode::Internal), 1),
            (refused(FailureCode::Unavailable), 1),
            (garbage.into(), 1),
            (gone.into(), 3),
            (Usage::new(io::Error::other("bad")).into(), 2),
            (NotRun::new(Path::new("x"), &io::ErrorKind::NotFound.into()).into(), 127),
            (NotRun::new(Path::new("x"), &io::ErrorKind::PermissionDenied.into()).into(), 126),
            (anyhow::anyhow!("other"), 1),
            (OutputClosed.into(), 0),
        ];
        for (error, status) in rows {
            assert_eq!(Report::of(&error).status, status, "{error}");
            let context = error.context("doing something");
            assert_eq!(Report::of(&context).status, status, "{context:#}");
        }
    }

    #[test]
    fn a_report_says_what_why_and_what_to_try() {
        let report = Report::of(&refused(FailureCode::Conflict));
        assert_eq!(report.to_string(), "netpath: adding pod a: it exists\ntry: choose another\n");
        let error = anyhow::Error::from(io::Error::from_raw_os_error(13)).context("opening /x");
        let report = Report::of(&error);
        assert_eq!(report.to_string(), "netpath: opening /x: Permission denied (os error 13)\n");
        assert_eq!(Report::of(&OutputClosed.into()).to_string(), "");
    }

    #[test]
    fn words_of_a_source_that_the_error_repeats_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening /x: {source}")]
        struct Opening {
            source: io::Error,
        }
        let error = Opening { source: io::Error::other("no") };
        assert_eq!(Report::of(&error.into()).message, "opening /x: no");
    }
}
