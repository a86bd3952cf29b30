//! `/v1/flows`.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::sleep;

use super::{Answer, App, connection::Client, failure::Refusal, peer::Peer};
use crate::{
    agent::AgentError,
    api::types::{Flow, FlowFilter, Flushed},
};

/// How long a client may take to read a list: a walk is held up for it.
const READING: Duration = Duration::from_secs(120);

type Filter = Result<Query<FlowFilter>, QueryRejection>;

/// Tracked flows that a filter lets pass
#[utoipa::path(
    get, path = "/v1/flows", tag = "flows", operation_id = "listFlows", params(FlowFilter),
    responses((status = 200, body = Vec<Flow>, description = "The flows, as they are found or in the order asked for"), (status = 404, description = "There is no such pod")),
)]
pub(super) async fn list(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Extension(client): Extension<Arc<Client>>,
    filter: Filter,
) -> Result<Response, Refusal> {
    let Query(filter) = filter?;
    let walks = if peer == Peer::Root { app.walks.0 } else { app.walks.1 };
    // The turn of the next one comes when this list is read.
    let held = (walks.acquire_owned().await, client.busy());
    let rows = array(app.agent.flows(&filter).await?).take_until(Box::pin(sleep(READING)));
    let body = Body::from_stream(rows.map(move |row| {
        let _ = &held;
        row
    }));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// One array of all rows, as they come: a full table is never in memory as a whole.
fn array(rows: impl Stream<Item = Result<Vec<Flow>, AgentError>>) -> impl Stream<Item = io::Result<Bytes>> {
    let mut separator = "";
    let text = move |rows: Result<Vec<Flow>, AgentError>| {
        let mut text = Vec::new();
        for row in rows.map_err(io::Error::other)? {
            text.extend_from_slice(separator.as_bytes());
            separator = ",";
            serde_json::to_writer(&mut text, &row)?;
        }
        Ok(Bytes::from(text))
    };
    let one = |text| stream::iter([Ok(Bytes::from_static(text))]);
    one(b"[").chain(rows.map(text)).chain(one(b"]"))
}

/// Forget flows that a filter lets pass: their next packets make new ones
#[utoipa::path(
    delete, path = "/v1/flows", tag = "flows", operation_id = "flushFlows", params(FlowFilter),
    responses((status = 200, body = Flushed, description = "How many"), (status = 404, description = "There is no such pod")),
)]
pub(super) async fn flush(State(app): State<App>, filter: Filter) -> Answer<Flushed> {
    let Query(filter) = filter?;
    Ok(Json(Flushed { removed: app.agent.flush_flows(&filter).await? }))
}
