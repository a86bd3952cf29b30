//! `/v1/deny`.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State, rejection::*},
    http::StatusCode,
};

use super::{Answer, App, failure::Refusal, parse};
use crate::api::types::{Denied, DenyAdd, Prefix};

/// The deny list, with what was dropped by prefix
#[utoipa::path(get, path = "/v1/deny", tag = "deny", operation_id = "listDenied", responses((status = 200, body = Vec<Denied>, description = "By prefix")))]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<Denied>> {
    Ok(Json(app.agent.denied().await?))
}

/// Drop what comes from prefixes at the uplinks, before anything else
#[utoipa::path(
    post, path = "/v1/deny", tag = "deny", operation_id = "addDenied", request_body = DenyAdd,
    responses(
        (status = 204, description = "They are denied"),
        (status = 507, description = "The list is full"),
    ),
)]
pub(super) async fn add(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let wanted: DenyAdd = parse(body)?;
    app.agent.deny_add(&wanted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let a prefix in again
#[utoipa::path(
    delete, path = "/v1/deny/{prefix}", tag = "deny", operation_id = "removeDenied",
    params(("prefix" = Prefix, Path, description = "The prefix as it was added, its slash as %2F")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "It is not on the list"),
    ),
)]
pub(super) async fn rm(
    State(app): State<App>,
    prefix: Result<Path<Prefix>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(prefix) = prefix?;
    app.agent.deny_rm(prefix.0).await?;
    Ok(StatusCode::NO_CONTENT)
}
