//! The API over its socket, with the client that the command line uses and with what no client should send.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
};

use super::*;
use crate::{
    agent::testing::{Node, Running, named, with_node},
    api::{
        client::{Client, ClientError},
        types::{
            Drop, Failure, FailureCode, Flow, FlowFilter, FlowSort, FlowState, Network, NetworkAdd,
            NetworkSet, Pod,
        },
    },
    store::memory::MemoryStore,
};

struct Served {
    running: Running,
    socket: PathBuf,
    end: watch::Sender<bool>,
    server: JoinHandle<()>,
}

async fn served(node: &Node) -> Served {
    let running = node.start(Arc::new(MemoryStore::default())).await.unwrap();
    let socket = node.config.paths.socket();
    let listener = bind(&socket, None).await.unwrap();
    let (end, ends) = watch::channel(false);
    let server = tokio::spawn(serve(listener, Arc::clone(&running.agent), ends));
    Served { running, socket, end, server }
}

/// Sends bytes and reads the answer: its status and its failure.
async fn raw(socket: &Path, request: &str) -> (u16, Failure) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {answer}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{request}: {error}: {body}")))
}

fn ask(line: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn network(subnet: &str, more: &str) -> String {
    format!("{{\"name\": \"n\", \"subnets\": [\"{subnet}\"]{more}}}")
}

#[test]
fn a_day_of_a_client() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let client = Client::new(&socket);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let added = client.post::<Pod>("/v1/pods", &named("web")).await.unwrap();
        assert_eq!((added.name.as_str(), added.state.as_str()), ("web", "ready"));
        assert_ne!(added.ifindex, 0);
        assert_eq!(client.pods().await.unwrap(), [added]);
        let status = client.status().await.unwrap();
        assert_eq!((status.node.as_str(), status.pods, status.flow_capacity), ("n", 1, 512));
        assert_eq!(status.programs.len(), 4);
        assert!(status.programs.iter().all(|program| !program.interface.starts_with('#')), "{status:?}");
        assert_eq!((status.problems.len(), status.uplinks), (0, vec!["up0".to_owned()]));
        let networks = client.get::<Vec<Network>>("/v1/networks").await.unwrap();
        assert_eq!((networks[0].pods, networks[0].mtu, networks[0].inbound.as_str()), (1, 1500, "cluster"));
        let wanted = NetworkAdd {
            name: "back".into(),
            subnets: vec!["fd00:62::/64".parse().unwrap(), "10.62.0.0/24".parse().unwrap()],
            ..NetworkAdd::default()
        };
        let back = client.network_add(&wanted).await.unwrap();
        assert_eq!(
            (back.subnets[0].to_string().as_str(), back.masquerade, back.pods),
            ("10.62.0.0/24", true, 0)
        );
        let change =
            NetworkSet { masquerade: Some(false), inbound: Some("any".into()), ..NetworkSet::default() };
        let back = client.network_set("back", &change).await.unwrap();
        assert_eq!((back.masquerade, back.inbound.as_str(), back.mtu), (false, "any", 1500));
        assert_eq!(client.networks().await.unwrap()[0], back);
        client.network_rm("back").await.unwrap();
        assert_eq!(client.networks().await.unwrap().len(), 1);
        assert_eq!(client.get::<Vec<Flow>>("/v1/flows?pod=web").await.unwrap(), []);
        client.get::<Vec<Drop>>("/v1/drops").await.unwrap();
        let Err(ClientError::Refused(failure)) = client.post::<Pod>("/v1/pods", &named("web")).await else {
            panic!("added twice")
        };
        assert_eq!(failure.code, FailureCode::Conflict);
        assert!(failure.hint.is_some());
        // A stream of events does not keep the agent from ending.
        let mut events = client.events().await.unwrap();
        running.stop().await;
        assert!(events.next().await.is_none());
        end.send_replace(true);
        server.await.unwrap();
    });
}

#[test]
fn every_part_of_a_filter_reaches_the_agent() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let client = Client::new(&socket);
        client.post::<Pod>("/v1/pods", &named("web")).await.unwrap();
        let every = FlowFilter {
            pod: Some("web".into()),
            protocol: Some("sctp".parse().unwrap()),
            state: Some(FlowState::Closing),
            source: Some("10.61.0.0/24".parse().unwrap()),
            destination: Some("2001:db8::9".parse().unwrap()),
            port: Some(443),
            translated: Some(true),
            ..FlowFilter::default()
        };
        let sorted = FlowFilter { sort: Some(FlowSort::Idle), limit: Some(5), ..every.clone() };
        assert_eq!(client.flows_by(&sorted).await.unwrap(), []);
        assert_eq!(client.flush_flows(&every).await.unwrap().removed, 0);
        running.stop().await;
        end.send_replace(true);
        server.await.unwrap();
    });
}

