//! Every refusal is a [`Failure`] in JSON.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::{BytesRejection, PathRejection, QueryRejection},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use super::API;
use crate::{
    agent::AgentError,
    api::types::{Failure, FailureCode},
};

/// A failure as an answer.
pub(super) struct Refusal(Failure);

const PATHS: &str = "GET /v1/openapi.json lists all paths, as 'netpath agent openapi' does";

impl Refusal {
    fn new(code: FailureCode, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self(Failure { code, message: message.into(), hint: hint.map(Into::into) })
    }

    /// A body that is not the JSON it should be.
    pub(super) fn body(error: &serde_json::Error) -> Self {
        Self::new(FailureCode::Invalid, format!("reading the request: {error}"), None)
    }

    pub(super) fn no_path(path: &str) -> Self {
        let version = path.split('/').nth(1).unwrap_or_default();
        let is_version = version.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
        if is_version && version != API {
            let message =
                format!("there is no {path}: this agent has version {API} of the API, not {version}");
            return Self::new(FailureCode::NotFound, message, Some("use a client of the agent's version"));
        }
        Self::new(FailureCode::NotFound, format!("there is no {path}"), Some(PATHS))
    }

    pub(super) fn stranger() -> Self {
        let message = "only root may use the agent, and members of the group api.group may read";
        Self::new(
            FailureCode::Forbidden,
            message,
            Some("run it as root, or have yourself added to the group"),
        )
    }

    pub(super) fn read_only() -> Self {
        let message = "members of the group api.group may read, and only root may change anything";
        Self::new(FailureCode::Forbidden, message, Some("run it as root"))
    }

    /// A request that is not all there in time, or too large.
    pub(super) fn unread(reason: impl Into<String>) -> Self {
        Self::new(FailureCode::Invalid, format!("reading the request: {}", reason.into()), None)
    }

    pub(super) fn no_method(method: &Method, uri: &Uri) -> Self {
        Self::new(FailureCode::Invalid, format!("{} cannot be asked with {method}", uri.path()), None)
    }

    pub(super) fn late(limit: Duration) -> Self {
        let message = format!("no answer within {} s; what was begun goes on", limit.as_secs());
        Self::new(FailureCode::Unavailable, message, Some("look again in a moment"))
    }

    pub(super) fn streams() -> Self {
        let message = "as many clients read events as may already";
        Self::new(FailureCode::Unavailable, message, Some("end one of them"))
    }
}

impl From<AgentError> for Refusal {
    fn from(error: AgentError) -> Self {
        Self(Failure::from(&error))
    }
}

macro_rules! invalid {
    ($($rejection:ty),*) => {
        $(impl From<$rejection> for Refusal {
            fn from(rejection: $rejection) -> Self {
                Self::new(FailureCode::Invalid, format!("reading the request: {}", rejection.body_text()), None)
            }
        })*
    };
}
invalid!(BytesRejection, PathRejection, QueryRejection);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            FailureCode::Invalid => StatusCode::BAD_REQUEST,
            FailureCode::Forbidden => StatusCode::FORBIDDEN,
            FailureCode::NotFound => StatusCode::NOT_FOUND,
            FailureCode::Conflict => StatusCode::CONFLICT,
            FailureCode::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
            FailureCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            FailureCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self.0)).into_response()
    }
}
