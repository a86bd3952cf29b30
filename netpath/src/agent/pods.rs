//! Adding and removing pods.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedMutexGuard, OwnedRwLockReadGuard},
    time::timeout,
};

use super::{
    Agent, AgentError, lock,
    registry::Entry,
    wanted::{Wanted, parse_mode},
};
use crate::{
    api::types::{PodAdd, PodSet},
    model::{Pod, PodState},
    net::Undo,
};

/// How long a change waits for another one of the same pod, whose namespace may not answer.
const BUSY: Duration = Duration::from_secs(30);

impl Agent {
    /// Adds a pod: addresses, namespace, link, programs, endpoint. Any step that fails undoes those before it; a crash
    /// in the middle is undone by the next start. Cancelling it cancels the waiting, not the work.
    ///
    /// # Errors
    /// The step that failed, and why; nothing is left then.
    pub async fn pod_add(self: &Arc<Self>, request: &PodAdd) -> Result<Pod, AgentError> {
        let change = self.begin_change().await?;
        let wanted = Wanted::check(request, &self.config())?;
        let agent = Arc::clone(self);
        // On a task of its own: a client that hangs up in the middle must not leave half a pod.
        finish(tokio::spawn(async move {
            let _change = change;
            agent.add(wanted).await
        }))
        .await
    }

    /// Changes a pod at run time; what it sends next follows it, flows that are translated stay so.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], [`AgentError::PodBusy`], or the store's; nothing has changed then.
    pub async fn pod_set(self: &Arc<Self>, name: &str, request: &PodSet) -> Result<(), AgentError> {
        let change = self.begin_change().await?;
        let entry = lock(&self.registry).pod(name)?.clone();
        let masquerade = request.no_masquerade.map(|never| !never);
        let mode = request.mode.as_deref().map(parse_mode).transpose();
        let mode = mode.map_err(|reason| AgentError::Invalid { pod: name.to_owned(), reason })?;
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
            let pod = Pod { masquerade, mode, publications, ..there.pod.clone() };
            agent.save_settings(&there.pod, &pod).await?;
            // What fails is noted, and every full pass tries again.
            agent.ensure_held(&there).await;
            if pod.publications != there.pod.publications {
                agent.note("table of published ports", &agent.republish(&there.pod, &pod).await);
            }
            tracing::info!(pod = %pod.name, "pod changed");
            Ok(())
        }))
        .await
    }

    /// Removes a pod with its flows. Idempotent up to the end: what fails in the middle is tried again by every full
    /// pass, and by asking again.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], [`AgentError::PodBusy`], or the step that failed.
    pub async fn pod_rm(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let change = self.begin_change().await?;
        let entry = lock(&self.registry).pod(name)?.clone();
        let agent = Arc::clone(self);
        finish(tokio::spawn(async move {
            let _change = change;
            let _gate = gate_of(&entry).await?;
            let outcome = agent.remove(&entry).await;
            if !matches!(outcome, Err(AgentError::NoPod(_))) {
                agent.tried(&object(&entry.pod), &outcome);
            }
            outcome
        }))
        .await
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

    async fn add(self: &Arc<Self>, wanted: Wanted) -> Result<Pod, AgentError> {
        if wanted.owns_netns && wanted.netns.symlink_metadata().is_ok() {
            // Unless it is that of a pod here, which the registry tells better.
            lock(&self.registry).pod(wanted.name.as_str()).map_or(Ok(()), |entry| match entry.pod.state {
                PodState::Ready => Err(AgentError::PodExists(wanted.name.to_string())),
                _ => Err(AgentError::PodBusy(wanted.name.to_string())),
            })?;
            return Err(AgentError::NetnsExists { pod: wanted.name.to_string(), path: wanted.netns });
        }
        self.check_allowed(&wanted)?;
        self.check_sockets(wanted.name.as_str(), &wanted.publications).await?;
        let id = self.state.next_id().await?;
        let (entry, _held) = lock(&self.registry).reserve(wanted, id, self.config().instance.name())?;
        let pod = entry.pod;
        if let Err(error) = self.state.create(&pod).await {
            lock(&self.registry).forget(&pod);
            return Err(error);
        }
        let ready = Pod { state: PodState::Ready, ..pod.clone() };
        let mut undo = Undo::new();
        let built = match self.build(&pod, &mut undo).await {
            Ok(()) => self.state.save(&ready).await,
            Err(error) => Err(error),
        };
        let Err(error) = built else {
            undo.commit();
            lock(&self.registry).set_state(&pod, PodState::Ready);
            if !pod.publications.is_empty() {
                self.note("table of published ports", &self.follow_published().await);
            }
            tracing::info!(pod = %pod.name, "pod added");
            return Ok(ready);
        };
        // What cannot be undone stays written down as being made, and every full pass tries again.
        match undo.rollback().await {
            Ok(()) => self.state.remove(&pod).await?,
            Err(left) => return Err(AgentError::Left { cause: Box::new(error), left }),
        }
        lock(&self.registry).forget(&pod);
        Err(error)
    }

    /// Takes a pod apart and forgets it. The caller holds its gate.
    pub(super) async fn remove(&self, earlier: &Entry) -> Result<(), AgentError> {
        let entry = lock(&self.registry).same(earlier).cloned();
        // Another request was first, and perhaps a third has made a new pod of this name.
        let entry = entry.ok_or_else(|| AgentError::NoPod(earlier.pod.name.to_string()))?;
        let entry = Entry { pod: Pod { state: PodState::Removing, ..entry.pod }, ..entry };
        let pod = &entry.pod;
        self.state.save(pod).await?;
        lock(&self.registry).set_state(pod, PodState::Removing);
        if !pod.publications.is_empty() {
            self.follow_published().await?;
        }
        self.dismantle(&entry).await?;
        self.state.remove(pod).await?;
        lock(&self.registry).forget(pod);
        tracing::info!(pod = %pod.name, "pod removed");
        Ok(())
    }
}

/// What a pod is called among the problems.
pub(super) fn object(pod: &Pod) -> String {
    format!("pod {}", pod.name)
}

async fn gate_of(entry: &Entry) -> Result<OwnedMutexGuard<()>, AgentError> {
    let gate = timeout(BUSY, Arc::clone(&entry.gate).lock_owned()).await;
    gate.map_err(|_| AgentError::PodBusy(entry.pod.name.to_string()))
}

/// Waits for a task; a panic in it is the caller's.
pub(super) async fn finish<T: Send + 'static>(
    task: tokio::task::JoinHandle<Result<T, AgentError>>,
) -> Result<T, AgentError> {
    match task.await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            Err(_) => Err(AgentError::Ending),
        },
    }
}
