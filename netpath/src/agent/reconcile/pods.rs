//! Which pods are not as they should be, and making them so: several at once, none of them waited for too long.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use netpath_common::abi::{Endpoint, Link};
use tokio::{sync::OwnedMutexGuard, time::timeout};

use super::{Agent, AgentError, Extent, lock, object};
use crate::{
    agent::{blocking, notify::Loop, problems::Turn, registry::Entry},
    compile,
    datapath::{AttachKind, Datapath},
    model::{Mode, Pod, PodState},
    net::{NetError, PodLink, Survey},
};

/// Pods that are seen to at once.
const AT_ONCE: usize = 8;
/// How long a pass waits for one of them; what takes longer goes on by itself.
const SLOW: Duration = Duration::from_secs(2);
/// A pod's namespace is looked at in every so many full passes where it announces what happens there, else in each.
const TURNS: u32 = 6;

/// What may be wrong with a pod besides what the node's namespace tells of it.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Its own namespace.
    inside: bool,
    /// Programs and tables.
    datapath: bool,
}

/// What the tables should hold of a pod.
struct Wanted {
    pod: u32,
    endpoints: Vec<(IpAddr, Endpoint)>,
    links: Vec<(u32, Link)>,
}

/// Whether a pod has its [`turn`](Agent::turn).
pub(super) fn has_turn(turn: Option<(u32, u32)>, pod: u32) -> bool {
    turn.is_none_or(|(turn, turns)| pod % turns == turn)
}

impl Agent {
    /// Makes pods right whose settings have changed, whatever is known of them, and waits for none too long.
    pub(in crate::agent) async fn ensure_changed(self: &Arc<Self>, entries: Vec<Entry>) {
        let survey = Arc::clone(&lock(&self.node).seen.survey);
        let one = async |entry: Entry| {
            // Whoever adds it right now may have read the settings of before. Whoever is at it for longer does not know them
            // either: the next full pass sees what is missing.
            if let Ok(gate) = timeout(SLOW, Arc::clone(&entry.gate).lock_owned()).await {
                self.see_to_in_time(entry, gate, None, &survey).await;
            }
        };
        stream::iter(entries).for_each_concurrent(AT_ONCE, one).await;
    }

    /// Makes right what of the pods is not; `concerned` are those to which something has happened.
    pub(in crate::agent) async fn ensure_pods(self: &Arc<Self>, extent: Extent, concerned: &HashSet<u32>) {
        let survey = Arc::clone(&lock(&self.node).seen.survey);
        self.find_host_ends(&survey);
        let entries: Vec<Entry> = lock(&self.registry).pods().cloned().collect();
        // What was found wrong with a pod may be told when it is gone.
        let names: HashSet<String> = entries.iter().map(|entry| object(&entry.pod)).collect();
        lock(&self.problems).forget(|name| name.starts_with("pod ") && !names.contains(name));
        let turn = self.turn(extent);
        let has_turn = |pod| has_turn(turn, pod);
        let wrong = match extent {
            Extent::Announced => Ok(HashSet::new()),
            _ => self.wrong_in_the_datapath(&entries, has_turn).await,
        };
        self.note("pods in the tables", &wrong.as_ref().map(drop));
        let wrong = wrong.unwrap_or_default();
        let doubt = |pod: &Pod| {
            let concerned = concerned.contains(&pod.id);
            // Nothing announces what becomes of a file.
            let by_file = pod.unattached.is_some() && extent != Extent::Announced;
            let inside = has_turn(pod.id) || concerned || by_file;
            // What is announced of a filter is not looked into.
            let unknown = concerned && self.attach.pods == AttachKind::Clsact;
            Doubt { inside, datapath: unknown || wrong.contains(&pod.id) }
        };
        let doubted = entries.into_iter().map(|entry| (doubt(&entry.pod), entry));
        // Most are well, and a thousand of them are not worth a thousand tasks.
        let pending: Vec<_> =
            doubted.filter(|(doubt, entry)| !self.is_well(entry, *doubt, &survey)).collect();
        stream::iter(pending)
            .for_each_concurrent(AT_ONCE, |(doubt, entry)| {
                let (agent, survey) = (Arc::clone(self), &survey);
                async move {
                    agent.ensure_pod(entry, doubt, survey).await;
                    agent.progress.step(Loop::Reconcile);
                }
            })
            .await;
    }

    /// Whose turn it is to have the inside looked at, out of how many; all if absent.
    pub(super) fn turn(&self, extent: Extent) -> Option<(u32, u32)> {
        let node = lock(&self.node);
        let turns = if node.pods_announce { TURNS } else { 1 };
        match extent {
            Extent::Full => None,
            Extent::Regular => Some((node.turn % turns, turns)),
            // No number is as large.
            Extent::Announced => Some((u32::MAX, turns)),
        }
    }

