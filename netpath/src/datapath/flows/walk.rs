//! Reading FLOWS in slices.

use netpath_common::abi::{Flow, FlowKey};
use nix::time::ClockId;

use super::{FlowTable, clock, is_original};
use crate::datapath::{
    bpf::{Place, Slice},
    error::{DatapathError, kernel},
};

/// Entries of a slice to begin with.
const START: usize = 256;
/// Fewest and most entries of a slice that are asked for because of the time it takes.
const LEAST: usize = 32;
const MOST: usize = 1024;
/// A slice is made shorter above this, ns of its core, and longer below a quarter of it: the kernel may not leave the
/// system call before its end, and 1 ms is the limit.
const AIM: u64 = 250_000;

/// A walk over the whole table, and the slice it is at.
pub struct Walk {
    place: Place,
    ended: bool,
    keys: Vec<FlowKey>,
    flows: Vec<Flow>,
    /// Entries read by the last call.
    count: usize,
    /// Entries that the next call asks for.
    wanted: usize,
    /// Slices read so far.
    pub slices: u64,
    /// Time on its core of the slice that took longest, ns.
    pub longest_ns: u64,
}

impl Walk {
    /// At the beginning.
    pub fn new() -> Self {
        let (keys, flows) = (vec![FlowKey::default(); START], vec![Flow::default(); START]);
        Self {
            place: Place::default(),
            ended: false,
            keys,
            flows,
            count: 0,
            wanted: START,
            slices: 0,
            longest_ns: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn with_room_for(entries: usize) -> Self {
        Self { wanted: entries, ..Self::new() }
    }

    /// What the slice holds.
    pub fn halves(&self) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.keys.iter().zip(&self.flows).take(self.count)
    }

    /// The original halves in it.
    pub fn originals(&self) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.halves().filter(|(_, flow)| is_original(flow))
    }

    fn make_room(&mut self) {
        let entries = self.wanted;
        self.keys.resize(entries, FlowKey::default());
        self.flows.resize(entries, Flow::default());
    }

    fn adapt(&mut self, took: u64) {
        (self.slices, self.longest_ns) = (self.slices + 1, self.longest_ns.max(took));
        let entries = self.wanted;
        // A slice that was not filled tells nothing about longer ones.
        if took > AIM && entries > LEAST {
            self.wanted = entries / 2;
        } else if took < AIM / 4 && entries < MOST && self.count * 2 > entries {
            self.wanted = entries * 2;
        }
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

impl FlowTable {
    /// Reads the next slice of a walk; false at the end. What is there from the walk's beginning to its end is read
    /// once; what comes or goes meanwhile may be missed.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn advance(&self, walk: &mut Walk) -> Result<bool, DatapathError> {
        if walk.ended {
            walk.count = 0;
            return Ok(false);
        }
        loop {
            walk.make_room();
            let begun = clock(ClockId::CLOCK_THREAD_CPUTIME_ID);
            let read = self.table.read(&mut walk.place, &mut walk.keys, &mut walk.flows);
            let took = clock(ClockId::CLOCK_THREAD_CPUTIME_ID) - begun;
            match read.map_err(kernel("reading the flow table"))? {
                Slice::NoRoom if walk.wanted < self.capacity() as usize => {
                    walk.wanted *= 2;
                    continue;
                }
                Slice::NoRoom => {
                    let full = std::io::Error::other("a bucket has more entries than the table");
                    return Err(kernel("reading the flow table")(full));
                }
                Slice::Some(count) => walk.count = count,
                Slice::Last(count) => (walk.count, walk.ended) = (count, true),
            }
            walk.adapt(took);
            return Ok(true);
        }
    }
}
