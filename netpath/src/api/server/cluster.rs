//! `/v1/nodes`.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State, rejection::*},
    http::StatusCode,
};

use super::{Answer, App, failure::Refusal, parse};
use crate::api::types::{ClusterNode, NodeSet};

/// The nodes of the cluster, as last heard of
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes", operation_id = "listNodes",
    responses(
        (status = 200, body = Vec<ClusterNode>, description = "By name"),
        (status = 404, description = "This node is in no cluster"),
    ),
)]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<ClusterNode>> {
    Ok(Json(app.agent.nodes().await?))
}

/// Have the node that is asked take no new pods, or take some again
#[utoipa::path(
    patch, path = "/v1/nodes/{name}", tag = "nodes", operation_id = "setNode", request_body = NodeSet,
    params(("name" = String, Path, description = "Name of the node")),
    responses(
        (status = 204, description = "It is so"),
        (status = 404, description = "This node is in no cluster"),
        (status = 409, description = "It is another node"),
    ),
)]
pub(super) async fn set(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(name) = name?;
    app.agent.node_set(&name, &parse(body)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a node out of the cluster: the one that is asked, without pods, or one that is away
#[utoipa::path(
    delete, path = "/v1/nodes/{name}", tag = "nodes", operation_id = "removeNode",
    params(("name" = String, Path, description = "Name of the node")),
    responses(
        (status = 204, description = "Its records are gone, its blocks are anybody's"),
        (status = 404, description = "There is no such node, or this one is in no cluster"),
        (status = 409, description = "It has pods, or is another one that is alive"),
    ),
)]
pub(super) async fn leave(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(name) = name?;
    app.agent.node_leave(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
