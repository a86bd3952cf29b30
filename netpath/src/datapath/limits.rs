//! How many flows a pod may open.

use std::collections::HashMap;

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use netpath_common::abi::PodLimit;

use super::{
    Datapath,
    error::{DatapathError, kernel},
    tables::take,
};

/// How long a limit holds that nobody renews, ns.
const VALID: u64 = 60_000_000_000;

/// Typed handles.
pub(super) struct Limits {
    opened: Array<MapData, u64>,
    limits: Array<MapData, PodLimit>,
}

impl Limits {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { opened: take!(ebpf, "POD_OPENED"), limits: take!(ebpf, "POD_LIMITS") })
    }
}

impl Datapath {
    /// Flows that the pod of a slot, and those that had it before, have opened.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn opened(&self, slot: u32) -> Result<u64, DatapathError> {
        let doing = || format!("reading how many flows the pod in slot {slot} opened");
        self.limits.opened.get(&slot, 0).map_err(kernel(doing()))
    }

    /// The same of many slots, by slot.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn opened_by(
        &self,
        slots: impl IntoIterator<Item = u32>,
    ) -> Result<HashMap<u32, u64>, DatapathError> {
        slots.into_iter().map(|slot| Ok((slot, self.opened(slot)?))).collect()
    }

    /// Lets the pod of a slot open flows until `ceiling` are opened. It holds for a minute from `now`
    /// (CLOCK_MONOTONIC, ns).
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn limit_pod(&mut self, slot: u32, ceiling: u64, now: u64) -> Result<(), DatapathError> {
        let limit = PodLimit { ceiling, valid_until: now.saturating_add(VALID) };
        let doing = || format!("limiting the flows of the pod in slot {slot}");
        self.limits.limits.set(slot, limit, 0).map_err(kernel(doing()))
    }

    /// What the pod of a slot may open.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pod_limit(&self, slot: u32) -> Result<PodLimit, DatapathError> {
        let doing = || format!("reading the limit of the pod in slot {slot}");
        self.limits.limits.get(&slot, 0).map_err(kernel(doing()))
    }
}
