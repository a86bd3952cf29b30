//! FLOWS from userspace: listing, expiry, removal.
//!
//! A walk takes a few microseconds an entry and shares nothing with the programs but the table itself: do it on a
//! blocking thread.

use std::{collections::HashMap as Collected, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use netpath_common::{
    abi::{Flow, FlowDirection, FlowKey, Rewrite},
    logic::flow_state::{FlowState, Half, lifetime, state},
};
use nix::time::{ClockId, clock_gettime};

use super::error::{DatapathError, kernel};

/// A handle on FLOWS of its own, so that a walk does not hold up the agent.
pub struct FlowTable {
    map: HashMap<MapData, FlowKey, Flow>,
    capacity: u32,
}

/// Both halves of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPair {
    /// Key of the original direction.
    pub key: FlowKey,
    /// The original direction.
    pub original: Flow,
    /// The reply direction, if it is there.
    pub reply: Option<Flow>,
}

impl FlowPair {
    /// State of the pair.
    pub fn state(&self) -> FlowState {
        let half = |flow: &Flow| Half { packets: flow.packets, tcp_seen: flow.tcp_seen };
        state(self.key.proto, half(&self.original), self.reply.as_ref().map(half).unwrap_or_default())
    }

    /// When a packet of either direction was last noted, CLOCK_MONOTONIC ns.
    pub fn last_seen(&self) -> u64 {
        self.original.last_seen.max(self.reply.map_or(0, |reply| reply.last_seen))
    }

    /// Whether its source is translated.
    pub fn is_translated(&self) -> bool {
        self.original.rewrite == Rewrite::Source as u8
    }

    fn expired(&self, now: u64) -> bool {
        now.saturating_sub(self.last_seen()) > lifetime(self.key.proto, self.state())
    }
}

/// What a sweep of FLOWS did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Pairs that stay.
    pub kept: u64,
    /// Pairs removed because they expired.
    pub expired: u64,
    /// Of those that stay, pairs with source translation.
    pub translated: u64,
}

/// CLOCK_MONOTONIC, ns: the clock of `Flow::last_seen`.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

impl FlowTable {
    pub(super) fn open(pin: &Path) -> Result<Self, DatapathError> {
        let doing = || format!("opening the flow table {}", pin.display());
        let capacity = MapInfo::from_pin(pin).map_err(kernel(doing()))?.max_entries();
        let data = MapData::from_pin(pin).map_err(kernel(doing()))?;
        let map = HashMap::try_from(Map::HashMap(data)).map_err(kernel(doing()))?;
        Ok(Self { map, capacity })
    }

    /// Entries that fit; a flow takes two.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// All flows. Entries that come and go meanwhile may be missed.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pairs(&self) -> Result<Vec<FlowPair>, DatapathError> {
        let halves = self.halves()?;
        let originals = halves.iter().filter(|(_, flow)| flow.direction == FlowDirection::Original as u8);
        Ok(originals
            .map(|(key, original)| FlowPair {
                key: *key,
                original: *original,
                reply: halves.get(&partner(key, original)).copied(),
            })
            .collect())
    }

    fn halves(&self) -> Result<Collected<FlowKey, Flow>, DatapathError> {
        let mut halves = Collected::new();
        // When the entry a walk stands on is removed, the kernel starts over: bounded, and each key kept once.
        for entry in self.map.iter().take(self.capacity as usize * 2) {
            match entry {
                Ok((key, flow)) => {
                    halves.insert(key, flow);
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(kernel("reading the flow table")(error)),
            }
        }
        Ok(halves)
    }

    /// Removes every pair that has been idle for longer than its lifetime. A pair is read again just before it is
    /// removed, so that one that has come back to life stays.
    ///
    /// # Errors
    /// The kernel's reason; pairs before it are removed.
    pub fn sweep(&mut self) -> Result<Swept, DatapathError> {
        let now = monotonic_ns();
        let halves = self.halves()?;
        let mut swept = Swept::default();
        for (key, flow) in &halves {
            let other = partner(key, flow);
            if flow.direction == FlowDirection::Reply as u8 {
                // A reply half alone: its original was removed between two looks of an earlier sweep.
                if !halves.contains_key(&other) && self.get(&other)?.is_none() && self.is_stale(key, now)? {
                    self.remove(key)?;
                }
                continue;
            }
            let pair = FlowPair { key: *key, original: *flow, reply: halves.get(&other).copied() };
            if pair.expired(now) && self.remove_if_expired(key, now)? {
                swept.expired += 1;
            } else {
                swept.kept += 1;
                swept.translated += u64::from(pair.is_translated());
            }
        }
        Ok(swept)
    }

    /// Removes every flow of one pod. Returns how many pairs.
    ///
    /// # Errors
    /// The kernel's reason; pairs before it are removed.
    pub fn remove_of(&mut self, pod: u32) -> Result<u64, DatapathError> {
        let mut pairs = 0;
        for (key, flow) in self.halves()?.into_iter().filter(|(_, flow)| flow.pod == pod) {
            self.remove(&key)?;
            pairs += u64::from(flow.direction == FlowDirection::Original as u8);
        }
        Ok(pairs)
    }

    fn is_stale(&self, key: &FlowKey, now: u64) -> Result<bool, DatapathError> {
        const ORPHAN_NS: u64 = 60_000_000_000;
        Ok(self.get(key)?.is_some_and(|flow| now.saturating_sub(flow.last_seen) > ORPHAN_NS))
    }

    fn remove_if_expired(&mut self, key: &FlowKey, now: u64) -> Result<bool, DatapathError> {
        let Some(original) = self.get(key)? else { return Ok(true) };
        let reply_key = partner(key, &original);
        let pair = FlowPair { key: *key, original, reply: self.get(&reply_key)? };
        if !pair.expired(now) {
            return Ok(false);
        }
        // The reply last: it holds the port.
        self.remove(key)?;
        self.remove(&reply_key)?;
        Ok(true)
    }

    fn get(&self, key: &FlowKey) -> Result<Option<Flow>, DatapathError> {
        match self.map.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(kernel("reading the flow table")(error)),
        }
    }

    fn remove(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        match self.map.remove(key) {
            Ok(()) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(kernel("removing a flow")(error)),
        }
    }
}

fn partner(key: &FlowKey, flow: &Flow) -> FlowKey {
    key.partner(flow.rewrite, flow.addr, flow.port)
}

/// Whether removing failed because the key is not there.
pub(super) fn gone(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32)
        }
        _ => false,
    }
}
