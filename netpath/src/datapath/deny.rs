//! Who may not send to this node: what `xdp_uplink` asks and counts.

use std::{collections::BTreeMap, net::Ipv4Addr};

use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use ipnet::IpNet;
use netpath_common::abi::{Addr, Counter, DENY_NOBODY};

use super::{
    Datapath,
    error::{DatapathError, kernel},
    tables::{place_of, replace_all, take},
};

/// Typed handles.
pub(super) struct Deny {
    prefixes: LpmTrie<MapData, Addr, u32>,
    pub(super) counters: PerCpuArray<MapData, Counter>,
}

impl Deny {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { prefixes: take!(ebpf, "DENY"), counters: take!(ebpf, "DENY_COUNTERS") })
    }
}

impl Datapath {
    /// Makes DENY hold exactly these prefixes, each with the row that counts it.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_denied(&mut self, denied: &BTreeMap<IpNet, u32>) -> Result<(), DatapathError> {
        let all_v4 = (96, Addr::from(Ipv4Addr::UNSPECIFIED));
        let denied = denied.iter().map(|(prefix, row)| (place_of(prefix), *row));
        let wanted = denied.chain([(all_v4, DENY_NOBODY)]).collect();
        let key = |(length, addr)| Key::new(length, addr);
        let place = |key: &Key<Addr>| (key.prefix_len(), key.data());
        replace_all(&mut self.deny.prefixes, &wanted, key, place, "the deny list")
    }

    /// Sets a row to zero, before a prefix gets it.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn clear_denied(&mut self, row: u32) -> Result<(), DatapathError> {
        let doing = || format!("clearing row {row} of the deny list");
        let cpus = nr_cpus().map_err(|(_, error)| kernel(doing())(error))?;
        let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(kernel(doing()))?;
        self.deny.counters.set(row, zeros, 0).map_err(kernel(doing()))
    }
}
