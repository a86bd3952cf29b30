//! `POST /v1/trace`.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
};

use super::{Answer, App, parse};
use crate::api::types::{Trace, TraceRequest};

/// What the programs would do with a packet; nothing is sent, and nothing remembered
#[utoipa::path(
    post, path = "/v1/trace", tag = "node", operation_id = "trace", request_body = TraceRequest,
    responses((status = 200, body = Trace, description = "The way of the packet, and of its answer where that can be told"), (status = 404, description = "There is no such pod")),
)]
pub(super) async fn trace(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Answer<Trace> {
    let request: TraceRequest = parse(body)?;
    Ok(Json(app.agent.trace(&request).await?))
}
