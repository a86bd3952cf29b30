//! The agent's end of the API.

mod failure;
mod listener;
#[cfg(test)]
mod tests;
mod trace;

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path as Segment, Query, Request, State, rejection::*},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use futures::{Stream, StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, watch},
    time::timeout,
};

use self::{failure::Refusal, listener::Limited};
use super::types::{
    Drop, Flow, FlowFilter, Flushed, Network, NetworkAdd, NetworkSet, Pod, PodAdd, PodSet, Status,
};
use crate::{
    agent::{Agent, AgentError},
    store::private_dir,
};

/// Largest request, bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// Longest time for an answer; event streams have none, nor has `uninstall`.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once; more wait in the socket's queue.
const CONNECTIONS: usize = 128;
/// Event streams at once, so that forgotten ones leave connections for everybody else.
const STREAMS: usize = 32;

#[derive(Clone)]
struct App {
    agent: Arc<Agent>,
    streams: Arc<Semaphore>,
}

/// Listens on a socket that only root can use. A socket that nobody answers is replaced.
///
/// # Errors
/// If somebody answers on it, or the file system refuses.
pub async fn bind(socket: &Path) -> Result<UnixListener, AgentError> {
    let doing = || format!("listening on {}", socket.display());
    if let Some(dir) = socket.parent() {
        private_dir(dir)?;
    }
    if UnixStream::connect(socket).await.is_ok() {
        let answered = io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there; stop that one");
        return Err(AgentError::io(doing())(answered));
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(AgentError::io(doing())(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(AgentError::io(doing()))?;
    // Others cannot write to the directory, and to connect one has to write to the socket, which the usual umask
    // leaves to its owner already.
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(AgentError::io(doing()))?;
    Ok(listener)
}

/// Serves until `ends` turns true and the answers are out.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>, mut ends: watch::Receiver<bool>) {
    let ended = async move {
        // A sender that is gone has ended as well.
        let _ = ends.wait_for(|end| *end).await;
    };
    let served = axum::serve(Limited::new(listener, CONNECTIONS), router(agent));
    if let Err(error) = served.with_graceful_shutdown(ended).await {
        tracing::error!("serving the API: {error}");
    }
}

fn router(agent: Arc<Agent>) -> Router {
    let app = App { agent, streams: Arc::new(Semaphore::new(STREAMS)) };
    let timed = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/pods", get(pods).post(pod_add))
        .route("/v1/pods/{name}", get(pod).patch(pod_set).delete(pod_rm))
        .route("/v1/networks", get(networks).post(network_add))
        .route("/v1/networks/{name}", patch(network_set).delete(network_rm))
        .route("/v1/flows", get(flows).delete(flush))
        .route("/v1/drops", get(drops))
        .route("/v1/trace", post(trace::trace))
        .layer(middleware::from_fn(in_time));
    timed
        .route("/v1/events", get(events))
        .route("/v1/uninstall", post(uninstall))
        .fallback(async |request: Request| Refusal::no_path(request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| {
            Refusal::no_method(request.method(), request.uri())
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(app)
}

/// Limits how long an answer may take; also how long a client may take to send its request.
async fn in_time(request: Request, next: Next) -> Response {
    match timeout(TIMEOUT, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Refusal::late(TIMEOUT).into_response(),
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn status(State(app): State<App>) -> Answer<Status> {
    Ok(Json(app.agent.status().await?))
}

async fn pods(State(app): State<App>) -> Answer<Vec<Pod>> {
    Ok(Json(app.agent.pods().await?))
}

async fn pod(State(app): State<App>, name: Result<Segment<String>, PathRejection>) -> Answer<Pod> {
    let Segment(name) = name?;
    Ok(Json(app.agent.pod(&name).await?))
}

async fn pod_add(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Pod>), Refusal> {
    let wanted: PodAdd = parse(body)?;
    let pod = app.agent.pod_add(&wanted).await?;
    Ok((StatusCode::CREATED, Json(app.agent.pod(pod.name.as_str()).await?)))
}

async fn pod_set(
    State(app): State<App>,
    name: Result<Segment<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Pod> {
    let Segment(name) = name?;
    let change: PodSet = parse(body)?;
    app.agent.pod_set(&name, &change).await?;
    Ok(Json(app.agent.pod(&name).await?))
}

async fn pod_rm(
    State(app): State<App>,
    name: Result<Segment<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Segment(name) = name?;
    app.agent.pod_rm(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn networks(State(app): State<App>) -> Json<Vec<Network>> {
    Json(app.agent.networks())
}

async fn network_add(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Network>), Refusal> {
    let wanted: NetworkAdd = parse(body)?;
    Ok((StatusCode::CREATED, Json(app.agent.network_add(&wanted).await?)))
}

async fn network_set(
    State(app): State<App>,
    name: Result<Segment<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Network> {
    let Segment(name) = name?;
    let change: NetworkSet = parse(body)?;
    Ok(Json(app.agent.network_set(&name, &change).await?))
}

async fn network_rm(
    State(app): State<App>,
    name: Result<Segment<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Segment(name) = name?;
    app.agent.network_rm(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A request's JSON.
fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    serde_json::from_slice(&body?).map_err(|error| Refusal::body(&error))
}

type Filter = Result<Query<FlowFilter>, QueryRejection>;

async fn flows(State(app): State<App>, filter: Filter) -> Result<Response, Refusal> {
    let Query(filter) = filter?;
    let body = Body::from_stream(array(app.agent.flows(&filter).await?));
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

async fn flush(State(app): State<App>, filter: Filter) -> Answer<Flushed> {
    let Query(filter) = filter?;
    Ok(Json(Flushed { removed: app.agent.flush_flows(&filter).await? }))
}

async fn drops(State(app): State<App>) -> Answer<Vec<Drop>> {
    Ok(Json(app.agent.drops().await?))
}

async fn uninstall(State(app): State<App>) -> Result<StatusCode, Refusal> {
    app.agent.request_uninstall().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Newline-delimited JSON until the client leaves or the agent ends.
async fn events(State(app): State<App>) -> Result<Response, Refusal> {
    let permit = app.streams.clone().try_acquire_owned().map_err(|_| Refusal::streams(STREAMS))?;
    let mut ending = app.agent.ending();
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let lines = lines(app.agent.subscribe(), permit).take_until(Box::pin(ended));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

type Subscription = tokio::sync::broadcast::Receiver<Arc<super::types::Event>>;

/// A line an event. A client that is too slow loses events, never the agent's memory.
fn lines(
    subscription: Subscription,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, serde_json::Error>> {
    stream::unfold((subscription, permit), |(mut subscription, permit)| async {
        loop {
            match subscription.recv().await {
                Ok(event) => {
                    let line = serde_json::to_vec(&*event).map(|mut line| {
                        line.push(b'\n');
                        Bytes::from(line)
                    });
                    return Some((line, (subscription, permit)));
                }
                Err(RecvError::Lagged(lost)) => {
                    tracing::debug!(lost, "a subscriber is too slow for all events");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    })
}
