//! How a pod is removed.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Query of `DELETE /v1/pods/{name}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct PodRemoval {
    /// Answer when everything is gone; else as soon as the pod is cut off, its flows have ended and its removal is written down.
    /// What is left then, the interface and the namespace that was made for it, goes some tens of milliseconds later.
    pub wait: bool,
}

impl Default for PodRemoval {
    fn default() -> Self {
        Self { wait: true }
    }
}
