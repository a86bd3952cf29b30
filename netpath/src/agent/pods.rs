//! Adding and removing pods.

use std::sync::Arc;

use tokio::sync::OwnedRwLockReadGuard;

use super::{
    Agent, AgentError, blocking, lock,
    registry::{Entry, Wanted},
    sweep::limit_new_pod,
};
use crate::{
    api::types::PodAdd,
    compile,
    model::{Family, GATEWAY_MAC, Pod, PodState},
    net::{Netns, PodLink, Undo},
};

/// Name of a pod's interface inside the pod.
const POD_INTERFACE: &str = "eth0";

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

    /// Removes a pod with its flows. Idempotent up to the end: what fails in the middle is tried again by every full
    /// pass, and by asking again.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], or the step that failed.
    pub async fn pod_rm(self: &Arc<Self>, name: &str) -> Result<(), AgentError> {
        let change = self.begin_change().await?;
        let entry = lock(&self.registry).pod(name)?.clone();
        let agent = Arc::clone(self);
        finish(tokio::spawn(async move {
            let _change = change;
            let _gate = entry.gate.lock().await;
            let outcome = agent.remove(&entry).await;
            if !matches!(outcome, Err(AgentError::NoPod(_))) {
                agent.note(&object(&entry.pod), &outcome);
            }
            outcome
        }))
        .await
    }

    async fn begin_change(&self) -> Result<OwnedRwLockReadGuard<()>, AgentError> {
        let change = Arc::clone(&self.changes).read_owned().await;
        if *self.ending.borrow() { Err(AgentError::Ending) } else { Ok(change) }
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
            tracing::info!(pod = %pod.name, interface = pod.interface, "pod added");
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

    /// The kernel's side of a new pod.
    async fn build(self: &Arc<Self>, pod: &Pod, undo: &mut Undo) -> Result<(), AgentError> {
        let netns = if pod.owns_netns {
            let path = pod.netns.clone();
            let netns = blocking(move || Netns::create(&path)).await?;
            let path = pod.netns.clone();
            undo.push(format!("delete namespace {}", path.display()), move || async move {
                blocking(move || Netns::delete(&path)).await
            });
            netns
        } else {
            open_netns(pod).await?
        };
        let link = self.pod_link(pod);
        let ifindex = link.ensure(&self.netlink, &self.netns, &netns).await?;
        let netlink = self.netlink.clone();
        undo.push(
            format!("remove link {}", pod.interface),
            move || async move { link.remove(&netlink).await },
        );
        lock(&self.registry).set_ifindex(pod, ifindex);
        let (agent, gone) = (Arc::clone(self), pod.clone());
        undo.push(format!("detach programs from {}", pod.interface), move || async move {
            agent.forget_endpoints(&gone).await?;
            agent.detach(Some(gone.interface), ifindex).await
        });
        let (slot, limit) = (pod.slot, self.flows_per_pod());
        let prepare = move |datapath: &mut crate::datapath::Datapath| {
            datapath.clear_pod_counter(slot)?;
            limit_new_pod(datapath, slot, limit)
        };
        self.on_datapath(prepare).await?;
        self.ensure_datapath(pod, ifindex).await
    }

    /// Programs on a pod's interface and its endpoints. Idempotent.
    pub(super) async fn ensure_datapath(&self, pod: &Pod, ifindex: u32) -> Result<(), AgentError> {
        let network = lock(&self.registry).network(&pod.network)?;
        let endpoint = compile::endpoint(&network, pod, ifindex, self.mtu(pod.mtu));
        let link = compile::link(pod);
        let (interface, addresses) = (pod.interface.clone(), pod.addresses.clone());
        let write = move |datapath: &mut crate::datapath::Datapath| {
            // The endpoint first: programs without it take the pod for a stranger.
            datapath.set_link(ifindex, link)?;
            addresses.iter().try_for_each(|address| datapath.set_endpoint(*address, endpoint))?;
            datapath.attach_pod(&interface, ifindex)
        };
        Ok(self.on_datapath(write).await?)
    }

    async fn forget_endpoints(&self, pod: &Pod) -> Result<(), AgentError> {
        let addresses = pod.addresses.clone();
        let forget = move |datapath: &mut crate::datapath::Datapath| {
            addresses.iter().try_for_each(|address| datapath.remove_endpoint(*address))
        };
        Ok(self.on_datapath(forget).await?)
    }

    /// Takes our programs off an interface; `name` is absent if it is gone.
    pub(super) async fn detach(&self, name: Option<String>, ifindex: u32) -> Result<(), AgentError> {
        let detach = move |datapath: &mut crate::datapath::Datapath| {
            datapath.remove_link(ifindex)?;
            datapath.detach(name.as_deref(), ifindex)
        };
        Ok(self.on_datapath(detach).await?)
    }

    /// A pod's link as it should be.
    pub(super) fn pod_link(&self, pod: &Pod) -> PodLink {
        pod_link(pod, self.mtu(pod.mtu))
    }

    /// Takes a pod apart and forgets it. The caller holds its gate.
    pub(super) async fn remove(&self, earlier: &Entry) -> Result<(), AgentError> {
        let entry = lock(&self.registry).same(earlier).cloned();
        // Another request was first, and perhaps a third has made a new pod of this name.
        let entry = entry.ok_or_else(|| AgentError::NoPod(earlier.pod.name.to_string()))?;
        let pod = Pod { state: PodState::Removing, ..entry.pod };
        self.state.save(&pod).await?;
        lock(&self.registry).set_state(&pod, PodState::Removing);
        self.dismantle(&pod, entry.ifindex).await?;
        self.state.remove(&pod).await?;
        lock(&self.registry).forget(&pod);
        tracing::info!(pod = %pod.name, "pod removed");
        Ok(())
    }

    /// The kernel's side of a pod that goes: first nothing reaches it, then its flows end, then its link goes.
    async fn dismantle(&self, pod: &Pod, ifindex: u32) -> Result<(), AgentError> {
        self.forget_endpoints(pod).await?;
        let id = pod.id;
        self.on_flows(move |flows| flows.remove_of(id)).await?;
        let link = self.netlink.link(&pod.interface).await?;
        if let Some(link) = &link {
            self.detach(Some(pod.interface.clone()), link.index).await?;
        }
        if ifindex != 0 && link.is_none_or(|link| link.index != ifindex) {
            self.detach(None, ifindex).await?;
        }
        self.pod_link(pod).remove(&self.netlink).await?;
        lock(&self.registry).set_ifindex(pod, 0);
        if pod.owns_netns {
            let path = pod.netns.clone();
            blocking(move || Netns::delete(&path)).await?;
        }
        Ok(())
    }
}

/// A pod's link as it should be.
pub(super) fn pod_link(pod: &Pod, mtu: u32) -> PodLink {
    PodLink {
        host_name: pod.interface.clone(),
        host_mac: GATEWAY_MAC.0,
        pod_name: POD_INTERFACE.into(),
        pod_mac: pod.mac.0,
        mtu,
        addresses: pod.addresses.clone(),
        gateways: pod.addresses.iter().map(|address| Family::of(*address).gateway()).collect(),
    }
}

/// What a pod is called among the problems.
pub(super) fn object(pod: &Pod) -> String {
    format!("pod {}", pod.name)
}

/// Opens the namespace that a request named.
async fn open_netns(pod: &Pod) -> Result<Netns, AgentError> {
    let path = pod.netns.clone();
    let opened = blocking(move || Netns::open(&path)).await;
    opened.map_err(|error| AgentError::Invalid { pod: pod.name.to_string(), reason: error.to_string() })
}

/// Waits for a task; a panic in it is the caller's.
async fn finish<T>(task: tokio::task::JoinHandle<Result<T, AgentError>>) -> Result<T, AgentError> {
    match task.await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            Err(_) => Err(AgentError::Ending),
        },
    }
}
