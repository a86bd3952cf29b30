//! Who has which port of the node.

use netpath_common::abi::MAX_PUBLISHED;

use super::{Entry, Registry};
use crate::{
    agent::{AgentError, wanted::Wanted},
    compile,
    model::{Attachment, Family, Pod, PodState},
};

impl Registry {
    /// Leaves out of what is wanted what another interface of the same container publishes: engines ask for a container's
    /// ports on each of its networks.
    pub(in crate::agent) fn leave_to_siblings(&self, wanted: &mut Wanted) {
        let Some(own) = &wanted.attachment else { return };
        let is_sibling =
            |other: &&Attachment| other.container == own.container && other.interface != own.interface;
        let siblings: Vec<&Pod> = self
            .pods
            .values()
            .map(|entry| &entry.pod)
            .filter(|pod| pod.state != PodState::Removing)
            .filter(|pod| pod.attachment.as_ref().filter(is_sibling).is_some())
            .collect();
        wanted.publications.retain(|one| !siblings.iter().any(|pod| pod.publications.contains(one)));
    }

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

    /// Whether a pod can publish what it wants to: ports that no other pod has, of families that it has, and room for them.
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
            let own = pod.publications[..at].iter().find(|own| own.overlaps(one)).map(|own| (own, &pod.name));
            let others = self.pods.values().filter(|entry| entry.pod.id != pod.id);
            let mut theirs = others
                .flat_map(|entry| entry.pod.publications.iter().map(move |theirs| (theirs, &entry.pod.name)));
            if let Some((other, who)) = own.or_else(|| theirs.find(|(theirs, _)| theirs.overlaps(one))) {
                return Err(AgentError::PortInUse {
                    pod: pod.name.to_string(),
                    publication: one.to_string(),
                    who: format!("the pod '{who}', which publishes {other}"),
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
