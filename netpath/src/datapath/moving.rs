//! Flows of an earlier build's table: found, moved, and when not to (docs/UPGRADE.md).
//!
//! The pins tell how far a move is, so that an agent goes on where another one died: `FLOWS` alone is the usual state;
//! `FLOWS_BEFORE` alone is a move that has not begun; both with `FLOWS_MOVE` are one on its way.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData, MapInfo};
use netpath_common::abi::{Flow, FlowKey, Move};
use rustix::thread::{MembarrierCommand, membarrier};

use super::{
    Datapath,
    error::{DatapathError, kernel},
    flows::{FlowTable, Inserted, Walk},
    pins::Pins,
};

const FLOWS: &str = "FLOWS";
const BEFORE: &str = "FLOWS_BEFORE";
const STATE: &str = "FLOWS_MOVE";

const KEY: u32 = size_of::<FlowKey>() as u32;
const RECORD: u32 = size_of::<Flow>() as u32;
/// The record of the first layout. Every later one begins with it.
const FIRST_RECORD: u32 = 96;

/// Far longer than any program runs.
const GRACE: Duration = Duration::from_millis(100);
/// How long a flow waits for room in a full table: until what filled it has had its time for an answer, and longer.
const ROOM: Duration = Duration::from_secs(10);

/// How FLOWS is to be loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Entries of FLOWS.
    pub(super) entries: u32,
    /// Bytes of a record in the table that flows are to be moved from; 0 if there is none.
    pub(super) before: u32,
}

impl Datapath {
    /// Whether flows are still to be moved from an earlier agent's table: [`take_over`](Self::take_over) and
    /// [`move_flows`](Self::move_flows), and then load again.
    pub fn is_moving(&self) -> bool {
        self.moving
    }

    /// Moves the flows of an earlier agent's table into this one. No program of another loading may run. Returns how many
    /// entries.
    ///
    /// # Errors
    /// The kernel's reason; loading again goes on from there.
    pub fn move_flows(&mut self) -> Result<u64, DatapathError> {
        move_all(&self.pins)
    }
}

/// Looks what is pinned, and makes it ready to be loaded: `wanted` entries, or as many as the flows need. `forget` removes
/// what this build cannot go on with, and the flows with it.
pub(super) fn plan(pins: &Pins, wanted: u32, forget: bool) -> Result<Plan, DatapathError> {
    match prepare(pins, wanted) {
        Err(refused) if forget => {
            tracing::warn!(%refused, "all flows are forgotten, as was asked for");
            for name in [FLOWS, BEFORE, STATE] {
                remove(pins, name)?;
            }
            Ok(Plan { entries: wanted, before: 0 })
        }
        planned => planned,
    }
}

fn prepare(pins: &Pins, wanted: u32) -> Result<Plan, DatapathError> {
    if info(pins, BEFORE)?.is_some() && state(pins)? == Move::Stay {
        // Nothing is in FLOWS yet: from the beginning, perhaps with another build's idea of it.
        remove(pins, FLOWS)?;
        rename(pins, BEFORE, FLOWS)?;
    }
    let Some(found) = info(pins, FLOWS)? else { return Ok(Plan { entries: wanted, before: 0 }) };
    check(pins, &found)?;
    if info(pins, BEFORE)?.is_some() {
        // All programs that run know of both tables, or the earlier agent would not have gone so far; this one's need not.
        tracing::info!(flows = move_all(pins)?, "flows moved that an earlier agent had not come to");
    }
    remove(pins, STATE)?;
    let (same, size) = (found.value_size() == RECORD, found.max_entries());
    if same && size == wanted {
        return Ok(Plan { entries: size, before: 0 });
    }
    let least = needed(pins)?;
    let entries = wanted.max(least);
    // A table that is to be smaller, and whose flows would not fit; or no change after all.
    if same && (size == entries || (size > wanted && least > wanted)) {
        return Ok(Plan { entries: size, before: 0 });
    }
    rename(pins, FLOWS, BEFORE)?;
    tracing::info!(entries, bytes = RECORD, "flows move to another table");
    Ok(Plan { entries, before: found.value_size() })
}

/// Whether its records are those of this build or of an earlier one.
fn check(pins: &Pins, found: &MapInfo) -> Result<(), DatapathError> {
    let known = FIRST_RECORD..=RECORD;
    if found.key_size() == KEY && known.contains(&found.value_size()) && found.value_size().is_multiple_of(8)
    {
        return Ok(());
    }
    Err(DatapathError::Layout {
        path: pins.maps.join(FLOWS),
        found: format!("keys of {} and records of {} bytes", found.key_size(), found.value_size()),
        wanted: format!("keys of {KEY} and records of {FIRST_RECORD} to {RECORD} bytes"),
    })
}

