//! Adding and removing pods.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedMutexGuard, OwnedRwLockReadGuard, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Agent, AgentError, lock,
    namespace::look_at,
    registry::Entry,
    wanted::{Wanted, limit_of, parse_mode},
};
use crate::{
    api::types::{Bandwidth, PodAdd, PodSet},
    ipam::IpamError,
    model::{self, Pod, PodState},
    net::Undo,
};

/// How long a change waits for another one of the same pod, whose namespace may not answer.
pub(super) const BUSY: Duration = Duration::from_secs(30);

/// How often a pod whose network is full here claims a block that others have filled before it.
const CLAIMS: usize = 3;

impl Agent {
    /// Adds a pod: addresses, namespace, link, programs, endpoint. Any step that fails undoes those before it; a crash
    /// in the middle is undone by the next start. Cancelling it cancels the waiting, not the work.
    ///
    /// # Errors
    /// The step that failed, and why; nothing is left then.
    pub async fn pod_add(self: &Arc<Self>, request: &PodAdd) -> Result<Pod, AgentError> {
        self.pod_add_since(request, Instant::now()).await
    }

    /// The same for a request that came at that time, or later.
    ///
    /// # Errors
    /// As [`pod_add`](Self::pod_add); [`AgentError::PodBusy`] if its attachment has been removed since.
    pub async fn pod_add_since(self: &Arc<Self>, request: &PodAdd, came: Instant) -> Result<Pod, AgentError> {
        let wanted = Wanted::check(request, &self.config())?;
        let held = match &wanted.attachment {
            Some(attachment) => Some(self.hold_to_add(attachment, came).await?),
            None => None,
        };
        let change = self.begin_change().await?;
        self.check_member()?;
        self.stir();
        let agent = Arc::clone(self);
        // On a task of its own: a client that hangs up in the middle must not leave half a pod.
        finish(tokio::spawn(async move {
            let _held = (held, change);
            match agent.attached_before(&wanted).await? {
                Some(pod) => Ok(pod),
                None => agent.add(wanted).await,
            }
        }))
        .await
    }

    /// Changes a pod at run time; what it sends next follows it, flows that are translated stay so.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], [`AgentError::PodBusy`], or the store's; nothing has changed then. Or why the pod could not be
    /// made as it is to be: that is tried again.
    pub async fn pod_set(self: &Arc<Self>, name: &str, request: &PodSet) -> Result<(), AgentError> {
        let change = self.begin_change().await?;
        let entry = lock(&self.registry).pod(name)?.clone();
        if let Some(unattached) = &entry.pod.unattached {
            let reason = format!("with network '{unattached}' it has no interface of its own to change");
            return Err(AgentError::Invalid { pod: name.to_owned(), reason });
        }
        let masquerade = request.no_masquerade.map(|never| !never);
        let invalid = |reason| AgentError::Invalid { pod: name.to_owned(), reason };
        let mode = request.mode.as_deref().map(parse_mode).transpose().map_err(invalid)?;
        let limit = |wanted: &Option<Bandwidth>| wanted.as_ref().map(changed_limit).transpose();
        let ingress = limit(&request.ingress_bandwidth).map_err(invalid)?;
        let egress = limit(&request.egress_bandwidth).map_err(invalid)?;
        let (agent, request) = (Arc::clone(self), request.clone());
        finish(tokio::spawn(async move {
            let _change = change;
            let _gate = gate_of(&entry).await?;
            let there = lock(&agent.registry).same(&entry).cloned();
            let there = there.ok_or_else(|| AgentError::NoPod(entry.pod.name.to_string()))?;
            if there.pod.state != PodState::Ready {
                return Err(AgentError::PodBusy(there.pod.name.to_string()));
            }
            let masquerade = masquerade.unwrap_or(there.pod.masquerade);
            let publications = agent.changed_publications(&there.pod, &request).await?;
            let mode = mode.or(there.pod.mode);
            let (ingress, egress) =
                (ingress.unwrap_or(there.pod.ingress), egress.unwrap_or(there.pod.egress));
            let taken_off = |before: Option<_>, now: Option<_>| before.is_some() && now.is_none();
            let fewer = taken_off(there.pod.ingress, ingress) || taken_off(there.pod.egress, egress);
            let stale_queues = there.pod.stale_queues || fewer;
            let pod =
                Pod { masquerade, mode, publications, ingress, egress, stale_queues, ..there.pod.clone() };
            agent.save_settings(&there.pod, &pod).await?;
            let mut outcome = agent.ensure_held(&there).await;
            if pod.publications != there.pod.publications {
                let republished = agent.republish(&there.pod, &pod).await;
                agent.note("table of published ports", &republished);
                outcome = outcome.and(republished);
            }
            tracing::info!(pod = %pod.name, "pod changed");
            outcome
        }))
        .await
    }

