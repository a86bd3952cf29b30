//! Tables the agent writes: endpoints, routes, the node; and the counters it reads.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use ipnet::IpNet;
use netpath_common::abi::{Addr, Counter, Endpoint, Node, PodCounter, Route};

use super::{
    error::{DatapathError, kernel},
    flows::gone,
};

/// Typed handles of the configuration and counter tables.
pub(super) struct Tables {
    endpoints: HashMap<MapData, Addr, Endpoint>,
    routes: LpmTrie<MapData, [u32; 4], Route>,
    node: Array<MapData, Node>,
    counters: PerCpuArray<MapData, Counter>,
    pod_counters: PerCpuArray<MapData, PodCounter>,
}

macro_rules! take {
    ($ebpf:expr, $name:literal) => {
        $ebpf
            .take_map($name)
            .ok_or(MapError::InvalidName { name: $name.to_owned() })
            .and_then(TryInto::try_into)
            .map_err(kernel(concat!("opening the table ", $name)))?
    };
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: take!(ebpf, "ENDPOINTS"),
            routes: take!(ebpf, "ROUTES"),
            node: take!(ebpf, "NODE"),
            counters: take!(ebpf, "COUNTERS"),
            pod_counters: take!(ebpf, "POD_COUNTERS"),
        })
    }

    pub(super) fn set_endpoint(&mut self, address: IpAddr, endpoint: Endpoint) -> Result<(), DatapathError> {
        let doing = format!("writing the endpoint {address}");
        self.endpoints.insert(Addr::from(address), endpoint, 0).map_err(kernel(doing))
    }

    pub(super) fn remove_endpoint(&mut self, address: IpAddr) -> Result<(), DatapathError> {
        match self.endpoints.remove(&Addr::from(address)) {
            Err(error) if !gone(&error) => Err(kernel(format!("removing the endpoint {address}"))(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn endpoints(&self) -> Result<Vec<(IpAddr, Endpoint)>, DatapathError> {
        self.endpoints
            .iter()
            .map(|entry| entry.map(|(addr, endpoint)| (addr.to_ip(), endpoint)))
            .collect::<Result<_, _>>()
            .map_err(kernel("reading the endpoints"))
    }

    pub(super) fn set_routes(&mut self, routes: &[(IpNet, Route)]) -> Result<(), DatapathError> {
        let wanted: Vec<_> = routes.iter().map(|(prefix, route)| (prefix_key(prefix), route)).collect();
        for ((length, addr), route) in &wanted {
            let key = Key::new(*length, addr.0);
            if self.routes.get(&key, 0).is_ok_and(|there| there == **route) && self.has_prefix(*length, addr)
            {
                continue;
            }
            self.routes.insert(&key, **route, 0).map_err(kernel("writing a route"))?;
        }
        let present =
            self.routes.keys().collect::<Result<Vec<_>, _>>().map_err(kernel("reading the routes"))?;
        for key in present {
            let (length, addr) = (key.prefix_len(), Addr(key.data()));
            if !wanted.iter().any(|((l, a), _)| (*l, a.0) == (length, addr.0)) {
                self.routes.remove(&key).map_err(kernel("removing a route"))?;
            }
        }
        Ok(())
    }

    /// Whether exactly this prefix is there: a lookup alone also finds shorter ones.
    fn has_prefix(&self, length: u32, addr: &Addr) -> bool {
        self.routes.keys().flatten().any(|key| key.prefix_len() == length && key.data() == addr.0)
    }

    pub(super) fn set_node(&mut self, node: &Node) -> Result<(), DatapathError> {
        self.node.set(0, *node, 0).map_err(kernel("writing the node's record"))
    }

    /// A row of COUNTERS over all CPUs.
    pub(super) fn counter(&self, row: u32) -> Result<Counter, DatapathError> {
        let values = self.counters.get(&row, 0).map_err(kernel(format!("reading counter {row}")))?;
        Ok(values.iter().fold(Counter::default(), |sum, one| Counter {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
        }))
    }

    pub(super) fn pod_counter(&self, slot: u32) -> Result<PodCounter, DatapathError> {
        let doing = || format!("reading the pod counter {slot}");
        let values = self.pod_counters.get(&slot, 0).map_err(kernel(doing()))?;
        Ok(values.iter().fold(PodCounter::default(), |sum, one| PodCounter {
            rx_packets: sum.rx_packets + one.rx_packets,
            rx_bytes: sum.rx_bytes + one.rx_bytes,
            tx_packets: sum.tx_packets + one.tx_packets,
            tx_bytes: sum.tx_bytes + one.tx_bytes,
        }))
    }

    pub(super) fn clear_pod_counter(&mut self, slot: u32) -> Result<(), DatapathError> {
        let doing = || format!("clearing the pod counter {slot}");
        let cpus = nr_cpus().map_err(|(_, error)| kernel(doing())(error))?;
        let zeros = PerCpuValues::try_from(vec![PodCounter::default(); cpus]).map_err(kernel(doing()))?;
        self.pod_counters.set(slot, zeros, 0).map_err(kernel(doing()))
    }
}

/// A prefix as the trie's key: IPv4 lies below ::ffff:0:0/96.
fn prefix_key(prefix: &IpNet) -> (u32, Addr) {
    let length = u32::from(prefix.prefix_len()) + if prefix.addr().is_ipv4() { 96 } else { 0 };
    (length, Addr::from(prefix.network()))
}
