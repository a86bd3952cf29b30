//! What the programs count, and the flow table, for whoever only reads. On handles of its own: somebody who attaches programs
//! waits for the kernel's RTNL lock, often for a tenth of a second, and a list of pods is not to wait for all those before it.

use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use netpath_common::abi::{
    Counter, DropReason, EventLoss, Exhausted, ExhaustedKey, PodCounter, SNAT_TRY_ROWS, TrafficClass,
};

use super::{
    error::{DatapathError, kernel},
    flows::FlowTable,
    tables::take,
};

/// Typed handles.
pub struct Readings {
    counters: PerCpuArray<MapData, Counter>,
    pod_counters: PerCpuArray<MapData, PodCounter>,
    denied: PerCpuArray<MapData, Counter>,
    exhausted: HashMap<MapData, ExhaustedKey, Exhausted>,
    tries: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    /// And how many were told.
    listeners: Mutex<(Array<MapData, u32>, u32)>,
    flows: PathBuf,
}

/// A counter over all CPUs.
pub(super) fn sum(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, one| Counter {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
    })
}

const AGAIN: &str = "opening a table of counters once more";

fn again(table: &MapData) -> Result<Map, DatapathError> {
    let fd = table.fd().as_fd().try_clone_to_owned().map_err(kernel(AGAIN))?;
    Ok(Map::PerCpuArray(MapData::from_fd(fd).map_err(kernel(AGAIN))?))
}

impl Readings {
    /// Takes those that nobody writes; those of `pod_counters` and `denied` are one more.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        (pod_counters, denied): (&MapData, &MapData),
        flows: PathBuf,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            counters: take!(ebpf, "COUNTERS"),
            pod_counters: again(pod_counters)?.try_into().map_err(kernel(AGAIN))?,
            denied: again(denied)?.try_into().map_err(kernel(AGAIN))?,
            exhausted: take!(ebpf, "EXHAUSTED"),
            tries: take!(ebpf, "SNAT_TRIES"),
            losses: take!(ebpf, "EVENT_LOSSES"),
            listeners: Mutex::new((take!(ebpf, "EVENT_LISTENERS"), 0)),
            flows,
        })
    }

    /// A handle on FLOWS of its own.
    ///
    /// # Errors
    /// The kernel's reason, as in all methods below.
    pub fn flow_table(&self) -> Result<FlowTable, DatapathError> {
        FlowTable::open(&self.flows)
    }

    /// One drop counter, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn drops(&self, reason: DropReason) -> Result<Counter, DatapathError> {
        self.counter(reason as u32)
    }

    /// One traffic counter, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn traffic(&self, class: TrafficClass) -> Result<Counter, DatapathError> {
        self.counter(class as u32)
    }

    fn counter(&self, row: u32) -> Result<Counter, DatapathError> {
        let values = self.counters.get(&row, 0).map_err(kernel(format!("reading counter {row}")))?;
        Ok(sum(&values))
    }

    /// Counters of the pod of a slot, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pod_counter(&self, slot: u32) -> Result<PodCounter, DatapathError> {
        let doing = || format!("reading the pod counter {slot}");
        let values = self.pod_counters.get(&slot, 0).map_err(kernel(doing()))?;
        Ok(values.iter().fold(PodCounter::default(), |sum, one| PodCounter {
            rx_packets: sum.rx_packets + one.rx_packets,
            rx_bytes: sum.rx_bytes + one.rx_bytes,
            tx_packets: sum.tx_packets + one.tx_packets,
            tx_bytes: sum.tx_bytes + one.tx_bytes,
        }))
    }

    /// What a row of the deny list has counted, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn denied(&self, row: u32) -> Result<Counter, DatapathError> {
        let values = self.denied.get(&row, 0);
        Ok(sum(&values.map_err(kernel(format!("reading row {row} of the deny list")))?))
    }

    /// Destinations that no port was free for, those of late.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn exhausted(&self) -> Result<Vec<(ExhaustedKey, Exhausted)>, DatapathError> {
        let mut found = Vec::new();
        for entry in &self.exhausted {
            match entry {
                Ok(entry) => found.push(entry),
                // It made room for another.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(kernel("reading the exhausted destinations")(error)),
            }
        }
        Ok(found)
    }

    /// The rows of SNAT_TRIES, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn snat_tries(&self) -> Result<Vec<u64>, DatapathError> {
        let row = |row| {
            let values = self.tries.get(&row, 0).map_err(kernel(format!("reading SNAT_TRIES {row}")))?;
            Ok(values.iter().sum())
        };
        (0..SNAT_TRY_ROWS).map(row).collect()
    }

    /// Events that nobody was told of since the programs were loaded, over all CPUs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn event_losses(&self) -> Result<Vec<(EventLoss, u64)>, DatapathError> {
        let row = |why: EventLoss| {
            let values = self.losses.get(&(why as u32), 0).map_err(kernel("reading EVENT_LOSSES"))?;
            Ok((why, values.iter().sum()))
        };
        EventLoss::ALL.into_iter().map(row).collect()
    }

    /// Tells the programs how many listen to new bindings, as `count` says: asked in the turn of whoever tells, so that the
    /// last one tells what holds.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn tell_flows(&self, count: impl FnOnce() -> usize) -> Result<(), DatapathError> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let (table, told) = &mut *listeners;
        let count = count() as u32;
        if *told != count {
            table.set(0, count, 0).map_err(kernel("writing the table EVENT_LISTENERS"))?;
            *told = count;
        }
        Ok(())
    }
}
