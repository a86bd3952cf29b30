//! The level-triggered loop: whatever happened, make the kernel match the desired state. An object that fails is noted
//! and never stops the others.
//!
//! Announcements of netlink say when to look, and where; a slow pass over everything sees what nothing announces.

mod pods;

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, sleep_until};

use self::pods::has_turn;
use super::{Agent, AgentError, lock, node::Seen, notify::Loop, pods::object};
use crate::{
    datapath::Datapath,
    net::{Hints, NetError, Watch},
};

/// Time between the beginnings of full passes: what nothing announces is repaired within ten seconds, a pass on a busy node
/// included.
pub(super) const FULL_PASS: Duration = Duration::from_secs(7);
/// The longest time without a full pass.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Announcements come in flocks: what follows the first within this is looked at with it.
const GATHER: Duration = Duration::from_millis(50);
/// A look is followed by so many times its own time without one, and by no more than this: a node on which something
/// changes all the time costs about a fifth of a core while a look is short, and what is announced is repaired within two seconds.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Time between looks while announcements cannot be had.
const POLL: Duration = Duration::from_secs(1);

/// How much a pass does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    Full,
    /// Everything but the inside of most pods: each has its turn.
    Regular,
    /// The node, and pods whose link, routes or neighbours are not as they should be.
    Announced,
}

/// What the loop waits for.
struct Waiting {
    /// Absent while there is none to be had.
    watch: Option<Watch>,
    hints: Hints,
    /// When the next full pass is due.
    full: Instant,
}

impl Agent {
    /// Runs until the agent ends; a round that is under way comes to its end.
    pub(super) async fn reconcile_loop(self: Arc<Self>) {
        let mut ending = self.ending.subscribe();
        let mut ends = async || drop(ending.wait_for(|ending| *ending).await);
        // What happened before the subscription is there to be seen.
        let hints = Hints { node: true, ..Hints::default() };
        let mut waiting = Waiting { watch: None, hints, full: Instant::now() + FULL_PASS };
        loop {
            if waiting.watch.is_none() {
                let watch = Watch::open(&self.netns).await;
                self.note("netlink announcements", &watch.as_ref().map(drop));
                waiting.watch = watch.ok();
                let reaches_pods = waiting.watch.as_ref().is_some_and(Watch::reaches_pods);
                lock(&self.node).pods_announce = reaches_pods;
            }
            // A round is never left half done: what it has begun on a thread of its own would go on beside an uninstall.
            let reloaded = tokio::select! {
                reloaded = waiting.next(&self) => reloaded,
                () = ends() => return,
            };
            self.progress.step(Loop::Reconcile);
            let began = Instant::now();
            let hints = std::mem::take(&mut waiting.hints);
            if reloaded {
                lock(&self.problems).hurry(None);
            }
            let extent = match () {
                () if reloaded || hints.lost => Extent::Full,
                () if began >= waiting.full => Extent::Regular,
                () => Extent::Announced,
            };
            waiting.meanwhile(&self, self.round(extent, &hints)).await;
            if extent != Extent::Announced {
                // One that takes long is followed by as long without one, within reason.
                let took = began.elapsed();
                waiting.full = Instant::now() + took.max(FULL_PASS.saturating_sub(took)).min(LONGEST_PAUSE);
            }
            tracing::trace!(?extent, took_us = began.elapsed().as_micros() as u64, ?hints, "pass");
            let rest = sleep((began.elapsed() * REST).min(LONGEST_REST));
            tokio::select! {
                () = waiting.meanwhile(&self, rest) => {}
                () = ends() => return,
            }
        }
    }

    /// Looks at what may have changed, and makes right what is not.
    async fn round(self: &Arc<Self>, extent: Extent, hints: &Hints) {
        let (mut concerned, near) = self.concerned_by(hints);
        let node = extent != Extent::Announced || hints.node || near;
        let mut changed = extent != Extent::Announced || near;
        if node {
            let earlier = self.look_again().await;
            self.note("netlink", &earlier.as_ref().map(drop));
            if let Ok(earlier) = earlier {
                let mut state = lock(&self.node);
                // What a pass made right, and somebody broke again before it was looked at, looks as it did before that pass.
                changed |= earlier != state.seen || std::mem::take(&mut state.repaired);
                drop(state);
                concerned.extend(self.changed_pods(&earlier));
            }
        }
        let entries: Vec<_> = lock(&self.registry).pods().map(|entry| entry.pod.clone()).collect();
        for pod in entries.iter().filter(|pod| concerned.contains(&pod.id)) {
            lock(&self.problems).hurry(Some(&object(pod)));
        }
        if changed {
            self.pass_over(extent, &concerned).await;
        } else {
            self.ensure_pods(extent, &concerned).await;
        }
    }

    /// Pods that hints are about, and whether the node has to be looked at for them.
    fn concerned_by(&self, hints: &Hints) -> (HashSet<u32>, bool) {
        let (mut inside, mut near) = (HashSet::new(), HashSet::new());
        if *hints == (Hints { lost: hints.lost, node: hints.node, ..Hints::default() }) {
            return (inside, false);
        }
        let survey = Arc::clone(&lock(&self.node).seen.survey);
        for entry in lock(&self.registry).pods() {
            let is_inside = |ifindex: u32| {
                let number = survey.link(ifindex).and_then(|end| end.peer_netns);
                number.is_some_and(|number| hints.inside.contains(&number))
            };
            for (interface, ifindex) in entry.links() {
                if is_inside(ifindex) {
                    inside.insert(entry.pod.id);
                }
                let addressed =
                    || interface.all_addresses().any(|address| hints.addresses.contains(&address));
                if hints.links.contains(&ifindex) || addressed() {
                    near.insert(entry.pod.id);
                }
            }
        }
        let uplinks =
            lock(&self.node).seen.uplinks.iter().any(|uplink| hints.links.contains(&uplink.ifindex));
        let taken = survey.routes().any(|route| hints.replaced.contains(&route.prefix));
        let look = uplinks || taken || !near.is_empty();
        inside.extend(near);
        (inside, look)
    }

