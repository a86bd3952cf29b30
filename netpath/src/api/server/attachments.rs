//! `/v1/attachments`.

use axum::{
    Json,
    extract::{Query, State, rejection::*},
    http::StatusCode,
};

use super::{Answer, App, failure::Refusal};
use crate::api::types::{Attachment, AttachmentFilter, Pod};

/// Pods that a container engine added
#[utoipa::path(get, path = "/v1/attachments", tag = "attachments", operation_id = "listAttachments", params(AttachmentFilter), responses((status = 200, body = Vec<Pod>, description = "By name")))]
pub(super) async fn list(
    State(app): State<App>,
    filter: Result<Query<AttachmentFilter>, QueryRejection>,
) -> Answer<Vec<Pod>> {
    let Query(filter) = filter?;
    Ok(Json(app.agent.attachments(filter.network.as_deref()).await?))
}

/// Remove the pod that an engine knows as this
#[utoipa::path(
    delete, path = "/v1/attachments", tag = "attachments", operation_id = "removeAttachment", params(Attachment),
    responses((status = 204, description = "It is gone, or never was")),
)]
pub(super) async fn rm(
    State(app): State<App>,
    attachment: Result<Query<Attachment>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(attachment) = attachment?;
    app.agent.attachment_rm(attachment).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether the pod that an engine knows as this is in the kernel as it should be
#[utoipa::path(
    get, path = "/v1/attachments/check", tag = "attachments", operation_id = "checkAttachment", params(Attachment),
    responses(
        (status = 200, body = Pod, description = "It is"),
        (status = 404, description = "There is no such pod"),
        (status = 409, description = "It is not; the agent goes on repairing it"),
    ),
)]
pub(super) async fn check(
    State(app): State<App>,
    attachment: Result<Query<Attachment>, QueryRejection>,
) -> Answer<Pod> {
    let Query(attachment) = attachment?;
    Ok(Json(app.agent.attachment_check(attachment).await?))
}
