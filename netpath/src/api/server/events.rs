//! `/v1/events`.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{App, connection::Client, failure::Refusal, peer::Peer};
use crate::{
    agent::{Agent, unix_ms},
    api::types::Event,
};

/// Events from now on, one JSON object a line, until the client leaves or the agent ends
#[utoipa::path(
    get, path = "/v1/events", tag = "node", operation_id = "events",
    responses((status = 200, body = Event, content_type = "application/x-ndjson", description = "Each line is an event. What is missing is told by an event of the kind `lost`")),
)]
pub(super) async fn stream(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<Response, Refusal> {
    let streams = if peer == Peer::Root { app.streams.0 } else { app.streams.1 };
    // A client that listens has a reason to be silent.
    let held = (streams.try_acquire_owned().map_err(|_| Refusal::streams())?, client.busy());
    let mut ending = app.agent.ending();
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let subscription = app.agent.subscribe().await?;
    let lines = lines(subscription, app.agent, held).take_until(Box::pin(ended));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// A line an event; `held` until the last one. A client that is too slow loses events, never the agent's memory, and is
/// told.
fn lines<H>(
    subscription: Receiver<Arc<Event>>,
    agent: Arc<Agent>,
    held: H,
) -> impl Stream<Item = Result<Bytes, serde_json::Error>> {
    stream::unfold((subscription, agent, held), |(mut subscription, agent, held)| async {
        let line = match subscription.recv().await {
            Ok(event) => line(&event),
            Err(RecvError::Lagged(lost)) => {
                agent.metrics.lost_by_reader(lost);
                line(&Event::of_loss(unix_ms(), "slow-reader", lost))
            }
            Err(RecvError::Closed) => return None,
        };
        Some((line, (subscription, agent, held)))
    })
}

fn line(event: &Event) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line.into())
}
