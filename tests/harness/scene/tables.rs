//! Tables of the programs that only tests and later parts of the agent look into.

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use netpath_common::abi::{Exhausted, ExhaustedKey, PIN_SCHEME, PodLimit, SNAT_TRY_ROWS};

use super::{PIN_DIR, Pod, Scene};

impl Scene {
    /// A table by its name in the object.
    pub fn table(&self, name: &str) -> MapData {
        let path = format!("{PIN_DIR}/v{PIN_SCHEME}/maps/{name}");
        MapData::from_pin(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What was refused towards a destination, if anything.
    pub fn exhausted(&self, key: &ExhaustedKey) -> Option<Exhausted> {
        let table = HashMap::<_, ExhaustedKey, Exhausted>::try_from(Map::LruHashMap(self.table("EXHAUSTED")));
        table.expect("EXHAUSTED").get(key, 0).ok()
    }

    /// Bindings by the tries they took.
    pub fn snat_tries(&self) -> Vec<u64> {
        let table =
            PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(self.table("SNAT_TRIES"))).expect("SNAT_TRIES");
        (0..SNAT_TRY_ROWS).map(|row| table.get(&row, 0).expect("row").iter().sum()).collect()
    }

    /// Lets a pod open so many more flows, until then (CLOCK_MONOTONIC, ns).
    pub fn limit_flows(&self, pod: Pod, more: u64, until: u64) {
        let opened = Array::<_, u64>::try_from(Map::Array(self.table("POD_OPENED"))).expect("POD_OPENED");
        let ceiling = opened.get(&pod.id, 0).expect("slot") + more;
        let mut limits =
            Array::<_, PodLimit>::try_from(Map::Array(self.table("POD_LIMITS"))).expect("POD_LIMITS");
        limits.set(pod.id, PodLimit { ceiling, valid_until: until }, 0).expect("limit");
    }
}
