//! The level-triggered loop: whatever happened, make the kernel match the desired state. An object that fails is noted
//! and never stops the others.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{Agent, AgentError, lock, pods::object, registry::Entry};
use crate::model::PodState;

/// Time between full passes: what nothing announces is repaired within it.
const FULL_PASS: Duration = Duration::from_secs(10);
/// Time between looks at what netlink tells, so that what changes there is repaired within two seconds. Three dumps
/// cost less than being woken by every change that the agent makes itself.
const LOOK: Duration = Duration::from_secs(1);

/// How much a pass does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    Full,
    /// The node, and pods whose link or routes have changed.
    Announced,
}

impl Agent {
    /// Runs until the agent ends.
    pub(super) async fn reconcile_loop(self: Arc<Self>) {
        let mut ending = self.ending.subscribe();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_full = Instant::now();
        loop {
            let reloaded = tokio::select! {
                _ = looks.tick() => false,
                () = self.reloaded.notified() => true,
                _ = ending.wait_for(|ending| *ending) => return,
            };
            let looked = self.look().await;
            self.note("netlink", &looked.as_ref().map(|_| ()));
            let full = reloaded || last_full.elapsed() >= FULL_PASS;
            let extent = if full { Extent::Full } else { Extent::Announced };
            // After a failed look nothing is known to have changed; a pass on what was seen before harms nobody.
            if extent == Extent::Full || looked.is_ok_and(|changed| changed) {
                self.pass(extent).await;
            }
            if extent == Extent::Full {
                last_full = Instant::now();
            }
        }
    }

    /// One pass over everything. What is left over is removed last, when what should be there is.
    pub(super) async fn pass(self: &Arc<Self>, extent: Extent) {
        let begun = Instant::now();
        let seen = self.ensure_node().await;
        // After the tables: no program makes another binding to an address that is gone.
        self.note("bindings", &self.drop_lost_bindings(&seen).await);
        let entries: Vec<Entry> = lock(&self.registry).pods().cloned().collect();
        for entry in entries {
            if *self.ending.borrow() {
                return;
            }
            self.ensure_pod(&entry, extent).await;
        }
        self.note("leftovers", &self.drop_leftovers().await);
        self.metrics.passed(extent, begun.elapsed());
    }

    /// Makes one pod's kernel state right, or finishes its removal.
    async fn ensure_pod(&self, entry: &Entry, extent: Extent) {
        // Whoever adds or removes it right now holds the gate and needs no help.
        let Ok(_gate) = entry.gate.try_lock() else { return };
        self.ensure_held(entry, extent).await;
    }

    /// The same for who holds the pod's gate.
    pub(super) async fn ensure_held(&self, entry: &Entry, extent: Extent) {
        let Some(entry) = lock(&self.registry).same(entry).cloned() else { return };
        let object = object(&entry.pod);
        let outcome = match entry.pod.state {
            PodState::Ready => {
                let well = !lock(&self.problems).contains_key(&object);
                if extent == Extent::Announced && well && self.is_as_announced(&entry) {
                    return;
                }
                self.repair_pod(&entry.pod).await
            }
            // Nobody holds the gate, so whoever made or removed it failed or died. Of one being made nobody was told
            // that it exists.
            PodState::Creating | PodState::Removing => {
                tracing::info!(pod = %entry.pod.name, "removing what an interrupted change left");
                self.remove(&entry).await
            }
        };
        self.note(&object, &outcome);
    }

    /// Whether what netlink announces of a pod's links is as it should be.
    fn is_as_announced(&self, entry: &Entry) -> bool {
        entry.links().all(|(interface, ifindex)| {
            let mtu = self.mtu(&entry.pod, interface);
            lock(&self.node).seen.has(interface, ifindex, mtu)
        })
    }

    /// Removes endpoints and links without a pod, and programs from what is neither a pod's interface nor an uplink.
    async fn drop_leftovers(self: &Arc<Self>) -> Result<(), AgentError> {
        let agent = Arc::clone(self);
        // In this order: what a pod that is just being added has put into the tables, the registry has had before.
        let attached = self
            .on_datapath(move |datapath| {
                let (endpoints, links) = (datapath.endpoints()?, datapath.links()?);
                let registry = lock(&agent.registry);
                let known: HashSet<_> = registry.pods().flat_map(|entry| entry.pod.addresses()).collect();
                for (address, _) in endpoints.into_iter().filter(|(address, _)| !known.contains(address)) {
                    datapath.remove_endpoint(address)?;
                }
                let known: HashSet<u32> = registry.pods().flat_map(|entry| entry.ifindexes.clone()).collect();
                for (ifindex, _) in links.into_iter().filter(|(ifindex, _)| !known.contains(ifindex)) {
                    datapath.remove_link(ifindex)?;
                }
                datapath.attachments()
            })
            .await?;
        let attached: HashSet<u32> = attached.iter().map(|attachment| attachment.ifindex).collect();
        let links = self.netlink.links().await?;
        let mut wanted: HashSet<u32> =
            lock(&self.registry).pods().flat_map(|entry| entry.ifindexes.clone()).collect();
        wanted.extend(lock(&self.node).seen.uplinks.iter().map(|uplink| uplink.ifindex));
        for ifindex in attached {
            match links.iter().find(|link| link.index == ifindex) {
                Some(_) if wanted.contains(&ifindex) => {}
                link => self.detach(link.map(|link| link.name.clone()), ifindex).await?,
            }
        }
        Ok(())
    }
}