    /// Removes a pod with its flows. Idempotent up to the end: what fails in the middle is tried again by every full
    /// pass, and by asking again.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], [`AgentError::PodBusy`], or the step that failed.
    pub async fn pod_rm(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        finish(self.begin_removal(name).await?.1).await
    }

    /// The same, but only waits until the pod is cut off and its removal written down: its link and namespace go by themselves,
    /// whatever becomes of this agent, and who wants its name or addresses meanwhile waits for that.
    ///
    /// # Errors
    /// As [`pod_rm`](Self::pod_rm), up to then.
    pub async fn pod_rm_early(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let (cut_off, removal) = self.begin_removal(name).await?;
        if cut_off.await.is_ok() { Ok(()) } else { finish(removal).await }
    }

    /// Begins to remove a pod; tells when it is cut off, and when it is gone.
    async fn begin_removal(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<(oneshot::Receiver<()>, JoinHandle<Result<(), AgentError>>), AgentError> {
        let change = self.begin_change().await?;
        self.stir();
        let entry = lock(&self.registry).pod(name)?.clone();
        let agent = Arc::clone(self);
        let (tell, cut_off) = oneshot::channel();
        let removal = tokio::spawn(async move {
            let _change = change;
            let _gate = gate_of(&entry).await?;
            lock(&agent.registry).check_unshared(&entry.pod)?;
            let outcome = agent.remove(&entry, Some(tell)).await;
            if !matches!(outcome, Err(AgentError::NoPod(_))) {
                agent.tried(&object(&entry.pod), &outcome);
            }
            outcome
        });
        Ok((cut_off, removal))
    }

    pub(super) async fn begin_change(&self) -> Result<OwnedRwLockReadGuard<()>, AgentError> {
        let change = Arc::clone(&self.changes).read_owned().await;
        if *self.ending.borrow() { Err(AgentError::Ending) } else { Ok(change) }
    }

    /// Whether the node itself has none of the addresses that a pod is to be allowed.
    fn check_allowed(&self, wanted: &Wanted) -> Result<(), AgentError> {
        let node = lock(&self.node);
        match wanted.allowed.iter().find_map(|address| node.seen.conflict((*address).into())) {
            Some(conflict) => Err(AgentError::Invalid {
                pod: wanted.name.to_string(),
                reason: format!("it cannot be allowed {conflict}; choose another address"),
            }),
            None => Ok(()),
        }
    }

    /// Waits for pods that are just being removed, if they have any of what is wanted. Returns whether there were some.
    async fn await_leaving(&self, wanted: Option<&Wanted>) -> bool {
        let gates = lock(&self.registry).leaving(wanted);
        let any = !gates.is_empty();
        let gone = async {
            for gate in gates {
                drop(gate.lock().await);
            }
        };
        timeout(BUSY, gone).await.is_ok() && any
    }

    /// Takes what a new pod needs; what there is none of, somebody who is just going may leave.
    async fn reserve(&self, wanted: Wanted, id: u32) -> Result<(Entry, OwnedMutexGuard<()>), AgentError> {
        let instance = self.config().instance.name().to_owned();
        let outcome = lock(&self.registry).reserve(wanted.clone(), id, &instance);
        let outcome = match outcome {
            Err(AgentError::Ipam(IpamError::Exhausted { .. }) | AgentError::TooManyPods(_))
                if self.await_leaving(None).await =>
            {
                lock(&self.registry).reserve(wanted.clone(), id, &instance)
            }
            outcome => outcome,
        };
        match outcome {
            Err(AgentError::Ipam(IpamError::Exhausted { .. }) | AgentError::NoBlock(_)) => {
                // Another one may have it first.
                for _ in 0..CLAIMS {
                    self.claim_room(&wanted.networks).await?;
                    match lock(&self.registry).reserve(wanted.clone(), id, &instance) {
                        Err(AgentError::Ipam(IpamError::Exhausted { .. })) => {}
                        outcome => return outcome,
                    }
                }
                outcome
            }
            outcome => outcome,
        }
    }

    async fn add(self: &Arc<Self>, mut wanted: Wanted) -> Result<Pod, AgentError> {
        if !wanted.owns_netns {
            look_at(&mut wanted).await?;
        }
        self.await_leaving(Some(&wanted)).await;
        if wanted.owns_netns && wanted.netns.symlink_metadata().is_ok() {
            // Unless it is that of a pod here, which the registry tells better.
            lock(&self.registry).pod(wanted.name.as_str()).map_or(Ok(()), |entry| match entry.pod.state {
                PodState::Ready => Err(AgentError::PodExists(wanted.name.to_string())),
                _ => Err(AgentError::PodBusy(wanted.name.to_string())),
            })?;
            return Err(AgentError::NetnsExists { pod: wanted.name.to_string(), path: wanted.netns });
        }
        self.check_allowed(&wanted)?;
        if wanted.attachment.is_some() {
            self.leave_earlier_namespace(&wanted).await?;
        }
        let container = wanted.attachment.as_ref().map(|own| own.container.as_str());
        self.check_sockets(wanted.name.as_str(), container, &wanted.publications).await?;
        let addresses = [&wanted.addresses[..], &wanted.allowed].concat();
        self.free_left_behind(&addresses, &wanted.publications).await?;
        let id = self.state.next_id().await?;
        let (entry, _held) = self.reserve(wanted, id).await?;
        let pod = entry.pod;
        if let Err(error) = self.state.create(&pod).await {
            lock(&self.registry).forget(&pod);
            return Err(error);
        }
        let mut undo = Undo::new();
        let built = match self.build(&pod, &mut undo).await {
            Ok(()) => self.finish_add(&pod).await,
            Err(error) => Err(error),
        };
        let built = match built {
            // Who is told that a port is published may rely on it.
            Ok(ready) if !pod.publications.is_empty() => self.follow_published().await.map(|()| ready),
            built => built,
        };
        match built {
            Ok(ready) => {
                undo.commit();
                tracing::info!(pod = %pod.name, "pod added");
                Ok(ready)
            }
            Err(error) => Err(self.take_back(&pod, undo, error).await),
        }
    }

    /// Undoes what was made of a pod that could not be added. Returns why it could not.
    async fn take_back(&self, pod: &Pod, undo: Undo, error: AgentError) -> AgentError {
        if !pod.publications.is_empty() {
            // It may have been ready, and in the table.
            lock(&self.registry).set_state(pod, PodState::Creating);
            self.note("table of published ports", &self.follow_published().await);
        }
        // What cannot be undone is written down as being made, and every full pass tries again.
        if let Err(left) = undo.rollback().await {
            self.note(&object(pod), &self.state.save(pod).await);
            return AgentError::Left { cause: Box::new(error), left };
        }
        if let Err(kept) = self.state.remove(pod).await {
            return kept;
        }
        lock(&self.registry).forget(pod);
        error
    }

    /// Writes down that a pod is whole, with what building it has noted.
    async fn finish_add(&self, pod: &Pod) -> Result<Pod, AgentError> {
        let built = lock(&self.registry).pod(pod.name.as_str())?.pod.clone();
        let ready = Pod { state: PodState::Ready, ..built };
        self.state.save(&ready).await?;
        lock(&self.registry).set_state(pod, PodState::Ready);
        self.stir();
        Ok(ready)
    }

    /// Takes a pod apart and forgets it; tells when it is cut off. The caller holds its gate.
    pub(super) async fn remove(
        &self,
        earlier: &Entry,
        cut_off: Option<oneshot::Sender<()>>,
    ) -> Result<(), AgentError> {
        let entry = lock(&self.registry).same(earlier).cloned();
        // Another request was first, and perhaps a third has made a new pod of this name.
        let entry = entry.ok_or_else(|| AgentError::NoPod(earlier.pod.name.to_string()))?;
        let entry = Entry { pod: Pod { state: PodState::Removing, ..entry.pod }, ..entry };
        let pod = &entry.pod;
        self.state.save(pod).await?;
        lock(&self.registry).set_state(pod, PodState::Removing);
        if !pod.publications.is_empty() {
            self.ensure_published().await?;
        }
        self.isolate(&entry).await?;
        // Nobody may wait for this.
        let _ = cut_off.map(|cut_off| cut_off.send(()));
        self.dismantle(&entry).await?;
        self.state.remove(pod).await?;
        lock(&self.registry).forget(pod);
        if !pod.publications.is_empty() {
            self.note("table of published ports", &self.follow_published().await);
        }
        self.stir();
        tracing::info!(pod = %pod.name, "pod removed");
        Ok(())
    }
}

/// What a limit becomes by a request; a rate of 0 takes it off.
fn changed_limit(wanted: &Bandwidth) -> Result<Option<model::Bandwidth>, String> {
    if wanted.rate == 0 { Ok(None) } else { limit_of(wanted).map(Some) }
}

/// What a pod is called among the problems.
pub(super) fn object(pod: &Pod) -> String {
    format!("pod {}", pod.name)
}

pub(super) async fn gate_of(entry: &Entry) -> Result<OwnedMutexGuard<()>, AgentError> {
    let gate = timeout(BUSY, Arc::clone(&entry.gate).lock_owned()).await;
    gate.map_err(|_| AgentError::PodBusy(entry.pod.name.to_string()))
}

/// Waits for a task; a panic in it is the caller's.
pub(super) async fn finish<T: Send + 'static>(
    task: JoinHandle<Result<T, AgentError>>,
) -> Result<T, AgentError> {
    match task.await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            Err(_) => Err(AgentError::Ending),
        },
    }
}
