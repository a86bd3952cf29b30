//! Pods in the namespaces of others.

use super::Registry;
use crate::{
    agent::{AgentError, wanted::Wanted},
    model::{Pod, PodState, Unattached},
};

impl Registry {
    /// Whose namespace a pod shares in the end.
    pub(super) fn resolve(&self, wanted: &Wanted) -> Result<Option<Unattached>, AgentError> {
        let Some(Unattached::Pod(other)) = &wanted.unattached else { return Ok(wanted.unattached.clone()) };
        let other = &self.pod(other.as_str())?.pod;
        match &other.unattached {
            _ if other.state != PodState::Ready => Err(AgentError::PodBusy(other.name.to_string())),
            _ if other.attachment.is_some() => Err(AgentError::Invalid {
                pod: wanted.name.to_string(),
                reason: format!("pod '{}' is a container engine's: ask that engine to share it", other.name),
            }),
            None | Some(Unattached::None) => Ok(wanted.unattached.clone()),
            shared => Ok(shared.clone()),
        }
    }

    /// Whether a pod can be removed: nobody else is in its namespace.
    pub(in crate::agent) fn check_unshared(&self, pod: &Pod) -> Result<(), AgentError> {
        let all = self.pods.values().map(|entry| &entry.pod);
        let sharing = all.filter(|one| one.shares() == Some(&pod.name) && one.state != PodState::Removing);
        match sharing.map(|one| one.name.to_string()).collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            by => Err(AgentError::NetnsShared { pod: pod.name.to_string(), by: by.join(", ") }),
        }
    }
}
