//! Loading the ELF: tables reused from their pins, constants set, programs verified.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned, maps::MapInfo, programs::SchedClassifier, util::KernelVersion,
};
use netpath_common::abi::{
    Addr, Counter, Endpoint, Exhausted, ExhaustedKey, Flow, FlowKey, Fragment, FragmentKey, Link, Node,
    PodCounter, PodLimit, Program, Route, RouteKey, Trace,
};

use super::{
    Options,
    error::{DatapathError, chain, kernel},
    pins::Pins,
};

/// The object.
pub static ELF: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpath-ebpf"));

/// Every program of the ELF.
pub const PROGRAMS: [Program; 4] = [Program::FromPod, Program::ToPod, Program::FromUplink, Program::ToUplink];

/// A table as this build wants it.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name in the ELF.
    pub name: &'static str,
    /// Key size, bytes.
    pub key: usize,
    /// Value size, bytes.
    pub value: usize,
    /// Pinned, so that it outlives the agent.
    pub pinned: bool,
    /// What it holds can be written again from the agent's state; a pin of another layout is replaced.
    pub rebuilt: bool,
}

const fn table<K, V>(name: &'static str, pinned: bool, rebuilt: bool) -> Table {
    Table { name, key: size_of::<K>(), value: size_of::<V>(), pinned, rebuilt }
}

/// Every table of the ELF. Scratch space and the ring of events are made anew by every agent: the programs of the
/// last one keep theirs until they are replaced.
pub const TABLES: [Table; 22] = [
    table::<Addr, Endpoint>("ENDPOINTS", true, true),
    table::<u32, Link>("LINKS", true, true),
    // The trie's key is a prefix length (u32) before what is looked up.
    table::<[u32; 1 + size_of::<RouteKey>() / 4], Route>("ROUTES", true, true),
    table::<u32, Node>("NODE", true, true),
    table::<FlowKey, Flow>("FLOWS", true, false),
    table::<u32, Counter>("COUNTERS", true, true),
    table::<u32, PodCounter>("POD_COUNTERS", true, true),
    table::<FragmentKey, Fragment>("FRAGMENTS", true, true),
    table::<u32, u64>("POD_OPENED", true, true),
    table::<u32, PodLimit>("POD_LIMITS", true, true),
    table::<ExhaustedKey, Exhausted>("EXHAUSTED", true, true),
    table::<u32, u64>("SNAT_TRIES", true, true),
    table::<u32, Flow>("FLOW_SCRATCH", false, true),
    table::<u32, FlowKey>("UNREPLIED", false, true),
    table::<u32, [u32; 2]>("UNREPLIED_CURSOR", false, true),
    // The programs' own records: their sizes are theirs.
    table::<u32, ()>("SEARCH", false, true),
    table::<u32, ()>("SOURCES", false, true),
    table::<u32, ()>("HEADERS", false, true),
    table::<u32, Trace>("TRACE", false, true),
    table::<u32, u64>("EVENT_TIMES", false, true),
    table::<u32, u64>("EVENT_LOSSES", false, true),
    table::<(), ()>("EVENTS", false, true),
];

/// Whether the running kernel is at least this version; false if it cannot be told.
pub(super) fn kernel_has(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

/// Flags for `bpf_fib_lookup`: SKIP_NEIGH since 6.3 (31de4105f00d), SRC since 6.7 (dab4e1f06cab).
fn fib_flags() -> u32 {
    const SKIP_NEIGH: u32 = 4;
    const SRC: u32 = 16;
    let has = |major, minor, flag| if kernel_has(major, minor) { flag } else { 0 };
    has(6, 3, SKIP_NEIGH) | has(6, 7, SRC)
}

/// Loads all programs; nothing is attached yet.
pub(super) fn load(options: &Options, pins: &Pins) -> Result<Ebpf, DatapathError> {
    let mut ebpf = open(&options.gateway_mac, false, |loader| {
        loader.map_max_entries("FLOWS", options.flow_entries);
        for table in TABLES.iter().filter(|table| table.pinned) {
            let path = pins.maps.join(table.name);
            check_pin(table, &path)?;
            loader.map_pin_path(table.name, path);
        }
        Ok(())
    })?;
    for program in PROGRAMS {
        verify(classifier(&mut ebpf, program)?, program)?;
    }
    Ok(ebpf)
}

/// The object with its constants set and its tables made or opened as `tables` says; no program is verified yet.
pub(super) fn open(
    gateway_mac: &[u8; 6],
    dry_run: bool,
    tables: impl FnOnce(&mut EbpfLoader<'_>) -> Result<(), DatapathError>,
) -> Result<Ebpf, DatapathError> {
    let (flags, dry_run) = (fib_flags(), u32::from(dry_run));
    let mut loader = EbpfLoader::new();
    loader
        .override_global("GATEWAY_MAC", &gateway_mac[..], true)
        .override_global("FIB_FLAGS", &flags, true)
        .override_global("DRY_RUN", &dry_run, true);
    tables(&mut loader)?;
    loader.load(ELF).map_err(kernel("loading the eBPF object"))
}

/// Gives a program to the kernel's verifier.
pub(super) fn verify(classifier: &mut SchedClassifier, program: Program) -> Result<(), DatapathError> {
    classifier
        .load()
        .map_err(|error| DatapathError::Verifier { program: program.name(), reason: tail(&chain(&error)) })
}

/// The end of a verifier log: the refusal stands in its last lines.
fn tail(text: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The program as aya's type.
pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, DatapathError> {
    let name = program.name();
    ebpf.program_mut(name)
        .ok_or_else(|| {
            kernel(format!("finding the program {name}"))(std::io::Error::other("not in the object"))
        })?
        .try_into()
        .map_err(kernel(format!("using {name} as a tc program")))
}

/// aya reuses a pin without looking at it: a table of another layout would be read as garbage.
fn check_pin(table: &Table, path: &Path) -> Result<(), DatapathError> {
    if !path.exists() {
        return Ok(());
    }
    let info =
        MapInfo::from_pin(path).map_err(kernel(format!("opening the pinned table {}", path.display())))?;
    if (info.key_size() as usize, info.value_size() as usize) == (table.key, table.value) {
        return Ok(());
    }
    if table.rebuilt {
        return std::fs::remove_file(path)
            .map_err(kernel(format!("replacing the pinned table {}", path.display())));
    }
    Err(DatapathError::Layout {
        path: path.to_owned(),
        found: format!("keys of {} and values of {} bytes", info.key_size(), info.value_size()),
        wanted: format!("keys of {} and values of {} bytes", table.key, table.value),
    })
}
