//! Programs and tables: load, attach, pin, read and write. Knows the records of `netpath-common`, nothing of pods.
//!
//! Every method is a few system calls and blocks for microseconds, except those that walk FLOWS
//! ([`Datapath::flows`], [`Datapath::sweep`]): call those from a blocking thread.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use netpath_common::abi::{
    Counter, DropReason, Endpoint, Flow, FlowKey, Node, PodCounter, Route, TrafficClass,
};

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on bpffs that holds this instance's pins; a subdirectory per ABI version is made in it.
    pub pin_dir: PathBuf,
    /// MAC of all host ends; the programs answer ARP with it.
    pub gateway_mac: [u8; 6],
    /// Entries of FLOWS; a flow takes two.
    pub flow_entries: u32,
}

/// What can go wrong with programs and tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// bpffs is not there and cannot be mounted.
    #[error("mounting bpffs on {path}: {source}")]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Anything else, with what was being done.
    #[error("{doing}: {reason}")]
    Kernel {
        /// What was being done, on which object.
        doing: String,
        /// The kernel's reason.
        reason: String,
    },
}

/// A program where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name in the ELF.
    pub program: &'static str,
    /// Interface index.
    pub ifindex: u32,
    /// Kernel's id of the program.
    pub id: u32,
    /// `tcx` or `clsact`.
    pub kind: &'static str,
}

/// What a sweep of FLOWS did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Pairs that stay.
    pub kept: u64,
    /// Pairs removed because they expired.
    pub expired: u64,
    /// Of those that stay, pairs with source translation.
    pub translated: u64,
}

/// The loaded programs and their tables. Dropping it detaches nothing: links and maps are pinned.
pub struct Datapath {}

/// Mounts bpffs on `path` if no bpffs is there. Returns whether it mounted one.
///
/// # Errors
/// [`DatapathError::Bpffs`] with the kernel's reason.
pub fn ensure_bpffs(_path: &std::path::Path) -> Result<bool, DatapathError> {
    todo!()
}

impl Datapath {
    /// Loads the programs, reusing the pinned maps of an earlier agent with the same layout. Attached programs keep
    /// running the old version until `attach_*` replaces them atomically.
    pub fn load(_options: &Options) -> Result<Self, DatapathError> {
        todo!()
    }

    /// Attaches `from_pod` (ingress) and `to_pod` (egress) to a pod's host end, or replaces what is there. Idempotent.
    pub fn attach_pod(&mut self, _ifname: &str, _ifindex: u32) -> Result<(), DatapathError> {
        todo!()
    }

    /// Attaches `from_uplink` (ingress) and `to_uplink` (egress). Idempotent.
    pub fn attach_uplink(&mut self, _ifname: &str, _ifindex: u32) -> Result<(), DatapathError> {
        todo!()
    }

    /// Removes our programs and their pins from an interface; no error if none are there or the interface is gone.
    pub fn detach(&mut self, _ifindex: u32) -> Result<(), DatapathError> {
        todo!()
    }

    /// Every attached program of this instance.
    pub fn attachments(&self) -> Result<Vec<Attachment>, DatapathError> {
        todo!()
    }

    /// Writes one endpoint.
    pub fn set_endpoint(&mut self, _address: IpAddr, _endpoint: Endpoint) -> Result<(), DatapathError> {
        todo!()
    }

    /// Removes one endpoint; no error if it is not there.
    pub fn remove_endpoint(&mut self, _address: IpAddr) -> Result<(), DatapathError> {
        todo!()
    }

    /// All endpoints.
    pub fn endpoints(&self) -> Result<Vec<(IpAddr, Endpoint)>, DatapathError> {
        todo!()
    }

    /// Makes ROUTES hold exactly these prefixes: writes what differs, then removes what is left over.
    pub fn set_routes(&mut self, _routes: &[(ipnet::IpNet, Route)]) -> Result<(), DatapathError> {
        todo!()
    }

    /// Writes the node's record.
    pub fn set_node(&mut self, _node: &Node) -> Result<(), DatapathError> {
        todo!()
    }

    /// All halves of all flows.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, DatapathError> {
        todo!()
    }

    /// Removes every pair that has been idle for longer than its lifetime.
    pub fn sweep(&mut self) -> Result<Swept, DatapathError> {
        todo!()
    }

    /// Removes every flow of one pod. Returns how many pairs.
    pub fn remove_flows_of(&mut self, _pod: u32) -> Result<u64, DatapathError> {
        todo!()
    }

    /// One drop counter, over all CPUs.
    pub fn drops(&self, _reason: DropReason) -> Result<Counter, DatapathError> {
        todo!()
    }

    /// One traffic counter, over all CPUs.
    pub fn traffic(&self, _class: TrafficClass) -> Result<Counter, DatapathError> {
        todo!()
    }

    /// Counters of one pod, over all CPUs.
    pub fn pod_counter(&self, _slot: u32) -> Result<PodCounter, DatapathError> {
        todo!()
    }

    /// Sets a pod's counters to zero, before its slot is used again.
    pub fn clear_pod_counter(&mut self, _slot: u32) -> Result<(), DatapathError> {
        todo!()
    }

    /// The ring of events; once.
    pub fn take_events(&mut self) -> Option<Events> {
        todo!()
    }

    /// Slots of POD_COUNTERS, hence pods a node can have.
    pub const fn pod_slots() -> u32 {
        4096
    }
}

/// The ring of events, to be awaited.
pub struct Events {}

impl Events {
    /// The next event.
    pub async fn next(&mut self) -> Result<netpath_common::abi::Event, DatapathError> {
        todo!()
    }
}

/// Removes everything an instance pinned: links first, so that its programs are detached, then maps.
///
/// # Errors
/// The first failure, after trying all.
pub fn remove_pins(_pin_dir: &std::path::Path) -> Result<(), DatapathError> {
    todo!()
}

/// Ports of the SNAT range as the node's record wants them.
pub fn snat_range(range: &RangeInclusive<u16>) -> (u16, u16) {
    (*range.start(), range.end() - range.start() + 1)
}
