//! Programs of pods that came by filters, so that nobody waits for them, go on by links, so that packets cost less: one after
//! the other, while no pod comes or goes (docs/UPGRADE.md).

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Agent, AgentError, blocking, lock, reconcile::FULL_PASS, registry::Entry};
use crate::{
    datapath::{AttachKind, Attachment, Settler},
    model::{Pod, PodState},
};

/// No pod has come or gone for so long: whoever adds several does not wait for the kernel's lock in between.
const QUIET: Duration = Duration::from_millis(300);

/// Held while a program is moved; what it guards is whether none is moved any more.
pub(super) type Settling = Arc<tokio::sync::Mutex<bool>>;

/// What the programs of a pod are called among the problems.
const PROGRAMS: &str = "programs of pod ";

impl Agent {
    /// Notes that a pod comes or goes.
    pub(super) fn stir(&self) {
        self.stirred.send_replace(Instant::now());
    }

    /// Has the next move for its caller, unless everything is being removed.
    pub(super) async fn may_settle(&self) -> Result<OwnedMutexGuard<bool>, AgentError> {
        let held = Arc::clone(&self.settling).lock_owned().await;
        if *held { Err(AgentError::Ending) } else { Ok(held) }
    }

    /// Waits for a move that is under way, however long the kernel takes, and lets none begin: it would pin a link behind
    /// whoever removes all.
    pub(super) async fn end_settling(&self) {
        *self.settling.lock().await = true;
    }

    /// Whether a program is still to be moved.
    pub(super) fn is_settling(&self, one: &Attachment) -> bool {
        // A link of `to_pod` from before, when tcx was asked for on pods, stays as it is.
        self.attach.settles && one.kind == Some(AttachKind::Clsact) && self.attach.is_unsettled(one)
    }

    /// Runs until the agent ends; a move that is under way comes to its end.
    pub(super) async fn settle_loop(self: Arc<Self>) {
        let mut ending = self.ending();
        tokio::select! {
            () = self.settle() => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }

    /// Ends at once if nothing is to be moved.
    async fn settle(self: &Arc<Self>) {
        let settler = self.on_datapath(|datapath| datapath.settler()).await;
        self.note("moving programs of pods to links", &settler.as_ref().map(drop));
        let Some(settler) = settler.ok().flatten().map(Arc::new) else { return };
        let mut stirred = self.stirred.subscribe();
        let mut pass = interval(FULL_PASS);
        pass.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What cannot be moved is tried again as often as everything is looked at.
        let mut failed = HashSet::new();
        loop {
            for entry in self.unsettled(&settler) {
                if !failed.contains(&entry.pod.id) {
                    self.quiet().await;
                    let began = Instant::now();
                    if self.settle_pod(&entry, &settler).await.is_err() {
                        failed.insert(entry.pod.id);
                    }
                    // As long for all others who want the kernel's lock.
                    sleep(began.elapsed()).await;
                }
            }
            tokio::select! {
                _ = pass.tick() => failed.clear(),
                _ = stirred.changed() => self.quiet().await,
            }
        }
    }

    /// Waits until no pod has come or gone for a while.
    async fn quiet(&self) {
        let rest = || QUIET.checked_sub(self.stirred.borrow().elapsed());
        while let Some(rest) = rest() {
            sleep(rest).await;
        }
    }

    /// Pods with an interface that is to have a link; what is known of others is well again.
    fn unsettled(&self, settler: &Settler) -> Vec<Entry> {
        let has_none = |ifindex: &u32| *ifindex != 0 && !settler.is_settled(*ifindex);
        let waits =
            |entry: &&Entry| entry.pod.state == PodState::Ready && entry.ifindexes.iter().any(has_none);
        let entries: Vec<Entry> = lock(&self.registry).pods().filter(waits).cloned().collect();
        let names: HashSet<String> = entries.iter().map(|entry| object(&entry.pod)).collect();
        lock(&self.problems).forget(|name| name.starts_with(PROGRAMS) && !names.contains(name));
        entries
    }

    /// Moves the programs of one pod, unless somebody is at it: then it has its turn later.
    async fn settle_pod(self: &Arc<Self>, entry: &Entry, settler: &Arc<Settler>) -> Result<(), AgentError> {
        let Ok(gate) = Arc::clone(&entry.gate).try_lock_owned() else { return Ok(()) };
        let change = self.begin_change().await?;
        let there = lock(&self.registry).same(entry).cloned();
        let Some(entry) = there.filter(|entry| entry.pod.state == PodState::Ready) else { return Ok(()) };
        let (agent, settler) = (Arc::clone(self), Arc::clone(settler));
        // On a task of its own, with what the agent's end waits for.
        let moving = tokio::spawn(async move {
            let _held = (gate, change);
            let mut outcome = Ok(());
            for ifindex in entry.ifindexes {
                if ifindex != 0 && !settler.is_settled(ifindex) {
                    outcome = outcome.and(agent.settle_interface(ifindex, &settler).await);
                }
            }
            agent.note(&object(&entry.pod), &outcome);
            outcome
        });
        moving.await.unwrap_or(Err(AgentError::Ending))
    }

    async fn settle_interface(&self, ifindex: u32, settler: &Arc<Settler>) -> Result<(), AgentError> {
        let (settler, held) = (Arc::clone(settler), self.may_settle().await?);
        let settle = move || {
            let _held = held;
            settler.settle(ifindex)
        };
        blocking(settle).await?;
        Ok(self.on_datapath(move |datapath| datapath.drop_filter(ifindex)).await?)
    }
}

fn object(pod: &Pod) -> String {
    format!("{PROGRAMS}{}", pod.name)
}