    /// Pods of whose host ends something has changed since an earlier look.
    fn changed_pods(&self, earlier: &Seen) -> Vec<u32> {
        let now = Arc::clone(&lock(&self.node).seen.survey);
        let registry = lock(&self.registry);
        let changed = registry
            .pods()
            .filter(|entry| entry.links().any(|(_, ifindex)| !earlier.survey.same_link(&now, ifindex)));
        changed.map(|entry| entry.pod.id).collect()
    }

    /// One pass over everything. What is left over is removed last, when what should be there is.
    pub(super) async fn pass(self: &Arc<Self>, extent: Extent) {
        self.pass_over(extent, &HashSet::new()).await;
    }

    async fn pass_over(self: &Arc<Self>, extent: Extent, concerned: &HashSet<u32>) {
        let begun = Instant::now();
        if extent == Extent::Regular {
            let mut node = lock(&self.node);
            node.turn = node.turn.wrapping_add(1);
        }
        let seen = self.ensure_node().await;
        if extent != Extent::Announced {
            self.note("deny list", &self.ensure_denied().await);
            self.note("table of published ports", &self.ensure_published().await);
        }
        // After the tables: no program makes another binding to an address that is gone.
        self.note("bindings", &self.drop_lost_bindings(&seen).await);
        self.ensure_pods(extent, concerned).await;
        if !*self.ending.borrow() {
            self.note("leftovers", &self.drop_leftovers(extent).await);
        }
        self.metrics.passed(extent, begun.elapsed());
    }

    /// Removes endpoints and links without a pod, and programs from what is neither a pod's interface nor an uplink.
    async fn drop_leftovers(self: &Arc<Self>, extent: Extent) -> Result<(), AgentError> {
        let (agent, turn) = (Arc::clone(self), self.turn(extent));
        // In this order: what a pod that is just being added has put into the tables, the registry has had before.
        let remove = move |datapath: &mut Datapath| {
            let (endpoints, links) = (datapath.endpoints()?, datapath.links()?);
            let registry = lock(&agent.registry);
            let known: HashSet<_> = registry.pods().flat_map(|entry| entry.pod.addresses()).collect();
            for (address, _) in endpoints.into_iter().filter(|(address, _)| !known.contains(address)) {
                datapath.remove_endpoint(address)?;
            }
            // Those of a pod that has its turn are looked at, as is its inside.
            let mut known: HashMap<u32, bool> = HashMap::new();
            for entry in registry.pods() {
                known.extend(entry.ifindexes.iter().map(|ifindex| (*ifindex, has_turn(turn, entry.pod.id))));
            }
            drop(registry);
            for (ifindex, _) in links.into_iter().filter(|(ifindex, _)| !known.contains_key(ifindex)) {
                datapath.remove_link(ifindex)?;
            }
            let uplinks = extent != Extent::Announced;
            if uplinks && datapath.check_endpoint_cache()? > 0 {
                tracing::warn!("somebody changed the cache of endpoints: it is right again");
            }
            let seen = lock(&agent.node).seen.clone();
            known.extend(seen.uplinks.iter().map(|uplink| (uplink.ifindex, uplinks)));
            known.extend(agent.tunnel(&seen).map(|device| (device.link.index, uplinks)));
            datapath.drop_others(|ifindex| known.get(&ifindex).copied())
        };
        Ok(self.on_datapath(remove).await?)
    }
}

impl Waiting {
    /// Waits for an announcement, the end of a pause or the next full pass; true if the configuration was read again.
    async fn next(&mut self, agent: &Agent) -> bool {
        if self.hints.is_empty() {
            let retry = lock(&agent.problems).next().unwrap_or(self.full);
            tokio::select! {
                told = told(&mut self.watch, &mut self.hints) => self.keep(agent, &told),
                () = agent.reloaded.notified() => return true,
                () = sleep_until(retry.min(self.full).into()) => return false,
            }
        }
        self.meanwhile(agent, sleep(GATHER)).await;
        false
    }

    /// Does something, and takes announcements down meanwhile: whoever changes anything in the kernel would be held up, with the
    /// one lock for links in his hands, while half of our buffer is full (`netlink_broadcast` lets others run first).
    async fn meanwhile<T>(&mut self, agent: &Agent, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let Some(watch) = &mut self.watch else { return work.await };
            tokio::select! {
                done = &mut work => return done,
                failed = watch.gather(&mut self.hints) => self.keep(agent, &Err(failed)),
            }
        }
    }

    /// Lets go of a subscription that failed: another one is made, and a look at everything.
    fn keep(&mut self, agent: &Agent, told: &Result<(), NetError>) {
        if told.is_err() {
            agent.note("netlink announcements", told);
            self.watch = None;
            self.hints.lost = true;
        }
    }
}

/// Waits until there is a hint; without a subscription, for a while.
async fn told(watch: &mut Option<Watch>, hints: &mut Hints) -> Result<(), NetError> {
    match watch {
        Some(watch) => watch.wait(hints).await,
        None => {
            sleep(POLL).await;
            hints.node = true;
            Ok(())
        }
    }
}
