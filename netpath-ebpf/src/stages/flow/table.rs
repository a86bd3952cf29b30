//! FLOWS; and while the agent moves flows into it from the table of an earlier build, both (docs/UPGRADE.md).
//!
//! Which one holds is told by FLOWS_MOVE, the same for all programs at once. Programs that are loaded without another table
//! have nothing of this: the verifier removes what a constant rules out.

use aya_ebpf::macros::map;
use netpath_common::abi::{Flow, FlowKey, Move};

use crate::bpf::{
    globals,
    map::{Hash, InsertError, PerCpu, Single},
};

#[map(name = "FLOWS")]
static OWN: Hash<FlowKey, Flow> = Hash::new(262_144);

/// The table that flows come from. Its records are shorter if its build's were: an earlier layout is the beginning of a
/// later one, so that what both have is read and written in place, and an insert takes the beginning of a record.
#[map(name = "FLOWS_BEFORE")]
static BEFORE: Hash<FlowKey, Flow> = Hash::new(1);

/// A [`Move`].
#[map]
static FLOWS_MOVE: Single<u32> = Single::new();

/// Room for the record that is moved.
#[map]
static FLOW_MOVED: PerCpu<Flow> = PerCpu::new(1);

/// The flows, wherever they are.
pub(super) struct Table;

/// The flows, wherever they are.
pub(super) static FLOWS: Table = Table;

impl Table {
    /// The value of a key.
    #[inline(always)]
    pub(super) fn get(&self, key: &FlowKey) -> Option<&'static Flow> {
        self.get_mut(key).map(|flow| &*flow)
    }

    /// The value of a key, to count in.
    #[inline(always)]
    pub(super) fn get_mut(&self, key: &FlowKey) -> Option<&'static mut Flow> {
        let at = state();
        if at == STAY {
            return BEFORE.get_mut(key);
        }
        let flow = OWN.get_mut(key);
        if flow.is_some() || at != PULL || !pull(key) {
            return flow;
        }
        // Nowhere else only if there was no room for it: then it goes on where it is, and the agent moves it later.
        OWN.get_mut(key).or_else(|| BEFORE.get_mut(key))
    }

    /// The value of a key, unless it still has to be moved: for who looks for flows to remove, and is called so deep that
    /// there is no stack left to move one.
    #[inline(always)]
    pub(super) fn get_here(&self, key: &FlowKey) -> Option<&'static Flow> {
        if state() == STAY { BEFORE.get(key) } else { OWN.get(key) }
    }

    /// Inserts if the key is not there.
    #[inline(always)]
    pub(super) fn insert_new(&self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        match state() {
            STAY => BEFORE.insert_new(key, flow),
            PULL if pull(key) => Err(InsertError::Exists),
            _ => OWN.insert_new(key, flow),
        }
    }

    /// Removes a key; nothing happens if it is not there.
    #[inline(always)]
    pub(super) fn remove(&self, key: &FlowKey) {
        let at = state();
        // First there: see `pull`.
        if at == STAY || at == PULL {
            BEFORE.remove(key);
        }
        if at != STAY {
            OWN.remove(key);
        }
    }
}

const STAY: u32 = Move::Stay as u32;
const PULL: u32 = Move::Pull as u32;
const DONE: u32 = Move::Done as u32;

#[inline(always)]
fn state() -> u32 {
    if globals::flow_before_bytes() == 0 {
        return DONE;
    }
    FLOWS_MOVE.get().map_or(DONE, |state| *state)
}

/// Copies a record that is still in the earlier table; whether there is one. Nobody writes there any more but for want of
/// room, so it does not matter which CPU does it, or whether the agent is faster.
#[inline(never)]
fn pull(key: &FlowKey) -> bool {
    let Some(room) = FLOW_MOVED.get_mut(0) else { return false };
    *room = Flow::EMPTY;
    if !BEFORE.read_start(key, globals::flow_before_bytes(), room) {
        return false;
    }
    // Another CPU that removes the flow meanwhile removes it from the earlier table first: what is no longer there after
    // the insert must not come back by it.
    if OWN.insert_new(key, room).is_ok() && BEFORE.get(key).is_none() {
        OWN.remove(key);
        return false;
    }
    true
}
