//! Pods of container engines whose namespace is gone. Their engines may never ask for their removal, and nobody else could have
//! their addresses and ports.

use std::net::IpAddr;

use futures::{StreamExt as _, stream};

use super::{
    Agent, AgentError, blocking, lock,
    namespace::{boot, is_same},
    pods::{gate_of, object},
    registry::Entry,
};
use crate::{
    model::{Pod, PodState, Publication},
    net::Netns,
};

/// Pods that are removed at once.
const AT_ONCE: usize = 8;

impl Agent {
    /// Removes engines' pods of earlier boots: their namespaces went with those. podman asks for no removal of what a boot
    /// took, and a unit that makes its container anew comes with another container ID. One that cannot be removed is a problem
    /// of its own; what is written down as going is tried again by every full pass.
    pub(super) async fn drop_earlier_boots(&self) {
        let now = blocking(boot).await;
        self.note("number of this boot", &now.as_ref().map(drop));
        let Ok(now) = now else { return };
        let is_earlier = |entry: &&Entry| {
            entry.pod.attachment.is_some() && entry.pod.netns_id.as_ref().is_some_and(|id| id.boot != now)
        };
        let earlier: Vec<Entry> = lock(&self.registry).pods().filter(is_earlier).cloned().collect();
        let one = async |entry: Entry| {
            let outcome = self.remove_left_behind(&entry).await;
            self.tried(&object(&entry.pod), &outcome);
        };
        stream::iter(earlier).for_each_concurrent(AT_ONCE, one).await;
    }

    /// Removes engines' pods that have any of these addresses or publish any of these ports, if their namespace is gone or its
    /// file is another one's by now.
    ///
    /// # Errors
    /// [`AgentError::PodBusy`], or the step that failed.
    pub(super) async fn free_left_behind(
        &self,
        addresses: &[IpAddr],
        publications: &[Publication],
    ) -> Result<(), AgentError> {
        let has = |pod: &Pod| {
            pod.addresses().any(|own| addresses.contains(&own))
                || publications.iter().any(|one| pod.publications.iter().any(|own| own.overlaps(one)))
        };
        let of_engines = |entry: &&Entry| {
            entry.pod.attachment.is_some() && entry.pod.state == PodState::Ready && has(&entry.pod)
        };
        let holders: Vec<Entry> = lock(&self.registry).pods().filter(of_engines).cloned().collect();
        for entry in holders {
            // One of which that cannot be told keeps what it has.
            if is_left_behind(&entry.pod).await.unwrap_or(false) {
                self.remove_left_behind(&entry).await?;
            }
        }
        Ok(())
    }

    async fn remove_left_behind(&self, entry: &Entry) -> Result<(), AgentError> {
        let _gate = gate_of(entry).await?;
        let outcome = self.remove(entry, None).await;
        if !matches!(outcome, Err(AgentError::NoPod(_))) {
            // A pass may have told of the namespace just before.
            self.tried(&object(&entry.pod), &outcome);
        }
        match outcome {
            // Another request was first.
            Err(AgentError::NoPod(_)) => Ok(()),
            outcome => {
                outcome?;
                let netns = entry.pod.netns.display();
                tracing::info!(pod = %entry.pod.name, %netns, "its namespace was gone, and its engine had not removed it");
                self.metrics.left_behind();
                Ok(())
            }
        }
    }
}

/// Whether the namespace that a pod was added to is not at its file any more.
async fn is_left_behind(pod: &Pod) -> Result<bool, AgentError> {
    let path = pod.netns.clone();
    let found = blocking(move || if Netns::is_at(&path) { Netns::open(&path).map(Some) } else { Ok(None) });
    match found.await? {
        Some(netns) => Ok(!is_same(pod, &netns).await?),
        None => Ok(true),
    }
}