#[test]
fn every_refusal_is_json() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let large = format!("{{\"name\": \"{}\"}}", "x".repeat(BODY_LIMIT));
        for (request, status, words) in [
            (ask("GET /v2/status", ""), 404, "version v1 of the API, not v2"),
            (ask("GET /v1/nothing", ""), 404, "/v1/nothing"),
            (ask("GET /status", ""), 404, "/status"),
            (ask("GET /v1/drops?all=maybe", ""), 400, "`false`"),
            (ask("GET /v1/drops?most=true", ""), 400, "most"),
            (ask("PUT /v1/pods", ""), 400, "PUT"),
            (ask("GET /v1/pods/none", ""), 404, "'none'"),
            (ask("GET /v1/pods/%ff", ""), 400, "UTF-8"),
            (ask("DELETE /v1/pods/none", ""), 404, "'none'"),
            (ask("POST /v1/pods", ""), 400, "EOF"),
            (ask("POST /v1/pods", "{"), 400, "EOF"),
            (ask("POST /v1/pods", "{\"name\": \"a\", \"nmae\": 1}"), 400, "nmae"),
            (ask("POST /v1/pods", "{\"name\": \"a/b\"}"), 400, "a/b"),
            (ask("POST /v1/pods", "{\"name\": \"a\", \"addresses\": [\"10.62.0.1\"]}"), 400, "10.62.0.1"),
            (ask("POST /v1/pods", &large), 400, "limit"),
            (ask("POST /v1/networks", "{\"name\": \"a/b\", \"subnets\": []}"), 400, "network name 'a/b'"),
            (ask("POST /v1/networks", "{\"name\": \"a\", \"subnets\": []}"), 400, "'a': subnet is empty"),
            (ask("POST /v1/networks", &network("10.0.0.1/24", "")), 400, "write 10.0.0.0/24"),
            (ask("POST /v1/networks", &network("169.254.0.0/24", "")), 400, "link-local"),
            (ask("POST /v1/networks", &network("10.0.0.0/8", "")), 409, "overlaps 10.61.0.0/24"),
            (ask("POST /v1/networks", &network("192.0.2.0/24", "")), 409, "192.0.2.2, an address of up0"),
            (ask("POST /v1/networks", &network("10.62.0.0/24", ", \"mtu\": 500")), 400, "MTU 500"),
            (ask("POST /v1/networks", &network("fd00::/64", ", \"mtu\": 1279")), 400, "1280"),
            (
                ask("POST /v1/networks", &network("10.62.0.0/24", ", \"inbound\": \"all\"")),
                400,
                "cluster or any",
            ),
            (ask("POST /v1/networks", &network("x", "")), 400, "reading the request"),
            (ask("PATCH /v1/networks/none", "{}"), 404, "'none'"),
            (ask("PATCH /v1/networks/default", "{\"mtu\": 70000}"), 400, "MTU 70000"),
            (ask("DELETE /v1/networks/default", ""), 400, "every node's"),
            (ask("DELETE /v1/networks/none", ""), 404, "'none'"),
            (ask("GET /v1/flows?pdo=a", ""), 400, "pdo"),
            (ask("GET /v1/flows?pod=none", ""), 404, "'none'"),
            (ask("GET /v1/flows?protocol=gre", ""), 400, "gre"),
            (ask("GET /v1/flows?state=open", ""), 400, "open"),
            (ask("GET /v1/flows?source=10.0.0.0/33", ""), 400, "10.0.0.0/33"),
            (ask("GET /v1/flows?all=true", ""), 400, "'all'"),
            (ask("DELETE /v1/flows", ""), 400, "in common"),
            (ask("DELETE /v1/flows?pod=none", ""), 404, "'none'"),
        ] {
            let (got, failure) = raw(&socket, &request).await;
            assert_eq!(got, status, "{failure:?}");
            assert!(failure.message.contains(words), "{failure:?}");
            assert!(is_documented(&request, status), "{request} {status}");
        }
        running.stop().await;
        end.send_replace(true);
        server.await.unwrap();
    });
}

