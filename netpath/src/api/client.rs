//! The caller's side of the API: typed requests over the agent's unix socket.

mod error;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

pub use self::{error::ClientError, stream::EventStream};
use crate::api::types::{
    Attachment, AttachmentFilter, BgpConfiguration, BgpSession, ClusterNode, Denied, DenyAdd, Drop, Failure,
    Flow, FlowFilter, Flushed, Network, NetworkAdd, NetworkSet, NodeSet, Pod, PodAdd, PodSet, Published,
    Status, Trace, TraceRequest,
};

/// How long an answer may take: longer than the agent's own limit of 60 s, so that it is the agent who says what became of
/// a request.
const ANSWER: Duration = Duration::from_secs(65);

/// A client of one agent. Every request is a connection of its own, so the client outlives restarts of the agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of the agent that listens on `socket`. Connects only when asked something.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), patience: ANSWER }
    }

    /// The same client, waiting `patience` for each answer instead of 65 s.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// State of the node.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// All pods.
    pub async fn pods(&self) -> Result<Vec<Pod>, ClientError> {
        self.get("/v1/pods").await
    }

    /// One pod by name; `Refused` with `not_found` if there is none.
    pub async fn pod(&self, name: &str) -> Result<Pod, ClientError> {
        self.get(&format!("/v1/pods/{}", escape(name))).await
    }

    /// Adds a pod and returns it as it became.
    pub async fn pod_add(&self, pod: &PodAdd) -> Result<Pod, ClientError> {
        self.post("/v1/pods", pod).await
    }

    /// Changes a pod and returns it as it became.
    pub async fn pod_set(&self, name: &str, change: &PodSet) -> Result<Pod, ClientError> {
        self.with_body(Method::PATCH, &format!("/v1/pods/{}", escape(name)), change).await
    }

    /// Removes a pod with everything made for it.
    pub async fn pod_rm(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/pods/{}", escape(name))).await
    }

    /// The same, answered when the pod is cut off: its interface goes a little later.
    pub async fn pod_rm_early(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/pods/{}?wait=false", escape(name))).await
    }

    /// Pods that a container engine added, of one of its networks if one is named.
    pub async fn attachments(&self, network: Option<&str>) -> Result<Vec<Pod>, ClientError> {
        let filter = AttachmentFilter { network: network.map(str::to_owned) };
        self.get(&with_query("/v1/attachments", &filter)?).await
    }

    /// Removes the pod that an engine knows as this; no error if there is none.
    pub async fn attachment_rm(&self, attachment: &Attachment) -> Result<(), ClientError> {
        self.delete(&with_query("/v1/attachments", attachment)?).await
    }

    /// Has the agent compare the pod that an engine knows as this with the kernel; `Refused` if it is not as it should be.
    pub async fn attachment_check(&self, attachment: &Attachment) -> Result<Pod, ClientError> {
        self.get(&with_query("/v1/attachments/check", attachment)?).await
    }

    /// All networks.
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// Adds a network and returns it as it became.
    pub async fn network_add(&self, network: &NetworkAdd) -> Result<Network, ClientError> {
        self.post("/v1/networks", network).await
    }

    /// Changes a network and returns it as it became.
    pub async fn network_set(&self, name: &str, change: &NetworkSet) -> Result<Network, ClientError> {
        self.with_body(Method::PATCH, &format!("/v1/networks/{}", escape(name)), change).await
    }

    /// Removes a network that has no pods.
    pub async fn network_rm(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/networks/{}", escape(name))).await
    }

    /// Tracked flows, of one pod if `pod` is given.
    pub async fn flows(&self, pod: Option<&str>) -> Result<Vec<Flow>, ClientError> {
        self.flows_by(&FlowFilter { pod: pod.map(str::to_owned), ..FlowFilter::default() }).await
    }

    /// Tracked flows that a filter lets pass.
    pub async fn flows_by(&self, filter: &FlowFilter) -> Result<Vec<Flow>, ClientError> {
        self.get(&with_query("/v1/flows", filter)?).await
    }

    /// Removes tracked flows that a filter lets pass.
    pub async fn flush_flows(&self, filter: &FlowFilter) -> Result<Flushed, ClientError> {
        let path = with_query("/v1/flows", filter)?;
        let body = self.exchange(Method::DELETE, &path, None).await?;
        decode("DELETE", &path, &body)
    }

    /// Drop reasons that have packets.
    pub async fn drops(&self) -> Result<Vec<Drop>, ClientError> {
        self.get("/v1/drops").await
    }

    /// Ports of the node that lead to pods.
    pub async fn published(&self) -> Result<Vec<Published>, ClientError> {
        self.get("/v1/published").await
    }

    /// The deny list.
    pub async fn denied(&self) -> Result<Vec<Denied>, ClientError> {
        self.get("/v1/deny").await
    }

    /// Has packets from prefixes dropped at the uplinks.
    pub async fn deny_add(&self, request: &DenyAdd) -> Result<(), ClientError> {
        self.with_json(Method::POST, "/v1/deny", request).await.map(drop)
    }

    /// Lets a prefix in again.
    pub async fn deny_rm(&self, prefix: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/deny/{}", escape(prefix))).await
    }

    /// The nodes of the cluster, by name.
    pub async fn nodes(&self) -> Result<Vec<ClusterNode>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// Has the node that is asked take no new pods, or take some again.
    pub async fn node_set(&self, name: &str, request: &NodeSet) -> Result<(), ClientError> {
        self.with_json(Method::PATCH, &format!("/v1/nodes/{}", escape(name)), request).await.map(drop)
    }

    /// Takes a node out of the cluster.
    pub async fn node_leave(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/nodes/{}", escape(name))).await
    }

    /// Sessions of the node's BIRD.
    pub async fn bgp_sessions(&self) -> Result<Vec<BgpSession>, ClientError> {
        self.get("/v1/bgp").await
    }

    /// What BIRD is told, without passwords.
    pub async fn bgp_configuration(&self) -> Result<BgpConfiguration, ClientError> {
        self.get("/v1/bgp/configuration").await
    }

    /// What the programs would do with a packet.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Trace, ClientError> {
        self.post("/v1/trace", request).await
    }

    /// All drop reasons.
    pub async fn all_drops(&self) -> Result<Vec<Drop>, ClientError> {
        self.get("/v1/drops?all=true").await
    }

    /// Everything there is to measure, in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let body = self.exchange(Method::GET, "/v1/metrics", None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Events from now on, until the stream is dropped or the agent ends.
    pub async fn events(&self) -> Result<EventStream, ClientError> {
        let what = "GET /v1/events";
        let response = self.in_time(self.send(Method::GET, "/v1/events", None)).await?;
        if response.status().is_success() {
            return Ok(EventStream::new(self.socket.clone(), response.into_body()));
        }
        let (status, body) = self.in_time(self.collect(response)).await?;
        Err(refusal(what, status, &body))
    }

    /// Removes everything netpath put on the node; the agent ends afterwards.
    pub async fn uninstall(&self) -> Result<(), ClientError> {
        self.exchange(Method::POST, "/v1/uninstall", None).await.map(drop)
    }

    /// `GET path`: the answer's JSON as `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::GET, path, None).await?;
        decode("GET", path, &body)
    }

    /// `POST path` with `request` as JSON: the answer's JSON as `T`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.with_body(Method::POST, path, request).await
    }

    async fn with_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let body = self.with_json(method.clone(), path, request).await?;
        decode(method.as_str(), path, &body)
    }

    async fn with_json(
        &self,
        method: Method,
        path: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<Bytes, ClientError> {
        let json = serde_json::to_vec(request).map_err(|error| ClientError::Protocol {
            request: format!("{method} {path}"),
            reason: format!("the request does not fit into JSON: {error}"),
        })?;
        self.exchange(method, path, Some(json)).await
    }

    /// `DELETE path`, whatever the answer's body says.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.exchange(Method::DELETE, path, None).await.map(drop)
    }

    /// One request and its whole answer; an answer of 400 and above is an error.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let what = format!("{method} {path}");
        let (status, body) = self
            .in_time(async {
                let response = self.send(method, path, body).await?;
                self.collect(response).await
            })
            .await?;
        if status.is_success() { Ok(body) } else { Err(refusal(&what, status, &body)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let what = format!("{method} {path}");
        tracing::debug!(request = what, socket = %self.socket.display(), "asking the agent");
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::connecting(&self.socket, &error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::transport(&self.socket, &what, &error))?;
        // Ends with the response body; its errors reach the body, too.
        tokio::spawn(connection);
        let mut builder = Request::builder().method(method).uri(path).header(header::HOST, "netpath");
        if body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        let request = builder
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ClientError::Protocol { request: what.clone(), reason: error.to_string() })?;
        sender
            .send_request(request)
            .await
            .map_err(|error| ClientError::transport(&self.socket, &what, &error))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| ClientError::transport(&self.socket, "the request", &error))?;
        Ok((status, body.to_bytes()))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        tokio::time::timeout(self.patience, work).await.unwrap_or_else(|_| {
            Err(ClientError::NotReachable {
                socket: self.socket.clone(),
                reason: format!("no answer within {:?}", self.patience),
            })
        })
    }
}

