//! PUBLISHED: ports of the node that lead to pods.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData},
};
use netpath_common::abi::{Published, PublishedKey};

use super::{
    Datapath,
    bpf::Table,
    error::{DatapathError, kernel},
    flows::gone,
    tables::take,
};

/// Typed handles.
pub(super) struct PublishedTable {
    ports: HashMap<MapData, PublishedKey, Published>,
    all: Table<PublishedKey, Published>,
}

impl PublishedTable {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let ports: HashMap<_, PublishedKey, Published> = take!(ebpf, "PUBLISHED");
        let all = Table::new(ports.map()).map_err(kernel("opening the table PUBLISHED"))?;
        Ok(Self { ports, all })
    }
}

impl Datapath {
    /// All entries of PUBLISHED.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn published(&self) -> Result<BTreeMap<PublishedKey, Published>, DatapathError> {
        let present = self.published.all.all().map_err(kernel("reading the published ports"))?;
        Ok(present.into_iter().collect())
    }

    /// Makes PUBLISHED hold exactly these entries: removes what is left over, then writes what differs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_published(&mut self, wanted: &BTreeMap<PublishedKey, Published>) -> Result<(), DatapathError> {
        let present = self.published()?;
        let table = &mut self.published;
        for key in present.keys().filter(|key| !wanted.contains_key(key)) {
            match table.ports.remove(key) {
                Err(error) if !gone(&error) => return Err(kernel("removing a published port")(error)),
                _ => {}
            }
        }
        for (key, entry) in wanted.iter().filter(|(key, entry)| present.get(key) != Some(entry)) {
            table.ports.insert(key, entry, 0).map_err(kernel("writing a published port"))?;
        }
        Ok(())
    }
}
