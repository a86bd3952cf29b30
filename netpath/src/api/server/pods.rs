//! `/v1/pods`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::*},
    http::StatusCode,
};

use super::{Answer, App, connection::Client, failure::Refusal, parse};
use crate::api::types::{Pod, PodAdd, PodRemoval, PodSet};

/// All pods
#[utoipa::path(get, path = "/v1/pods", tag = "pods", operation_id = "listPods", responses((status = 200, body = Vec<Pod>, description = "By name")))]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<Pod>> {
    Ok(Json(app.agent.pods().await?))
}

/// One pod
#[utoipa::path(
    get, path = "/v1/pods/{name}", tag = "pods", operation_id = "showPod",
    params(("name" = String, Path, description = "Name of the pod")),
    responses((status = 200, body = Pod, description = "The pod"), (status = 404, description = "There is no such pod")),
)]
pub(super) async fn show(State(app): State<App>, name: Result<Path<String>, PathRejection>) -> Answer<Pod> {
    let Path(name) = name?;
    Ok(Json(app.agent.pod(&name).await?))
}

/// Add a pod
#[utoipa::path(
    post, path = "/v1/pods", tag = "pods", operation_id = "addPod", request_body = PodAdd,
    responses(
        (status = 201, body = Pod, description = "The pod as it became; its network works"),
        (status = 404, description = "There is no such network"),
        (status = 409, description = "The name, the namespace or an address is taken"),
        (status = 507, description = "The network has no free address, or the node no room for another pod"),
    ),
)]
pub(super) async fn add(
    State(app): State<App>,
    Extension(client): Extension<Arc<Client>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Pod>), Refusal> {
    let wanted: PodAdd = parse(body)?;
    let pod = app.agent.pod_add_since(&wanted, client.since()).await?;
    Ok((StatusCode::CREATED, Json(app.agent.pod(pod.name.as_str()).await?)))
}

/// Change a pod
#[utoipa::path(
    patch, path = "/v1/pods/{name}", tag = "pods", operation_id = "setPod", request_body = PodSet,
    params(("name" = String, Path, description = "Name of the pod")),
    responses(
        (status = 200, body = Pod, description = "The pod as it became"),
        (status = 404, description = "There is no such pod"),
        (status = 409, description = "It is being added or removed"),
    ),
)]
pub(super) async fn set(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Pod> {
    let Path(name) = name?;
    let change: PodSet = parse(body)?;
    app.agent.pod_set(&name, &change).await?;
    Ok(Json(app.agent.pod(&name).await?))
}

/// Remove a pod with everything made for it
#[utoipa::path(
    delete, path = "/v1/pods/{name}", tag = "pods", operation_id = "removePod",
    params(("name" = String, Path, description = "Name of the pod"), PodRemoval),
    responses(
        (status = 204, description = "It is gone, or cut off and going"),
        (status = 404, description = "There is no such pod"),
    ),
)]
pub(super) async fn rm(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    how: Result<Query<PodRemoval>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let (Path(name), Query(how)) = (name?, how?);
    if how.wait {
        app.agent.pod_rm(&name).await?;
    } else {
        app.agent.pod_rm_early(&name).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