/// Entries that the pinned flows need, with room for those that come while they move.
fn needed(pins: &Pins) -> Result<u32, DatapathError> {
    let (table, mut walk, mut entries) = (open(pins, FLOWS)?, Walk::new(), 0);
    while table.advance(&mut walk)? {
        entries += walk.halves().count() as u32;
    }
    Ok(entries + entries / 8 + 1024)
}

/// Moves all flows, once no program of another loading runs any more: then nobody inserts into the earlier table, and after
/// a moment nobody writes to it. Returns how many entries.
pub(super) fn move_all(pins: &Pins) -> Result<u64, DatapathError> {
    let moved = if state(pins)? == Move::Done { 0 } else { copy(pins)? };
    set_state(pins, Move::Done)?;
    remove(pins, BEFORE)?;
    remove(pins, STATE)?;
    Ok(moved)
}

/// Waits until every program has ended that may have seen an earlier state, and every packet has left the hook it was at: a
/// grace period of RCU. A kernel with nohz_full refuses (kernel/sched/membarrier.c); programs run for microseconds.
pub(super) fn grace() {
    if membarrier(MembarrierCommand::Global).is_err() {
        thread::sleep(GRACE);
    }
}

fn copy(pins: &Pins) -> Result<u64, DatapathError> {
    set_state(pins, Move::Pull)?;
    grace();
    let (mut own, earlier) = (open(pins, FLOWS)?, open(pins, BEFORE)?);
    let (mut walk, mut moved) = (Walk::new(), 0);
    while earlier.advance(&mut walk)? {
        for (key, flow) in walk.halves() {
            // There already: a program has moved it, or has made another one with this key.
            if !insert_with_room(&mut own, key, flow)? {
                continue;
            }
            moved += 1;
            // A program has removed it meanwhile, and perhaps given its port away.
            if earlier.half(key)?.is_none() {
                own.remove(key)?;
            }
        }
    }
    Ok(moved)
}

/// Inserts a flow unless it is there, and returns whether it did; into a table that others have filled meanwhile, once flows
/// that nobody has answered have made room. Programs go on with both tables all the time.
fn insert_with_room(own: &mut FlowTable, key: &FlowKey, flow: &Flow) -> Result<bool, DatapathError> {
    let deadline = Instant::now() + ROOM;
    loop {
        match own.insert(key, flow)? {
            Inserted::Stands => return Ok(true),
            Inserted::Taken => return Ok(false),
            Inserted::NoRoom if Instant::now() >= deadline => {
                let full = io::Error::other(
                    "it is full of flows that have been answered; start again when some have ended, or this once with \
                     --forget-flows: every connection through this node's translation is lost then",
                );
                return Err(kernel("moving a flow to the new flow table")(full));
            }
            Inserted::NoRoom => {
                if own.make_room()? == 0 {
                    thread::sleep(GRACE);
                }
            }
        }
    }
}

fn open(pins: &Pins, name: &str) -> Result<FlowTable, DatapathError> {
    FlowTable::open(&pins.maps.join(name))
}

/// How far a move is, as its pin tells; not begun if there is none.
fn state(pins: &Pins) -> Result<Move, DatapathError> {
    if info(pins, STATE)?.is_none() {
        return Ok(Move::Stay);
    }
    let doing = "reading how far the flows have moved";
    let number = state_table(pins)?.get(&0, 0).map_err(kernel(doing))?;
    let all = [Move::Stay, Move::Pull, Move::Done];
    all.into_iter().find(|state| *state as u32 == number).ok_or_else(|| {
        kernel(doing)(io::Error::other(format!("{number} is not known; an agent of a later build began")))
    })
}

fn set_state(pins: &Pins, state: Move) -> Result<(), DatapathError> {
    state_table(pins)?.set(0, state as u32, 0).map_err(kernel("telling the programs where flows are"))
}

fn state_table(pins: &Pins) -> Result<Array<MapData, u32>, DatapathError> {
    let doing = "opening the table that tells where flows are";
    let data = MapData::from_pin(pins.maps.join(STATE)).map_err(kernel(doing))?;
    Array::try_from(Map::Array(data)).map_err(kernel(doing))
}

fn info(pins: &Pins, name: &str) -> Result<Option<MapInfo>, DatapathError> {
    let pin = pins.maps.join(name);
    if !pin.exists() {
        return Ok(None);
    }
    let opened = MapInfo::from_pin(&pin);
    opened.map(Some).map_err(kernel(format!("opening the pinned table {}", pin.display())))
}

fn rename(pins: &Pins, from: &str, to: &str) -> Result<(), DatapathError> {
    fs::rename(pins.maps.join(from), pins.maps.join(to))
        .map_err(kernel(format!("renaming the pin {from} to {to}")))
}

fn remove(pins: &Pins, name: &str) -> Result<(), DatapathError> {
    match fs::remove_file(pins.maps.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(kernel(format!("removing the pin {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// Names of the tables that are pinned only while flows move.
pub(super) const PINNED: [&str; 2] = [BEFORE, STATE];
