//! Pods in the namespaces of others.

use super::{Entry, Registry};
use crate::{
    agent::{AgentError, namespace::Site, wanted::Wanted},
    model::{MAX_PLACES, Pod, PodState, Unattached},
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

    /// The number that a pod gets among those of its namespace. Only an engine's pods share one, each with an interface of
    /// its own name.
    pub(super) fn free_place(&self, wanted: &Wanted) -> Result<u8, AgentError> {
        let is_here = |entry: &&Entry| Site::from(&entry.pod).is(Site::from(wanted));
        let here = || self.pods.values().filter(is_here);
        let same = |entry: &&Entry| match &wanted.attachment {
            Some(own) => entry.pod.interfaces.iter().any(|one| one.name == own.interface),
            None => true,
        };
        let name = wanted.name.to_string();
        if let Some(other) = here().find(same) {
            let other = other.pod.name.to_string();
            return Err(AgentError::NetnsTaken { pod: name, other, path: wanted.netns.clone() });
        }
        // The first one's is never given again while there are others: one of them may have its default route.
        let first = u8::from(here().next().is_some());
        let free = (first..MAX_PLACES).find(|place| here().all(|entry| entry.pod.place != *place));
        let full = || AgentError::Invalid {
            pod: name,
            reason: format!("its namespace has {MAX_PLACES} pods already"),
        };
        free.ok_or_else(full)
    }
}
