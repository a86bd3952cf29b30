//! What an engine is told when it cannot be done.

use std::{fmt, io};

use serde_json::{Value, json};

use super::result::Version;
use crate::api::{
    client::ClientError,
    types::{Failure, FailureCode},
};

/// The specification's codes, and from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// The version is none that this plugin has, or has no such command.
    IncompatibleVersion = 1,
    /// The container is not known: there is nothing to clean up.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Input or output.
    Io = 5,
    /// What should be JSON of a certain form is not.
    Undecodable = 6,
    /// The configuration is not valid.
    InvalidConfig = 7,
    /// Not now: asking again later may do.
    TryAgain = 11,
    /// `STATUS`: nothing can be added.
    NotAvailable = 50,
    /// `STATUS`: nothing can be added, and what is there may lack connectivity.
    NotConnected = 51,
    /// The kernel or the agent's store refused.
    Internal = 100,
    /// Somebody else has the address or the interface.
    Taken = 101,
    /// No address or no room is left.
    Exhausted = 102,
    /// `CHECK`: not as it was made.
    Changed = 103,
}

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) struct CniError {
    /// A [`Code`], or what an IPAM plugin said.
    pub(super) code: u32,
    /// What was being done, on which object, and the reason.
    pub(super) message: String,
    /// What to try; may be empty.
    pub(super) details: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl CniError {
    /// An error without a hint.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as u32, message: message.into(), details: String::new() }
    }

    /// The same with what to try.
    pub(super) fn hint(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }

    /// An input or output error with what was being done.
    pub(super) fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Code::Io, format!("{doing}: {error}"))
    }

    /// The error object of the specification.
    pub(super) fn object(&self, version: Version) -> Value {
        json!({
            "cniVersion": version.name(), "code": self.code, "msg": self.message, "details": self.details,
        })
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotReachable { .. } => Code::TryAgain,
            ClientError::Protocol { .. } => Code::Internal,
            ClientError::Refused(Failure { code, .. }) => match code {
                FailureCode::Invalid | FailureCode::NotFound | FailureCode::Forbidden => Code::InvalidConfig,
                FailureCode::Conflict => Code::Taken,
                FailureCode::Exhausted => Code::Exhausted,
                FailureCode::Unavailable => Code::TryAgain,
                FailureCode::Internal => Code::Internal,
            },
        };
        let hint = error.hint().unwrap_or_default().to_owned();
        Self::new(code, error.to_string()).hint(hint)
    }
}
