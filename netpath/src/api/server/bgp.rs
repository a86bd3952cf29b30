//! `/v1/bgp`.

use axum::{Json, extract::State};

use super::{Answer, App};
use crate::api::types::{BgpConfiguration, BgpSession};

/// Sessions of the node's BIRD, as it tells
#[utoipa::path(
    get, path = "/v1/bgp", tag = "bgp", operation_id = "listBgpSessions",
    responses(
        (status = 200, body = Vec<BgpSession>, description = "Configured ones first, then those with nodes"),
        (status = 404, description = "This node speaks no BGP"),
        (status = 503, description = "BIRD does not answer"),
    ),
)]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<BgpSession>> {
    Ok(Json(app.agent.bgp_sessions().await?))
}

/// What BIRD is told, without passwords
#[utoipa::path(
    get, path = "/v1/bgp/configuration", tag = "bgp", operation_id = "showBgpConfiguration",
    responses(
        (status = 200, body = BgpConfiguration, description = "The file and what is in it"),
        (status = 404, description = "This node speaks no BGP"),
    ),
)]
pub(super) async fn configuration(State(app): State<App>) -> Answer<BgpConfiguration> {
    Ok(Json(app.agent.bgp_configuration()?))
}
