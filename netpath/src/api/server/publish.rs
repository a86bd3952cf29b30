//! `/v1/published`.

use axum::{Json, extract::State};

use super::{Answer, App};
use crate::api::types::Published;

/// Ports of the node that lead to pods
#[utoipa::path(get, path = "/v1/published", tag = "pods", operation_id = "listPublished", responses((status = 200, body = Vec<Published>, description = "By pod")))]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<Published>> {
    Ok(Json(app.agent.published().await?))
}
