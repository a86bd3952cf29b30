//! What an answer says when it is no.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every answer with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// What was being done, on which object, and the reason.
    pub message: String,
    /// What to try, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of failure, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// 400: the request is not valid.
    Invalid,
    /// 403: the caller may not do that.
    Forbidden,
    /// 404: no such object.
    NotFound,
    /// 409: exists already, or the address is taken.
    Conflict,
    /// 507: addresses or slots ran out.
    Exhausted,
    /// 500: the kernel or the store refused.
    Internal,
    /// 503: the agent cannot do it now, or has too much to do.
    Unavailable,
}
