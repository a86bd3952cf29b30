//! FLOWS from userspace: walks, expiry, removal.
//!
//! The table is read in slices, each one short system call, and never held in memory as a whole. A walk shares nothing
//! with the programs but the table itself; do it on a blocking thread.

mod relief;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

use std::path::Path;

use aya::maps::{MapData, MapError};
use netpath_common::{
    abi::{Flow, FlowDirection, FlowKey, PIN_SCHEME, Rewrite},
    logic::flow_state::{FlowState, state},
};
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};

pub use self::{
    relief::{CROWDED, WELL, is_crowded},
    sweep::{Rules, Swept},
    walk::Walk,
};
use super::{
    bpf::Table,
    error::{DatapathError, kernel},
};

/// A handle on FLOWS of its own, so that a walk does not hold up the agent.
pub struct FlowTable {
    table: Table<FlowKey, Flow>,
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
        state(self.key.proto, &self.original)
    }

    /// When a packet of either direction was last noted, CLOCK_MONOTONIC ns.
    pub fn last_seen(&self) -> u64 {
        self.original.last_seen.max(self.reply.map_or(0, |reply| reply.last_seen))
    }

    /// Whether its source is translated.
    pub fn is_translated(&self) -> bool {
        is_translated(&self.original)
    }

    /// Whether it came by a published port: its destination is translated.
    pub fn is_published(&self) -> bool {
        self.original.rewrite == Rewrite::Destination as u8
    }

    fn reply_key(&self) -> FlowKey {
        partner(&self.key, &self.original)
    }
}

/// CLOCK_MONOTONIC, ns: the clock of `Flow::last_seen`.
pub fn monotonic_ns() -> u64 {
    clock(ClockId::CLOCK_MONOTONIC)
}

fn clock(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

impl FlowTable {
    /// The table with this pin, of this build's layout or of an earlier one.
    pub(super) fn open(pin: &Path) -> Result<Self, DatapathError> {
        let doing = || format!("opening the flow table {}", pin.display());
        let data = MapData::from_pin(pin).map_err(kernel(doing()))?;
        Ok(Self { table: Table::new(&data).map_err(kernel(doing()))? })
    }

    /// The table of an instance, by the directory of its pins.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn of_instance(pin_dir: &Path) -> Result<Self, DatapathError> {
        Self::open(&pin_dir.join(format!("v{PIN_SCHEME}/maps/FLOWS")))
    }

    /// Entries that fit; a flow takes two.
    pub fn capacity(&self) -> u32 {
        self.table.capacity()
    }

    /// All flows, in memory: for small tables.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pairs(&self) -> Result<Vec<FlowPair>, DatapathError> {
        let mut pairs = Vec::new();
        let mut walk = Walk::new();
        while self.advance(&mut walk)? {
            for (key, original) in walk.originals() {
                pairs.push(self.pair(*key, *original)?);
            }
        }
        Ok(pairs)
    }

    /// The flow with this original half.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn find(&self, key: &FlowKey) -> Result<Option<FlowPair>, DatapathError> {
        let original = self.half(key)?.filter(is_original);
        original.map(|original| self.pair(*key, original)).transpose()
    }

    /// The flow that an original half belongs to.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pair(&self, key: FlowKey, original: Flow) -> Result<FlowPair, DatapathError> {
        Ok(FlowPair { key, original, reply: self.half(&partner(&key, &original))? })
    }

    /// Removes every flow of one pod. Returns how many.
    ///
    /// # Errors
    /// The kernel's reason; flows before it are removed.
    pub fn remove_of(&mut self, pod: u32) -> Result<u64, DatapathError> {
        self.remove_if(|_, flow| flow.pod == pod)
    }

    /// Removes every flow whose original half is such. Returns how many.
    ///
    /// # Errors
    /// The kernel's reason; flows before it are removed.
    pub fn remove_if(
        &mut self,
        mut unwanted: impl FnMut(&FlowKey, &Flow) -> bool,
    ) -> Result<u64, DatapathError> {
        let mut pairs = 0;
        let mut walk = Walk::new();
        while self.advance(&mut walk)? {
            for (key, flow) in walk.originals().filter(|(key, flow)| unwanted(key, flow)) {
                // The reply last: it holds the port.
                pairs += u64::from(self.remove(key)?);
                let reply_key = partner(key, flow);
                if let Some(reply) = self.take(&reply_key)?.filter(|_| !is_translated(flow)) {
                    self.adopt(key, &reply_key, &reply)?;
                }
            }
        }
        Ok(pairs)
    }

    /// The half with this key, of whichever direction.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn half(&self, key: &FlowKey) -> Result<Option<Flow>, DatapathError> {
        self.table.get(key).map_err(kernel("reading the flow table"))
    }

    /// Removes an entry. Returns whether it was there.
    pub(super) fn remove(&self, key: &FlowKey) -> Result<bool, DatapathError> {
        self.table.remove(key).map_err(kernel("removing a flow"))
    }

    /// Inserts a half unless another is in its place.
    pub(super) fn insert(&self, key: &FlowKey, flow: &Flow) -> Result<Inserted, DatapathError> {
        const NOEXIST: u64 = 1;
        let Err(error) = self.table.insert(key, flow, NOEXIST) else { return Ok(Inserted::Stands) };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EEXIST) => Ok(Inserted::Taken),
            Some(Errno::E2BIG | Errno::ENOMEM) => Ok(Inserted::NoRoom),
            _ => Err(kernel("writing a flow")(error)),
        }
    }
}

/// What became of a half that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It stands.
    Stands,
    /// There is another one with its key.
    Taken,
    /// The table is full, or the kernel has no memory for it.
    NoRoom,
}

fn partner(key: &FlowKey, flow: &Flow) -> FlowKey {
    key.partner_of(flow)
}

fn is_original(flow: &Flow) -> bool {
    flow.direction == FlowDirection::Original as u8
}

fn is_translated(original: &Flow) -> bool {
    original.rewrite == Rewrite::Source as u8
}

/// Whether removing failed because the key is not there.
pub(super) fn gone(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(Errno::ENOENT as i32),
        _ => false,
    }
}
