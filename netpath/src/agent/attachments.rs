//! Pods of container engines, which know them by container, interface and network name, and not by a pod's name.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use super::{
    Agent, AgentError, blocking, lock,
    namespace::Site,
    pods::{BUSY, gate_of, object},
    registry::{Entry, container},
    wanted::{Wanted, of_request},
};
use crate::{
    api::types,
    model::{Attachment, Pod, PodState},
};

/// By attachment, what whoever adds or removes it holds; in it, when it was last removed.
pub(super) type Turns = HashMap<Attachment, Arc<Mutex<Option<Instant>>>>;

/// No request waits for its turn for as long as this: the API answers earlier.
const LATE: Duration = Duration::from_secs(120);

impl Agent {
    /// Pods that a container engine added, by name; of one of its networks, if one is named.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn attachments(&self, network: Option<&str>) -> Result<Vec<types::Pod>, AgentError> {
        let of = |entry: &&Entry| match &entry.pod.attachment {
            Some(own) => network.is_none_or(|network| network == own.network),
            None => false,
        };
        let entries = lock(&self.registry).pods().filter(of).cloned().collect();
        self.describe_pods(entries).await
    }

    /// Removes the pod that an engine knows as this; nothing happens if there is none.
    ///
    /// # Errors
    /// [`AgentError::PodBusy`], or the step that failed.
    pub async fn attachment_rm(self: &Arc<Self>, attachment: types::Attachment) -> Result<(), AgentError> {
        self.release(&of_request(attachment)).await
    }

    /// Looks whether the pod that an engine knows as this is in the kernel as it should be, and changes nothing.
    ///
    /// # Errors
    /// [`AgentError::NoAttachment`], [`AgentError::PodDown`] if it is not, or it cannot be looked at.
    pub async fn attachment_check(&self, attachment: types::Attachment) -> Result<types::Pod, AgentError> {
        let known = lock(&self.registry).attached(&of_request(attachment.clone())).cloned();
        let entry = known.ok_or(AgentError::NoAttachment {
            container: attachment.container,
            interface: attachment.interface,
        })?;
        // Whoever is at it brings it to what is asked for.
        let _gate = gate_of(&entry).await?;
        let down =
            |reason: &str| AgentError::PodDown { pod: entry.pod.name.to_string(), reason: reason.into() };
        let Some(entry) = lock(&self.registry).same(&entry).cloned() else {
            return Err(down("it has been removed"));
        };
        let survey = self.netlink.survey().await?;
        for (at, ifindex) in entry.ifindexes.iter().enumerate() {
            let link = self.pod_link(&entry.pod, at);
            let end = survey.link(*ifindex).cloned();
            let Some(end) = end.filter(|_| link.is_right_outside(*ifindex, &survey)) else {
                return Err(down("its link, neighbours or routes on the node are not as they were made"));
            };
            let netns = entry.pod.netns.clone();
            if !blocking(move || link.is_right_inside(&end, &netns)).await? {
                return Err(down("its interface, addresses or routes are not as they were made"));
            }
        }
        if self.lacks_datapath(&entry).await? {
            return Err(down("programs or table entries of it are missing"));
        }
        if self.lacks_published(&entry.pod).await? {
            return Err(down("ports that it publishes are missing in the tables, or lead elsewhere"));
        }
        self.describe_pods(vec![entry.clone()]).await?.pop().ok_or_else(|| down("it has been removed"))
    }

    /// Has an attachment for its caller alone, from before anything is known of it.
    pub(super) async fn hold(
        &self,
        attachment: &Attachment,
    ) -> Result<OwnedMutexGuard<Option<Instant>>, AgentError> {
        let held = timeout(BUSY, self.turn_of(attachment).lock_owned()).await;
        held.map_err(|_| AgentError::PodBusy(attachment.container.clone()))
    }

    /// The same if nobody else has it, nor changes its pod.
    pub(super) fn hold_now(&self, attachment: &Attachment) -> Option<OwnedMutexGuard<Option<Instant>>> {
        let held = self.turn_of(attachment).try_lock_owned().ok()?;
        let is_free = |entry: &Entry| entry.gate.try_lock().is_ok();
        lock(&self.registry).attached(attachment).is_none_or(is_free).then_some(held)
    }

    fn turn_of(&self, attachment: &Attachment) -> Arc<Mutex<Option<Instant>>> {
        let mut turns = lock(&self.turns);
        let is_recent = |removed: Option<Instant>| removed.is_some_and(|at| at.elapsed() < LATE);
        turns.retain(|_, turn| {
            turn.try_lock().is_ok_and(|removed| is_recent(*removed)) || Arc::strong_count(turn) > 1
        });
        Arc::clone(turns.entry(attachment.clone()).or_default())
    }

    /// The same for a request to add it, unless it came before one to remove it that has been answered: an engine that was
    /// killed, say, has let go of what its plugin had asked for.
    pub(super) async fn hold_to_add(
        self: &Arc<Self>,
        attachment: &Attachment,
        came: Instant,
    ) -> Result<OwnedMutexGuard<Option<Instant>>, AgentError> {
        let held = self.hold(attachment).await?;
        if held.is_some_and(|removed| removed > came) {
            return Err(AgentError::PodBusy(attachment.container.clone()));
        }
        self.take_up(attachment, &self.spooled(attachment)).await?;
        Ok(held)
    }

    async fn release(self: &Arc<Self>, attachment: &Attachment) -> Result<(), AgentError> {
        let mut held = self.hold(attachment).await?;
        self.release_held(attachment).await?;
        *held = Some(Instant::now());
        Ok(())
    }

    /// Removes the pod of an attachment that the caller holds.
    pub(super) async fn release_held(self: &Arc<Self>, attachment: &Attachment) -> Result<(), AgentError> {
        let known = lock(&self.registry).attached(attachment).map(|entry| entry.pod.name.to_string());
        match known {
            Some(name) => match self.pod_rm_early(&name).await {
                // Another request was first.
                Err(AgentError::NoPod(_)) => Ok(()),
                outcome => outcome,
            },
            None => Ok(()),
        }
    }

    /// The pod of an earlier request for the same attachment, put right, if it is what is wanted now. One that is not, such
    /// as of a container that was started again in a new namespace, is removed: its engine has forgotten it.
    pub(super) async fn attached_before(
        self: &Arc<Self>,
        wanted: &Wanted,
    ) -> Result<Option<Pod>, AgentError> {
        let Some(attachment) = &wanted.attachment else { return Ok(None) };
        let Some(entry) = lock(&self.registry).attached(attachment).cloned() else { return Ok(None) };
        let _gate = gate_of(&entry).await?;
        let Some(entry) = lock(&self.registry).same(&entry).cloned() else { return Ok(None) };
        let is_right = is_as_wanted(&entry.pod, wanted) && self.repair_pod(&entry).await.is_ok();
        let outcome = if is_right { Ok(()) } else { self.remove(&entry, None).await };
        // What was wrong with it is not wrong with the one that gets its name.
        self.tried(&object(&entry.pod), &outcome);
        outcome.map(|()| is_right.then_some(entry.pod))
    }

    /// Removes what the same container has in another namespace: a container has one, so that is of before it was started
    /// again, and its ports would be led there.
    pub(super) async fn leave_earlier_namespace(&self, wanted: &Wanted) -> Result<(), AgentError> {
        let is_earlier = |entry: &&Entry| {
            container(&entry.pod).is_some()
                && container(&entry.pod) == wanted.attachment.as_ref().map(|own| own.container.as_str())
                && Site::from(&entry.pod).is_apart_from(Site::from(wanted))
        };
        let earlier: Vec<Entry> = lock(&self.registry).pods().filter(is_earlier).cloned().collect();
        for entry in earlier {
            let _gate = gate_of(&entry).await?;
            match self.remove(&entry, None).await {
                Err(AgentError::NoPod(_)) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

/// An attachment as the store keeps it, for the API.
pub(super) fn to_api(attachment: Attachment) -> types::Attachment {
    let Attachment { container, interface, network } = attachment;
    types::Attachment { container, interface, network }
}

fn is_as_wanted(pod: &Pod, wanted: &Wanted) -> bool {
    let own = &pod.interfaces[0];
    pod.state == PodState::Ready
        && pod.netns == wanted.netns
        && own.network == wanted.networks[0]
        && wanted.addresses.iter().all(|address| own.addresses.contains(address))
        && wanted.mac.is_none_or(|mac| mac == own.mac)
        && wanted.publications == pod.publications
        && (wanted.ingress, wanted.egress) == (pod.ingress, pod.egress)
        && wanted.mtu == pod.mtu
}