/// Whether the document knows a request's answer; of what is no route there is nothing to know.
fn is_documented(request: &str, status: u16) -> bool {
    let (method, target) = request.split_once(' ').unwrap();
    let path = target.split([' ', '?']).next().unwrap();
    let path = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "v1", kind @ ("pods" | "networks"), _] => format!("/v1/{kind}/{{name}}"),
        _ => path.to_owned(),
    };
    let document = serde_json::to_value(document()).unwrap();
    let operation = &document["paths"][&path][method.to_lowercase()];
    let known = operation["responses"].as_object().map(|all| all.contains_key(&status.to_string()));
    known.unwrap_or(matches!(status, 404 | 400))
}

/// The document in docs/ is the agent's own, and every failure in it is told in the same way.
#[test]
fn the_document_is_that_of_the_routes() {
    let own = serde_json::to_value(document()).unwrap();
    let kept: serde_json::Value =
        serde_json::from_str(include_str!("../../../../docs/openapi.json")).expect("docs/openapi.json");
    assert!(kept == own, "stale: netpath agent openapi > docs/openapi.json");
    let mut names = BTreeSet::new();
    for (path, item) in own["paths"].as_object().unwrap() {
        assert!(path.starts_with("/v1/"), "{path}");
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|words| words.len() > 5), "{what}: summary");
            let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{what}: operationId"));
            assert!(names.insert(name.to_owned()), "{what}: {name} is another's");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(
                    response["description"].as_str().is_some_and(|words| words.len() > 2),
                    "{what} {status}"
                );
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                let failure = schema == "#/components/schemas/Failure";
                assert_eq!(failure, status.as_str() >= "400", "{what} {status}: {schema}");
            }
        }
    }
    let text = own.to_string();
    for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(own["components"]["schemas"][name].is_object(), "{name} is nowhere");
    }
    for schema in own["components"]["schemas"].as_object().unwrap().values() {
        assert!(schema["description"].is_string(), "{schema}");
    }
}

/// Routes come from `.routes`, with their part of the document; a plain `.route` would have none.
#[test]
fn no_route_is_without_its_document() {
    assert!(!include_str!("../server.rs").contains(".route("));
}

#[test]
fn every_answer_says_its_version() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        for line in ["GET /v1/pods", "GET /v9/pods", "PUT /v1/pods"] {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            stream.write_all(ask(line, "").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("netpath-api: v1\r\n"), "{line}: {answer}");
            assert!(
                answer.contains(concat!("netpath-version: ", env!("CARGO_PKG_VERSION"))),
                "{line}: {answer}"
            );
        }
        running.stop().await;
        end.send_replace(true);
        server.await.unwrap();
    });
}

#[test]
fn a_client_that_leaves_does_not_leave_half_a_pod() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(ask("POST /v1/pods", "{\"name\": \"a\"}").as_bytes()).await.unwrap();
        let agent = Arc::clone(&running.agent);
        while agent.pods().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(stream);
        // Waits for what was begun.
        running.stop().await;
        assert_eq!(agent.pods().await.unwrap()[0].state, "ready");
        end.send_replace(true);
        server.await.unwrap();
    });
}

#[test]
fn uninstall_answers_when_it_is_done() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let asking = tokio::spawn(async move { Client::new(socket).uninstall().await });
        let Running { agent, tasks, mut uninstall } = running;
        let tell = uninstall.recv().await.unwrap();
        agent.end(tasks).await;
        tell.send(agent.remove_all().await).unwrap();
        end.send_replace(true);
        server.await.unwrap();
        asking.await.unwrap().unwrap();
        assert!(!node.config.paths.run_dir.exists());
    });
}

#[test]
fn streams_and_sockets_are_limited_to_one_owner_and_some() {
    with_node(async |node| {
        let Served { running, socket, end, server } = served(&node).await;
        let error = bind(&socket, None).await.unwrap_err().to_string();
        assert!(error.contains("another agent answers there"), "{error}");
        let client = Client::new(&socket);
        let mut streams = Vec::new();
        for _ in 0..STREAMS.0 {
            streams.push(client.events().await.unwrap());
        }
        assert!(matches!(client.events().await, Err(ClientError::Refused(_))));
        streams.pop();
        while client.events().await.is_err() {
            tokio::task::yield_now().await;
        }
        running.stop().await;
        end.send_replace(true);
        server.await.unwrap();
        // Nobody answers any more: the file is in nobody's way.
        bind(&socket, None).await.unwrap();
    });
}
