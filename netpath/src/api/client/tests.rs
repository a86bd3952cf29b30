use std::{
    future::IntoFuture,
    io::{Read, Write},
    os::unix::net::UnixListener as StdListener,
    thread,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query},
    http::StatusCode,
    routing::{delete, get, post},
};
use tempfile::TempDir;
use tokio::net::UnixListener;

use super::*;
use crate::api::types::{Event, FailureCode};

fn pod(name: &str) -> Pod {
    serde_json::from_value(serde_json::json!({
        "name": name, "network": "default", "addresses": ["10.244.0.2"], "mac": "0a:58:0a:f4:00:02",
        "interface": "np1", "ifindex": 7, "netns": "/run/netns/a", "state": "ready",
        "rx_packets": 1, "rx_bytes": 2, "tx_packets": 3, "tx_bytes": 4, "mtu": 1500,
    }))
    .unwrap()
}

fn event_line(port: u16) -> String {
    format!(
        "{{\"time_ms\":1,\"kind\":\"drop\",\"reason\":\"SpoofedSource\",\"pod\":\"a\",\"interface\":\"np1\",\
         \"program\":\"from_pod\",\"protocol\":\"tcp\",\"source\":\"10.0.0.1\",\"source_port\":{port},\
         \"destination\":null,\"destination_port\":0,\"translated_source\":null,\"translated_port\":null,\
         \"length\":60}}\n"
    )
}

/// Serves `router` on a socket in a directory that lives as long as the returned guard.
fn serve(router: Router) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    (dir, Client::new(socket))
}

/// Answers one connection with raw bytes and closes it.
fn answer_raw(answer: String) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = StdListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    (dir, Client::new(socket))
}

fn failure() -> (StatusCode, Json<Failure>) {
    let failure = Failure {
        code: FailureCode::Conflict,
        message: "adding pod a: the name is taken".into(),
        hint: Some("remove it first".into()),
    };
    (StatusCode::CONFLICT, Json(failure))
}

#[tokio::test]
async fn requests_reach_their_routes_and_answers_come_back_typed() {
    #[derive(serde::Deserialize)]
    struct Filter {
        pod: Option<String>,
    }
    let router = Router::new()
        .route(
            "/v1/pods",
            get(|| async { Json(vec![pod("a"), pod("b")]) })
                .post(|Json(add): Json<PodAdd>| async move { (StatusCode::CREATED, Json(pod(&add.name))) }),
        )
        .route("/v1/pods/{name}", get(|Path(name): Path<String>| async move { Json(pod(&name)) }))
        .route(
            "/v1/flows",
            get(|Query(filter): Query<Filter>| async move {
                assert_eq!(filter.pod.as_deref(), Some("a&b"));
                Json(Vec::<Flow>::new())
            }),
        )
        .route("/v1/drops", get(|| async { Json(Vec::<Drop>::new()) }))
        .route("/v1/networks", get(|| async { Json(Vec::<Network>::new()) }))
        .route("/v1/uninstall", post(|| async { StatusCode::NO_CONTENT }));
    let (_dir, client) = serve(router);

    assert_eq!(client.pods().await.unwrap(), [pod("a"), pod("b")]);
    let add = PodAdd { name: "c".into(), ..PodAdd::default() };
    assert_eq!(client.pod_add(&add).await.unwrap(), pod("c"));
    assert_eq!(client.pod("x/../y ü").await.unwrap().name, "x/../y ü");
    assert_eq!(client.flows(Some("a&b")).await.unwrap(), []);
    assert_eq!(client.drops().await.unwrap(), []);
    assert_eq!(client.networks().await.unwrap(), []);
    client.uninstall().await.unwrap();
}

#[tokio::test]
async fn deleting_takes_any_success() {
    let router = Router::new().route("/v1/pods/{name}", delete(|| async { StatusCode::NO_CONTENT }));
    let (_dir, client) = serve(router);
    client.pod_rm("a").await.unwrap();
}