fn decode<T: DeserializeOwned>(method: &str, path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Protocol {
        request: format!("{method} {path}"),
        reason: format!("not the JSON expected: {error} in {}", excerpt(body)),
    })
}

/// An answer that is not a success: the agent's own words, or what else came.
fn refusal(what: &str, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => ClientError::Refused(failure),
        Err(_) => ClientError::Protocol {
            request: what.to_owned(),
            reason: format!("status {} with {}", status.as_u16(), excerpt(body)),
        },
    }
}

/// The start of a body, fit for a message.
fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        return "an empty body".to_owned();
    }
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if text.chars().count() > SHOWN { "…" } else { "" };
    format!("`{}{more}`", shown.escape_debug())
}

/// A path with the fields of something flat as its query.
fn with_query(path: &str, query: &impl Serialize) -> Result<String, ClientError> {
    let refused = |reason: String| ClientError::Protocol { request: path.to_owned(), reason };
    let fields = serde_json::to_value(query).map_err(|error| refused(error.to_string()))?;
    let pair = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{key}={}", escape(text)),
        other => format!("{key}={other}"),
    };
    let query: Vec<_> = fields.as_object().into_iter().flatten().map(pair).collect();
    Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) })
}

/// Percent-encodes everything but RFC 3986's unreserved characters, so that any name is one path segment or value.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
