//! The agent's end of the API: routes, and what holds for all of them. The handlers are in a file a topic.

mod attachments;
mod bgp;
mod cluster;
mod connection;
mod deny;
mod events;
mod failure;
mod flows;
pub(crate) mod metrics;
mod networks;
mod node;
mod openapi;
mod peer;
mod pods;
mod publish;
#[cfg(test)]
mod tests;
mod trace;

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{MatchedPath, Request, State, rejection::BytesRejection},
    http::{HeaderName, HeaderValue, Method},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::openapi::document;
pub(crate) use self::peer::open_to;
use self::{
    connection::{Client, Room},
    failure::Refusal,
    peer::Socket,
};
use crate::{
    agent::{Agent, AgentError},
    store::private_dir,
};

/// Version of the API: the first part of every path, and a header of every answer.
const API: &str = "v1";
/// Largest request, bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// How long a request may take to be here as a whole.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest time for an answer; event streams have none, nor has `uninstall`.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once: root's, of which more wait in the socket's queue, and others'.
const CONNECTIONS: (usize, usize) = (128, 32);
/// Requests that change something at once, and others; more wait for their turn. Apart, so that whoever looks does not
/// wait for a hundred pods to be made.
const AT_WORK: (usize, usize) = (32, 64);
/// Lists of flows at once, root's and others': each is a walk over the table, and lasts until its client has read it.
const WALKS: (usize, usize) = (4, 2);
/// Event streams at once, root's and others', so that forgotten ones leave connections for everybody else.
const STREAMS: (usize, usize) = (32, 8);

#[derive(Clone)]
struct App {
    agent: Arc<Agent>,
    changes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    walks: (Arc<Semaphore>, Arc<Semaphore>),
    streams: (Arc<Semaphore>, Arc<Semaphore>),
}

impl App {
    fn new(agent: Arc<Agent>) -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self {
            agent,
            changes: slots(AT_WORK.0),
            reads: slots(AT_WORK.1),
            walks: (slots(WALKS.0), slots(WALKS.1)),
            streams: (slots(STREAMS.0), slots(STREAMS.1)),
        }
    }
}

/// Listens on a socket that only root can use, and the group if one is given by number. A socket that nobody answers is
/// replaced.
///
/// # Errors
/// If somebody answers on it, or the file system refuses.
pub async fn bind(socket: &Path, group: Option<u32>) -> Result<UnixListener, AgentError> {
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
    // Until then: others cannot write to the directory, and to connect one has to write to the socket, which the usual
    // umask leaves to its owner already.
    open_to(socket, group)?;
    Ok(listener)
}

/// Serves until `ends` turns true and the answers are out.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>, mut ends: watch::Receiver<bool>) {
    let ended = async move {
        // A sender that is gone has ended as well.
        let _ = ends.wait_for(|end| *end).await;
    };
    let router = router(App::new(Arc::clone(&agent)));
    let room = |places| Room::new(places, places);
    let rooms = (room(CONNECTIONS.0), room(CONNECTIONS.1));
    connection::serve(Socket { listener, agent }, rooms, None, router, ended).await;
}

/// Routes whose answers take a limited time. `.routes` takes none without its part of the document.
fn timed() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(node::status))
        .routes(routes!(pods::list, pods::add))
        .routes(routes!(pods::show, pods::set, pods::rm))
        .routes(routes!(attachments::list, attachments::rm))
        .routes(routes!(attachments::check))
        .routes(routes!(networks::list, networks::add))
        .routes(routes!(networks::set, networks::rm))
        .routes(routes!(flows::list, flows::flush))
        .routes(routes!(node::drops))
        .routes(routes!(deny::list, deny::add))
        .routes(routes!(deny::rm))
        .routes(routes!(publish::list))
        .routes(routes!(cluster::list))
        .routes(routes!(cluster::set, cluster::leave))
        .routes(routes!(bgp::list))
        .routes(routes!(bgp::configuration))
        .routes(routes!(trace::trace))
        .routes(routes!(node::metrics))
        .routes(routes!(node::openapi))
}

/// Those that take as long as it takes.
fn untimed() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(events::stream)).routes(routes!(node::uninstall))
}

fn router(app: App) -> Router {
    let timed = Router::from(timed()).layer(middleware::from_fn_with_state(app.clone(), in_time));
    timed
        .merge(Router::from(untimed()))
        .fallback(async |request: Request| Refusal::no_path(request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| {
            Refusal::no_method(request.method(), request.uri())
        })
        .layer(middleware::from_fn(whole))
        .layer(middleware::from_fn(peer::permit))
        .layer(middleware::from_fn_with_state(app.clone(), measure))
        .with_state(app)
}

/// Measures how long an answer takes, and says which version gives it.
async fn measure(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let known = [Method::GET, Method::POST, Method::PATCH, Method::DELETE];
    let method = known.into_iter().find(|known| known == request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut answer = next.run(request).await;
    app.agent.metrics.answered(
        method.as_ref().map_or("other", Method::as_str),
        route.as_deref().unwrap_or("other"),
        answer.status().as_u16(),
        begun.elapsed(),
    );
    for (name, value) in [("netpath-api", API), ("netpath-version", env!("CARGO_PKG_VERSION"))] {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

/// Waits until a request is here as a whole: nothing is held for one that is not.
async fn whole(Extension(client): Extension<Arc<Client>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(BODY_TIME, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(body)) => {
            let _busy = client.busy();
            next.run(Request::from_parts(head, Body::from(body))).await
        }
        Ok(Err(error)) => Refusal::unread(format!("{error} ({BODY_LIMIT} bytes)")).into_response(),
        Err(_) => {
            Refusal::unread(format!("it was not here within {} s", BODY_TIME.as_secs())).into_response()
        }
    }
}

/// Limits how many are at work, and how long an answer may take.
async fn in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let slots = if request.method() == Method::GET { &app.reads } else { &app.changes };
    let work = async {
        // Nobody closes it.
        let _slot = slots.acquire().await;
        next.run(request).await
    };
    match timeout(TIMEOUT, work).await {
        Ok(answer) => answer,
        Err(_) => Refusal::late(TIMEOUT).into_response(),
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

/// A request's JSON.
fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    serde_json::from_slice(&body?).map_err(|error| Refusal::body(&error))
}
