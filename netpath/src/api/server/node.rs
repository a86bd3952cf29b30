//! What concerns the node as a whole.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use utoipa::openapi::OpenApi;

use super::{Answer, App, failure::Refusal, metrics::Exposition, openapi::document};
use crate::api::types::{Drop, DropFilter, Status};

/// State of the agent and the node
#[utoipa::path(get, path = "/v1/status", tag = "node", operation_id = "status", responses((status = 200, body = Status, description = "The state now; flows and bindings are those of the last sweep")))]
pub(super) async fn status(State(app): State<App>) -> Answer<Status> {
    Ok(Json(app.agent.status().await?))
}

/// Dropped packets by reason, with what each means and what to do
#[utoipa::path(get, path = "/v1/drops", tag = "node", operation_id = "listDrops", params(DropFilter), responses((status = 200, body = Vec<Drop>, description = "Reasons with packets, or all")))]
pub(super) async fn drops(
    State(app): State<App>,
    filter: Result<Query<DropFilter>, QueryRejection>,
) -> Answer<Vec<Drop>> {
    let Query(filter) = filter?;
    Ok(Json(app.agent.drops(filter.all).await?))
}

/// Everything there is to measure, as text for Prometheus
#[utoipa::path(
    get, path = "/v1/metrics", tag = "node", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain", description = "Prometheus' text format, or OpenMetrics where `Accept` asks for it; docs/METRICS.md lists what there is")),
)]
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refusal> {
    Ok(Exposition::of(&app.agent).await?.answer(&headers))
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node", operation_id = "openapi", responses((status = 200, body = Object, description = "OpenAPI 3.1")))]
pub(super) async fn openapi() -> Json<&'static OpenApi> {
    Json(document())
}

/// Remove everything netpath put on the machine; the agent ends
#[utoipa::path(post, path = "/v1/uninstall", tag = "node", operation_id = "uninstall", responses((status = 204, description = "All is removed")))]
pub(super) async fn uninstall(State(app): State<App>) -> Result<StatusCode, Refusal> {
    app.agent.request_uninstall().await?;
    Ok(StatusCode::NO_CONTENT)
}
