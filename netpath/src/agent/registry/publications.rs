//! Who has which port of the node.

use netpath_common::abi::MAX_PUBLISHED;

use super::{Entry, Registry};
use crate::{
    agent::AgentError,
    compile,
    model::{Family, Pod, PodState, Publication},
};

impl Registry {
    /// Takes over a pod's publications, if nobody else has them.
    pub(in crate::agent) fn set_publications(&mut self, pod: &Pod) -> Result<(), AgentError> {
        self.check_publications(pod)?;
        if let Some(entry) = self.pods.get_mut(pod.name.as_str()).filter(|entry| entry.pod.id == pod.id) {
            entry.pod.publications.clone_from(&pod.publications);
        }
        Ok(())
    }

    /// Whether any pod that is ready publishes ports.
    pub(in crate::agent) fn publishes(&self) -> bool {
        let ready = |entry: &&Entry| entry.pod.state == PodState::Ready;
        self.pods.values().filter(ready).any(|entry| !entry.pod.publications.is_empty())
    }

    /// Whether a pod can publish what it wants to: ports that no other pod has, but for another interface of the same container,
    /// whose engine asks for its ports on each of its networks; of families that it has, and room for them.
    pub(super) fn check_publications(&self, pod: &Pod) -> Result<(), AgentError> {
        if pod.publications.is_empty() {
            return Ok(());
        }
        let families: Vec<Family> = pod.interfaces[0].addresses.iter().copied().map(Family::of).collect();
        for (at, one) in pod.publications.iter().enumerate() {
            if !families.iter().any(|family| one.has(*family)) {
                let reason = format!("it has no address of the family that {one} is of");
                return Err(AgentError::Invalid { pod: pod.name.to_string(), reason });
            }
            let own = pod.publications[..at].iter().find(|own| own.overlaps(one)).map(|own| (own, pod));
            let others = self.pods.values().map(|entry| &entry.pod).filter(|other| other.id != pod.id);
            let taken = |other: &&Publication, by: &Pod| {
                other.overlaps(one)
                    && !(*other == one && container(by).is_some() && container(by) == container(pod))
            };
            let mut theirs = others.filter_map(|by| {
                by.publications.iter().find(|other| taken(other, by)).map(|other| (other, by))
            });
            if let Some((other, by)) = own.or_else(|| theirs.next()) {
                return Err(AgentError::PortInUse {
                    pod: pod.name.to_string(),
                    publication: one.to_string(),
                    who: format!("the pod '{}', which publishes {other}", by.name),
                    engines: super::of_engine(by).filter(|_| by.id != pod.id),
                });
            }
        }
        let others = self.pods.values().map(|entry| &entry.pod).filter(|other| other.id != pod.id);
        match compile::published(others.chain([pod])).len() {
            count if count > MAX_PUBLISHED as usize => Err(AgentError::TooManyPorts(MAX_PUBLISHED)),
            _ => Ok(()),
        }
    }
}

/// The container that a pod is an interface of.
pub(in crate::agent) fn container(pod: &Pod) -> Option<&str> {
    pod.attachment.as_ref().map(|own| own.container.as_str())
}
