//! Metrics over TCP, for Prometheus: two paths, and nothing else of the API.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::connection::{self, Client, Room};
use crate::agent::{Agent, AgentError};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections at once, of all addresses that are listened on: all, and those from one peer.
const CONNECTIONS: (usize, usize) = (16, 4);
/// How long a connection may last, from the first byte asked to the last one read: as long as Prometheus waits unless told
/// otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a text is told again before another one is made: however many ask, it costs the agent the same.
const KEPT: Duration = Duration::from_secs(1);
/// Time between looks at which addresses are configured, and tries to listen on them.
const LOOK: Duration = Duration::from_secs(1);
/// The agent is well if everything was looked at within this time: six passes.
const FRESH: Duration = Duration::from_secs(60);

/// Metrics in both formats.
#[derive(Clone)]
pub(super) struct Exposition {
    open: Bytes,
    text: Bytes,
}

impl Exposition {
    /// Everything as it is now.
    pub(super) async fn of(agent: &Agent) -> Result<Self, AgentError> {
        let metrics = agent.metrics().await?;
        Ok(Self { text: classic(&metrics).into(), open: metrics.into() })
    }

    /// Metrics as the client wants them: OpenMetrics if it says so, else the older format that everything reads.
    pub(super) fn answer(self, headers: &HeaderMap) -> Response {
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let wants_open = accept.into_iter().any(|accept| accept.contains("application/openmetrics-text"));
        let (kind, text) = if wants_open { (OPEN_METRICS, self.open) } else { (TEXT, self.text) };
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    }
}

/// OpenMetrics as the older text format has it: there, a counter's name ends in `_total` in its description as well, and
/// units and the end are not told.
fn classic(metrics: &str) -> String {
    let counter = |line: &str| Some(line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.to_owned());
    let counters: Vec<String> = metrics.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(metrics.len());
    for line in metrics.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.iter().any(|one| one == name) => {
                text.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Listens on the configured addresses until `ends` turns true. An address that cannot be had is a problem of the agent's
/// and tried again: it may come, as IPv6 addresses do.
pub(crate) async fn serve(agent: Arc<Agent>, mut ends: watch::Receiver<bool>) {
    let room = Room::new(CONNECTIONS.0, CONNECTIONS.1);
    let router = router(&agent);
    let mut open: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    let mut failing: Vec<SocketAddr> = Vec::new();
    loop {
        let wanted = agent.metrics_addresses();
        for address in failing.extract_if(.., |address| !wanted.contains(address)) {
            agent.note(&problem(address), &Ok::<_, io::Error>(()));
        }
        for (_, listening) in open.extract_if(.., |address, _| !wanted.contains(address)) {
            listening.abort();
        }
        for address in wanted {
            if open.contains_key(&address) {
                continue;
            }
            let listener = listen(address);
            agent.note(&problem(address), &listener.as_ref().map(drop));
            match listener {
                Ok(listener) => {
                    tracing::info!(%address, "serving metrics");
                    failing.retain(|failing| *failing != address);
                    let rooms = (Arc::clone(&room), Arc::clone(&room));
                    let never = std::future::pending();
                    let served = connection::serve(listener, rooms, Some(TIMEOUT), router.clone(), never);
                    open.insert(address, tokio::spawn(served));
                }
                Err(_) if !failing.contains(&address) => failing.push(address),
                Err(_) => {}
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = ends.wait_for(|end| *end) => break,
        }
    }
    open.into_values().for_each(|listening| listening.abort());
}

fn problem(address: SocketAddr) -> String {
    format!("metrics {address}")
}

/// In the agent's network namespace, as all its sockets. `::` is IPv6 alone, so that it goes with 0.0.0.0.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // An agent that comes after another need not wait for its connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(CONNECTIONS.0 as i32)?;
    TcpListener::from_std(socket.into())
}

#[derive(Clone)]
struct Metrics {
    agent: Arc<Agent>,
    /// What was last told, and since when; whoever comes while it is made anew waits for it.
    kept: Arc<Mutex<Option<(Instant, Exposition)>>>,
}

fn router(agent: &Arc<Agent>) -> Router {
    let state = Metrics { agent: Arc::clone(agent), kept: Arc::default() };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(health))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"))
        .layer(middleware::from_fn(in_time))
        .with_state(state)
}

async fn in_time(Extension(client): Extension<Arc<Client>>, request: Request, next: Next) -> Response {
    let _busy = client.busy();
    let late = |_| (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n").into_response();
    timeout(TIMEOUT, next.run(request)).await.unwrap_or_else(late)
}

async fn scrape(State(state): State<Metrics>, headers: HeaderMap) -> Response {
    match state.exposition().await {
        Ok(exposition) => exposition.answer(&headers),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl Metrics {
    async fn exposition(&self) -> Result<Exposition, AgentError> {
        let mut kept = self.kept.lock().await;
        if let Some((since, exposition)) = &*kept
            && since.elapsed() < KEPT
        {
            return Ok(exposition.clone());
        }
        let exposition = Exposition::of(&self.agent).await?;
        *kept = Some((Instant::now(), exposition.clone()));
        Ok(exposition)
    }
}

async fn health(State(state): State<Metrics>) -> (StatusCode, String) {
    match state.agent.metrics.since_full_pass() {
        Some(time) if time < FRESH => (StatusCode::OK, "ok\n".to_owned()),
        Some(time) => {
            let words = format!("everything was last looked at {} s ago\n", time.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, words)
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "nothing was looked at yet\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_in_full() {
        let open = "# HELP a_b Words, counter.\n# TYPE a_b counter\na_b_total{x=\"# TYPE\"} 1\n\
                    # HELP a_bs Size.\n# TYPE a_bs gauge\n# UNIT a_bs bytes\na_bs 2\n# EOF\n";
        assert_eq!(
            classic(open),
            "# HELP a_b_total Words, counter.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE\"} 1\n\
             # HELP a_bs Size.\n# TYPE a_bs gauge\na_bs 2\n"
        );
    }
}