    /// Notes the host ends of pods of an earlier agent, so that they are not made again.
    fn find_host_ends(&self, survey: &Survey) {
        let lacking = |entry: &&Entry| entry.pod.state == PodState::Ready && entry.ifindexes.contains(&0);
        let entries: Vec<Entry> = lock(&self.registry).pods().filter(lacking).cloned().collect();
        if entries.is_empty() {
            return;
        }
        let by_name: HashMap<_, _> = survey.links().map(|end| (end.link.name.as_str(), end)).collect();
        for entry in &entries {
            for (at, link) in self.pod_links(entry).into_iter().enumerate() {
                let end = by_name.get(link.host_name.as_str()).filter(|end| link.is_host_end(end));
                if let Some(end) = end.filter(|_| entry.ifindexes[at] == 0) {
                    lock(&self.registry).set_ifindex(&entry.pod, at, end.link.index);
                }
            }
        }
    }

    fn pod_links(&self, entry: &Entry) -> Vec<PodLink> {
        (0..entry.pod.interfaces.len()).map(|at| self.pod_link(&entry.pod, at)).collect()
    }

    /// Whether programs or table entries of a pod are missing.
    pub(in crate::agent) async fn lacks_datapath(&self, entry: &Entry) -> Result<bool, AgentError> {
        Ok(!self.wrong_in_the_datapath(std::slice::from_ref(entry), |_| true).await?.is_empty())
    }

    /// Pods whose programs are not attached, or of which the tables hold something else: a few dumps for all of them.
    async fn wrong_in_the_datapath(
        &self,
        entries: &[Entry],
        has_turn: impl Fn(u32) -> bool,
    ) -> Result<HashSet<u32>, AgentError> {
        let ready = |entry: &&Entry| entry.pod.state == PodState::Ready && !entry.ifindexes.contains(&0);
        let entries: Vec<&Entry> = entries.iter().filter(ready).collect();
        let turns = |entry: &&Entry| {
            let turn = has_turn(entry.pod.id);
            entry.ifindexes.clone().into_iter().map(move |ifindex| (ifindex, turn))
        };
        let interfaces: Vec<(u32, bool)> = entries.iter().flat_map(turns).collect();
        let framed = entries.iter().filter(|entry| entry.frames);
        let framed: Vec<u32> = framed.flat_map(|entry| entry.ifindexes.clone()).collect();
        let wanted = entries.iter().map(|entry| self.wanted_of(entry)).collect::<Result<Vec<_>, _>>()?;
        let compare = move |datapath: &mut Datapath| {
            let endpoints: HashMap<IpAddr, Endpoint> = datapath.endpoints()?.into_iter().collect();
            let links: HashMap<u32, Link> = datapath.links()?.into_iter().collect();
            let mut bare = datapath.bare_pods(&interfaces)?;
            for ifindex in framed {
                if !datapath.has_frames(ifindex)? {
                    bare.insert(ifindex);
                }
            }
            let is_wrong = |wanted: &Wanted| {
                wanted.endpoints.iter().any(|(address, wanted)| endpoints.get(address) != Some(wanted))
                    || wanted
                        .links
                        .iter()
                        .any(|(ifindex, wanted)| links.get(ifindex) != Some(wanted) || bare.contains(ifindex))
            };
            Ok(wanted.iter().filter(|wanted| is_wrong(wanted)).map(|wanted| wanted.pod).collect())
        };
        self.on_datapath(compare).await
    }

    fn wanted_of(&self, entry: &Entry) -> Result<Wanted, AgentError> {
        let pod = &entry.pod;
        let mut wanted = Wanted { pod: pod.id, endpoints: Vec::new(), links: Vec::new() };
        for (interface, ifindex) in entry.links() {
            let endpoint = self.endpoint_of(pod, interface, ifindex)?;
            wanted.endpoints.extend(interface.all_addresses().map(|address| (address, endpoint)));
            wanted.links.push((ifindex, compile::link(pod, interface)));
        }
        Ok(wanted)
    }

    /// Makes one pod's kernel state right if it is not, or finishes its removal.
    async fn ensure_pod(self: &Arc<Self>, entry: Entry, doubt: Doubt, survey: &Survey) {
        // Whoever adds, changes or removes it right now holds the gate and needs no help.
        let Ok(gate) = Arc::clone(&entry.gate).try_lock_owned() else {
            return lock(&self.problems).put_off(&object(&entry.pod));
        };
        let Some(entry) = lock(&self.registry).same(&entry).cloned() else { return };
        if lock(&self.problems).turn(&object(&entry.pod)) == Turn::Later
            || self.is_well(&entry, doubt, survey)
        {
            return;
        }
        let right = self.is_well(&entry, Doubt { inside: false, datapath: false }, survey);
        self.see_to_in_time(entry, gate, right.then_some(doubt), survey).await;
    }

