//! PROTECTED: ports of nodes that pods do not reach.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use netpath_common::abi::PROTECTED_WORDS;

use super::{
    Datapath,
    error::{DatapathError, kernel},
    tables::take,
};

/// Typed handle.
pub(super) struct ProtectedTable(Array<MapData, u64>);

impl ProtectedTable {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self(take!(ebpf, "PROTECTED")))
    }
}

impl Datapath {
    /// Makes PROTECTED hold these words, and zeros elsewhere: writes what differs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_protected(&mut self, wanted: &BTreeMap<u32, u64>) -> Result<(), DatapathError> {
        let ProtectedTable(table) = &mut self.protected;
        for word in 0..PROTECTED_WORDS {
            let ports = wanted.get(&word).copied().unwrap_or_default();
            if table.get(&word, 0).map_err(kernel("reading the protected ports"))? != ports {
                table.set(word, ports, 0).map_err(kernel("writing the protected ports"))?;
            }
        }
        Ok(())
    }
}
