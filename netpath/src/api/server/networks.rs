//! `/v1/networks`.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State, rejection::*},
    http::StatusCode,
};

use super::{Answer, App, failure::Refusal, parse};
use crate::api::types::{Network, NetworkAdd, NetworkSet};

/// All networks
#[utoipa::path(get, path = "/v1/networks", tag = "networks", operation_id = "listNetworks", responses((status = 200, body = Vec<Network>, description = "By name")))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Network>> {
    Json(app.agent.networks())
}

/// Add a network
#[utoipa::path(
    post, path = "/v1/networks", tag = "networks", operation_id = "addNetwork", request_body = NetworkAdd,
    responses(
        (status = 201, body = Network, description = "The network as it became"),
        (status = 409, description = "The name is taken, or a subnet overlaps another network, the node's addresses or a pod's"),
    ),
)]
pub(super) async fn add(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Network>), Refusal> {
    let wanted: NetworkAdd = parse(body)?;
    Ok((StatusCode::CREATED, Json(app.agent.network_add(&wanted).await?)))
}

/// Change a network
#[utoipa::path(
    patch, path = "/v1/networks/{name}", tag = "networks", operation_id = "setNetwork", request_body = NetworkSet,
    params(("name" = String, Path, description = "Name of the network")),
    responses(
        (status = 200, body = Network, description = "The network as it became"),
        (status = 404, description = "There is no such network"),
    ),
)]
pub(super) async fn set(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Network> {
    let Path(name) = name?;
    let change: NetworkSet = parse(body)?;
    Ok(Json(app.agent.network_set(&name, &change).await?))
}

/// Remove a network that has no pods
#[utoipa::path(
    delete, path = "/v1/networks/{name}", tag = "networks", operation_id = "removeNetwork",
    params(("name" = String, Path, description = "Name of the network")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is no such network"),
        (status = 409, description = "It has pods"),
    ),
)]
pub(super) async fn rm(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(name) = name?;
    app.agent.network_rm(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
