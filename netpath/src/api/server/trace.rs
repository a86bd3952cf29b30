//! `POST /v1/trace`.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
};

use super::{Answer, App, parse};
use crate::api::types::{Trace, TraceRequest};

pub(super) async fn trace(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Answer<Trace> {
    let request: TraceRequest = parse(body)?;
    Ok(Json(app.agent.trace(&request).await?))
}