    /// Whether there is nothing to doubt of a pod, and the node's side of it is right.
    fn is_well(&self, entry: &Entry, doubt: Doubt, survey: &Survey) -> bool {
        let right = || {
            let links = self.pod_links(entry);
            links.iter().zip(&entry.ifindexes).all(|(link, ifindex)| link.is_right_outside(*ifindex, survey))
        };
        !doubt.inside
            && !doubt.datapath
            && entry.pod.state == PodState::Ready
            && !entry.pod.stale_queues
            && lock(&self.problems).turn(&object(&entry.pod)) == Turn::Well
            && right()
    }

    /// Waits for it no longer than [`SLOW`]; it goes on by itself.
    async fn see_to_in_time(
        self: &Arc<Self>,
        entry: Entry,
        gate: OwnedMutexGuard<()>,
        doubt: Option<Doubt>,
        survey: &Survey,
    ) {
        let (name, netns) = (object(&entry.pod), entry.pod.netns.clone());
        let work = self.see_to(entry, gate, doubt, survey);
        if timeout(SLOW, work).await.is_err() {
            let reason = format!(
                "seeing to it has taken more than {SLOW:?} and goes on; does its namespace {} answer?",
                netns.display()
            );
            self.tried(&name, &Err::<(), _>(reason));
        }
    }

    /// Does so on a task of its own, which keeps the gate until it is done. With a doubt it looks before it repairs.
    async fn see_to(
        self: &Arc<Self>,
        entry: Entry,
        gate: OwnedMutexGuard<()>,
        doubt: Option<Doubt>,
        survey: &Survey,
    ) {
        // The agent is ending.
        let Ok(change) = self.begin_change().await else { return };
        let ends = entry.ifindexes.iter().filter_map(|ifindex| survey.link(*ifindex).cloned());
        let inside: Vec<_> = self.pod_links(&entry).into_iter().zip(ends).collect();
        let by_xdp = entry.pod.offloads || self.mode_of(&entry.pod) == Mode::Xdp;
        let agent = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _held = (gate, change);
            let netns = entry.pod.netns.clone();
            let look = move || {
                let right = |(link, end): &(PodLink, _)| link.is_right_inside(end, &netns);
                inside.iter().try_fold(true, |all, one| Ok::<_, NetError>(all && right(one)?))
            };
            // What cannot be looked at is repaired, and that tells why.
            let right = match doubt {
                None => false,
                Some(doubt) if doubt.inside && entry.pod.unattached.is_some() => false,
                Some(doubt) => !doubt.inside || blocking(look).await.unwrap_or(false),
            };
            match doubt {
                Some(doubt) if right && !doubt.datapath && !by_xdp => {}
                Some(doubt) if right && !doubt.datapath => {
                    let outcome = agent.ensure_mode(&entry.pod).await;
                    agent.tried(&object(&entry.pod), &outcome);
                }
                Some(_) if right => {
                    let outcome = agent.ensure_all_datapath(&entry).await;
                    agent.tried(&object(&entry.pod), &outcome);
                }
                _ => drop(agent.ensure_held(&entry).await),
            }
        });
        // A panic in it has been told by whoever catches them all; the pod is seen to in the next pass.
        let _ = task.await;
    }

    async fn ensure_all_datapath(&self, entry: &Entry) -> Result<(), AgentError> {
        for (at, ifindex) in entry.ifindexes.iter().enumerate() {
            self.ensure_datapath(&entry.pod, at, *ifindex).await?;
        }
        self.ensure_mode(&entry.pod).await
    }

    /// Makes a pod's kernel state right whatever it is, or finishes its removal; what fails is noted as well. The caller holds
    /// the pod's gate.
    pub(in crate::agent) async fn ensure_held(&self, entry: &Entry) -> Result<(), AgentError> {
        let Some(entry) = lock(&self.registry).same(entry).cloned() else { return Ok(()) };
        let outcome = match entry.pod.state {
            PodState::Ready => self.repair_pod(&entry).await,
            // Nobody held the gate, so whoever made or removed it failed or died. Of one being made nobody was told
            // that it exists.
            PodState::Creating | PodState::Removing => {
                tracing::info!(pod = %entry.pod.name, "removing what an interrupted change left");
                self.remove(&entry, None).await
            }
        };
        self.tried(&object(&entry.pod), &outcome);
        outcome
    }
}