#[tokio::test]
async fn a_failure_keeps_code_message_and_hint() {
    let (_dir, client) = serve(Router::new().route("/v1/pods", get(|| async { failure() })));
    let error = client.pods().await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(failure) if failure.code == FailureCode::Conflict));
    assert_eq!(error.to_string(), "adding pod a: the name is taken");
    assert_eq!(error.hint(), Some("remove it first"));
}

#[tokio::test]
async fn a_failure_of_the_event_stream_is_a_failure() {
    let (_dir, client) = serve(Router::new().route("/v1/events", get(|| async { failure() })));
    assert!(matches!(client.events().await.unwrap_err(), ClientError::Refused(_)));
}

#[tokio::test]
async fn an_unknown_route_is_a_protocol_error_with_its_status() {
    let (_dir, client) = serve(Router::new());
    let error = client.status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "understanding the agent's answer to GET /v1/status: status 404 with an empty body"
    );
}

#[tokio::test]
async fn no_socket_and_no_listener_are_not_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let client = Client::new(&socket);
    let error = client.status().await.unwrap_err();
    assert!(matches!(&error, ClientError::NotReachable { reason, .. } if reason.contains("no such socket")));
    assert!(error.hint().unwrap().contains("netpath agent run"));

    drop(StdListener::bind(&socket).unwrap());
    let error = client.status().await.unwrap_err();
    assert!(matches!(&error, ClientError::NotReachable { reason, .. } if reason.contains("nobody listens")));
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_not_reachable() {
    let router = Router::new().route("/v1/status", get(std::future::pending::<()>));
    let (_dir, client) = serve(router);
    let error = client.with_patience(Duration::from_millis(50)).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotReachable { .. }), "{error}");
}

#[tokio::test]
async fn garbage_is_a_protocol_error() {
    let (_dir, client) = answer_raw("SSH-2.0-what\r\n\r\n".into());
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");

    let (_dir, client) = answer_raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[{}\n]".into());
    let error = client.pods().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    assert!(error.to_string().contains("`[{}\\n]`"), "{error}");
}

#[tokio::test]
async fn an_agent_that_dies_in_an_answer_is_not_reachable() {
    let (_dir, client) = answer_raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n[".into());
    let error = client.pods().await.unwrap_err();
    assert!(matches!(error, ClientError::NotReachable { .. }), "{error}");
}

#[tokio::test]
async fn events_come_line_by_line_whatever_the_chunks() {
    let lines = format!("{}\n{}", event_line(1), event_line(2));
    let (first, second) = lines.split_at(30);
    let chunks = [first.to_owned(), second.to_owned(), event_line(3).trim_end().to_owned()];
    let body = move || {
        let chunks = chunks.clone().map(Ok::<_, std::convert::Infallible>);
        async { Body::from_stream(futures::stream::iter(chunks)) }
    };
    let (_dir, client) = serve(Router::new().route("/v1/events", get(body)));
    let mut stream = client.events().await.unwrap();
    for port in 1..=3 {
        let event: Event = stream.next().await.unwrap().unwrap();
        assert_eq!(event.source_port, port);
    }
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn an_agent_that_dies_in_the_stream_is_an_error_after_the_whole_events() {
    let line = event_line(9);
    let torn = "{\"time_ms\":1,";
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (_dir, client) =
        answer_raw(format!("{head}{:x}\r\n{line}\r\n{:x}\r\n{torn}\r\n", line.len(), torn.len()));
    let mut stream = client.events().await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().source_port, 9);
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::NotReachable { .. }), "{error}");
    assert!(error.to_string().ends_with("the agent closed the connection before its answer was complete"));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_line_that_is_no_event_or_has_no_end_is_a_protocol_error() {
    for body in ["hello\n".to_owned(), "x".repeat(70_000)] {
        let router = Router::new().route("/v1/events", get(move || async { body }));
        let (_dir, client) = serve(router);
        let mut stream = client.events().await.unwrap();
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
        assert!(stream.next().await.is_none());
    }
}
