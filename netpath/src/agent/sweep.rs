//! What becomes of flows: sweeps, what pods may open after them, and bindings whose address is gone.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use netpath_common::abi::{Flow, FlowKey, Rewrite};

use super::{Agent, AgentError, lock, node::Seen, notify::Loop, problems::Turn};
use crate::{
    datapath::{CROWDED, Datapath, DatapathError, Rules, Swept, WELL, is_crowded, monotonic_ns},
    model::Family,
};

/// Time between sweeps of the flow table: the shortest, and the longest for as large a table as may be. A limit that no
/// sweep renews holds for a minute.
pub(super) const SWEEP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The same if the last sweep found more than three quarters of the table in use: a flood may fill the rest in seconds.
const HURRIED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// A sweep is followed by so many times its own time: reading an entry takes the kernel a third of a microsecond, and
/// half a million flows are not to take more than a fortieth of a core.
const REST: u32 = 40;
const HURRIED_REST: u32 = 4;
/// How long flows wait for an address that has gone; the next pass after it ends them.
const COMES_BACK: Duration = Duration::from_secs(5);
/// What is said of a crowded table, named after the setting that cures it.
const CROWDING: &str = "flows.capacity";

impl Agent {
    /// Sweeps the flow table until the agent ends.
    pub(super) async fn sweep_loop(self: Arc<Self>) {
        let mut ending = self.ending.subscribe();
        loop {
            self.note("flow table", &self.sweep().await);
            self.progress.step(Loop::Sweep);
            let rest = rest(&lock(&self.swept), self.flow_entries);
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    }

    /// Removes what has expired, and tells the programs how many flows each pod may open until the next sweep.
    pub(super) async fn sweep(self: &Arc<Self>) -> Result<(), AgentError> {
        let pods: Vec<(u32, u32)> =
            lock(&self.registry).pods().map(|entry| (entry.pod.id, entry.pod.slot)).collect();
        let slots: Vec<u32> = pods.iter().map(|(_, slot)| *slot).collect();
        // Before the sweep: what is opened meanwhile counts against the pod, found by the sweep or not.
        let opened = self.on_datapath(move |datapath| datapath.opened_by(slots)).await?;
        let config = self.config();
        // What the programs go by now: not in the middle of telling them another range.
        let ports = {
            let _told = self.node_changes.lock().await;
            lock(&self.node).ranges.chosen.clone().unwrap_or(config.snat_ports.clone())
        };
        let rules = Rules { timeouts: config.timeouts, snat_ports: ports.clone(), now: monotonic_ns() };
        let swept = self.on_flows(move |flows| flows.sweep_by(&rules)).await?;
        tracing::debug!(
            kept = swept.kept,
            expired = swept.expired,
            relieved = swept.relieved,
            orphans = swept.orphans,
            slices = swept.slices,
            cpu_us = swept.cpu_ns / 1000,
            longest_slice_us = swept.longest_ns / 1000,
            "flow table swept"
        );
        if lock(&self.node).ranges.settle(&ports, swept.strays.as_ref()) {
            self.reloaded.notify_one();
        }
        let was = lock(&self.problems).turn(CROWDING) != Turn::Well;
        self.note(CROWDING, &room(is_crowded(swept.entries, self.flow_entries, was)));
        let ceilings = ceilings(&pods, &opened, &swept, self.flows_per_pod());
        self.metrics.swept(&swept);
        *lock(&self.swept) = swept;
        let agent = Arc::clone(self);
        let write = move |datapath: &mut Datapath| {
            let now = monotonic_ns();
            // A pod that is gone may have left its slot to another.
            let still: BTreeSet<u32> = lock(&agent.registry).pods().map(|entry| entry.pod.id).collect();
            let here = ceilings.into_iter().filter(|limit| still.contains(&limit.pod));
            here.into_iter().try_for_each(|limit| datapath.limit_pod(limit.slot, limit.ceiling, now))
        };
        Ok(self.on_datapath(write).await?)
    }

    /// Flows that one pod may have.
    pub(super) fn flows_per_pod(&self) -> u64 {
        // A quarter of what fits: three such pods leave the others room.
        let quarter = self.flow_entries / 2 / 4;
        u64::from(self.config().flows_per_pod.unwrap_or(quarter).max(1))
    }

    /// Ends the flows whose translated address is the node's no more, or no longer in the pool: their next packets get
    /// another one, where the answers to the old one come nowhere. And those by a published port of such an address. Looks
    /// only if an address may have gone.
    pub(super) async fn drop_lost_bindings(&self, seen: &Seen) -> Result<(), AgentError> {
        let own = seen.surroundings().addresses.into_iter().collect();
        // As the programs have been told: the configuration may have changed since.
        let mut carried = Carried { sources: lock(&self.node).sources.clone(), own };
        let checked = lock(&self.node).bound_to.clone();
        if let Some(checked) = &checked {
            let awaited = self.awaited(seen, checked, &carried);
            carried.sources.extend(awaited.sources);
            carried.own.extend(awaited.own);
        }
        if checked.is_some_and(|checked| checked.is_in(&carried)) {
            lock(&self.node).bound_to = Some(carried);
            return Ok(());
        }
        let here = carried.clone();
        let is_lost = move |key: &FlowKey, flow: &Flow| {
            let address = flow.addr.to_ip();
            // The node's own keep the node's own address, of the pool or not.
            let stays = here.sources.contains(&address) || (flow.pod == 0 && here.own.contains(&address));
            match flow.rewrite {
                rewrite if rewrite == Rewrite::Source as u8 => !stays,
                // By a published port of an address that is gone.
                rewrite if rewrite == Rewrite::Destination as u8 => !here.own.contains(&key.dst.to_ip()),
                _ => false,
            }
        };
        let removed = self.on_flows(move |flows| flows.remove_if(is_lost)).await?;
        if removed > 0 {
            tracing::info!(flows = removed, addresses = %list(&carried.sources), "ended flows of an address that is gone");
        }
        lock(&self.node).bound_to = Some(carried);
        Ok(())
    }
}

/// Addresses that flows may have.
#[derive(Clone, Default)]
pub(super) struct Carried {
    /// Those that bindings may have.
    sources: BTreeSet<IpAddr>,
    /// The node's, which ports are published on.
    own: BTreeSet<IpAddr>,
}

impl Carried {
    fn is_in(&self, other: &Self) -> bool {
        self.sources.is_subset(&other.sources) && self.own.is_subset(&other.own)
    }
}

impl Agent {
    /// Addresses that have gone and may come back: an uplink that is made again has the same ones, usually. For a while, and
    /// only as long as no uplink has another of the family: until then no packet leaves whatever becomes of the flows.
    fn awaited(&self, seen: &Seen, before: &Carried, now: &Carried) -> Carried {
        let has = |family| {
            let mut all = seen.uplinks.iter().flat_map(|uplink| &uplink.addresses);
            all.any(|address| Family::of(*address) == family)
        };
        let gone = |before: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>| {
            let gone = before.difference(now).copied();
            gone.filter(|address| !has(Family::of(*address))).collect::<BTreeSet<_>>()
        };
        let gone = Carried { sources: gone(&before.sources, &now.sources), own: gone(&before.own, &now.own) };
        let mut node = lock(&self.node);
        let any = !gone.sources.is_empty() || !gone.own.is_empty();
        let since = any.then(|| node.awaited_since.unwrap_or_else(Instant::now));
        node.awaited_since = since;
        if since.is_some_and(|since| since.elapsed() < COMES_BACK) { gone } else { Carried::default() }
    }
}

/// Lets a new pod open its flows at once, whatever the slot's last one opened.
pub(super) fn limit_new_pod(datapath: &mut Datapath, slot: u32, limit: u64) -> Result<(), DatapathError> {
    let opened = datapath.opened(slot)?;
    datapath.limit_pod(slot, opened.saturating_add(limit), monotonic_ns())
}

/// Time until the next sweep.
fn rest(swept: &Swept, capacity: u32) -> Duration {
    let hurried = swept.entries * 4 > u64::from(capacity) * 3;
    let (rest, (shortest, longest)) = if hurried { (HURRIED_REST, HURRIED) } else { (REST, SWEEP) };
    (Duration::from_nanos(swept.cpu_ns) * rest).clamp(shortest, longest)
}

/// What a crowded table means, and what to change.
fn room(crowded: bool) -> Result<(), String> {
    if !crowded {
        return Ok(());
    }
    Err(format!(
        "the flow table was more than {CROWDED} % full and has not been below {WELL} % since: flows that nobody answers are ended \
         early, and what is answered may leave no room for new ones (FlowTableFull); raise flows.capacity and restart the \
         agent (flows stay), or lower flows.per_pod if one pod opens too many (see 'netpath flow ls')"
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ceiling {
    pod: u32,
    slot: u32,
    ceiling: u64,
}

/// Until when each pod, given with its slot, may open flows.
fn ceilings(pods: &[(u32, u32)], opened: &HashMap<u32, u64>, swept: &Swept, limit: u64) -> Vec<Ceiling> {
    let of = |&(pod, slot): &(u32, u32)| {
        let (opened, alive) = (*opened.get(&slot)?, swept.of_pods.get(&pod).copied().unwrap_or(0));
        // Never below what has been opened: it comes to the same, and a lowered limit ends no flow.
        Some(Ceiling { pod, slot, ceiling: opened.saturating_add(limit.saturating_sub(alive)) })
    };
    pods.iter().filter_map(of).collect()
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ceiling(opened: u64, alive: u64, limit: u64) -> u64 {
        let swept = Swept { of_pods: [(7, alive), (8, 1)].into(), ..Swept::default() };
        let limits = ceilings(&[(7, 3), (9, 4)], &[(3, opened)].into(), &swept, limit);
        assert_eq!(limits.len(), 1, "of a slot that was not read nothing is known");
        assert_eq!((limits[0].pod, limits[0].slot), (7, 3));
        limits[0].ceiling
    }

    #[test]
    fn a_crowded_table_is_swept_sooner() {
        let rest = |entries, ms: u64| {
            rest(&Swept { entries, cpu_ns: ms * 1_000_000, ..Swept::default() }, 1000).as_millis()
        };
        assert_eq!((rest(750, 0), rest(750, 200), rest(750, 2000)), (5000, 8000, 30_000));
        assert_eq!((rest(751, 0), rest(1000, 500), rest(1000, 2000)), (1000, 2000, 5000));
    }

    #[test]
    fn the_problem_names_what_to_change() {
        assert_eq!(room(false), Ok(()));
        let problem = room(true).unwrap_err();
        assert!(problem.contains("flows.capacity") && problem.contains("flows.per_pod"), "{problem}");
    }

    proptest! {
        #[test]
        fn a_pod_may_open_what_its_limit_leaves(opened: u64, alive: u64, limit: u64) {
            let more = ceiling(opened, alive, limit) - opened;
            prop_assert!(more <= limit.saturating_sub(alive));
            prop_assert!(more == limit.saturating_sub(alive) || ceiling(opened, alive, limit) == u64::MAX);
        }
    }
}
