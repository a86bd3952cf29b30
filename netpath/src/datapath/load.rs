//! Loading the ELF: tables reused from their pins, constants set, programs verified.

use std::{
    hash::{BuildHasher as _, RandomState},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::MapInfo,
    programs::{self, ProgramError, SchedClassifier, Xdp},
    util::KernelVersion,
};
use aya_obj::Object;
use netpath_common::abi::{
    Addr, Asked, CachedEndpoint, Counter, Endpoint, Exhausted, ExhaustedKey, Flow, FlowKey, Fragment,
    FragmentKey, Link, Node, PodCounter, PodLimit, Program, Published, PublishedKey, Route, RouteKey,
    SocketKey, Trace,
};

use super::{
    Options, bpf, endpoints,
    error::{DatapathError, chain, kernel},
    moving::{self, Plan},
    pins::Pins,
};

/// The object.
pub static ELF: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpath-ebpf"));

/// Every program of the ELF.
pub const PROGRAMS: [Program; 8] = [
    Program::FromPod,
    Program::ToPod,
    Program::FromUplink,
    Program::ToUplink,
    Program::XdpUplink,
    Program::XdpPod,
    Program::FromOverlay,
    Program::ToOverlay,
];

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
pub const TABLES: [Table; 34] = [
    table::<Addr, Endpoint>("ENDPOINTS", true, true),
    table::<u32, CachedEndpoint>("ENDPOINT_CACHE", true, true),
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
    table::<u32, u64>("POD_BUCKETS", true, true),
    table::<ExhaustedKey, Exhausted>("EXHAUSTED", true, true),
    table::<u32, u64>("SNAT_TRIES", true, true),
    table::<[u32; 1 + size_of::<Addr>() / 4], u32>("DENY", true, true),
    table::<u32, Counter>("DENY_COUNTERS", true, true),
    table::<PublishedKey, Published>("PUBLISHED", true, true),
    table::<u32, u64>("PROTECTED", true, true),
    // Sockets live longer than agents.
    table::<SocketKey, Asked>("HOST_SOCKETS", true, true),
    // Pinned only while flows move; see `moving`.
    table::<FlowKey, Flow>("FLOWS_BEFORE", false, true),
    table::<u32, u32>("FLOWS_MOVE", false, true),
    table::<u32, Flow>("FLOW_MOVED", false, true),
    table::<u32, Flow>("FLOW_SCRATCH", false, true),
    table::<u32, FlowKey>("UNREPLIED", false, true),
    table::<u32, [u32; 2]>("UNREPLIED_CURSOR", false, true),
    // The programs' own records: their sizes are theirs.
    table::<u32, ()>("SEARCH", false, true),
    table::<u32, ()>("SOURCES", false, true),
    table::<u32, ()>("LED", false, true),
    table::<u32, ()>("HEADERS", false, true),
    table::<u32, Trace>("TRACE", false, true),
    table::<u32, u64>("EVENT_TIMES", false, true),
    table::<u32, u64>("EVENT_LOSSES", false, true),
    table::<u32, u32>("EVENT_LISTENERS", false, true),
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
pub(super) fn load(
    options: &Options,
    pins: &Pins,
    plan: &Plan,
    changing: bool,
) -> Result<Ebpf, DatapathError> {
    let mut object = Object::parse(ELF).map_err(kernel("reading the eBPF object"))?;
    let seats = endpoints::seats()?;
    if let Some(cache) = object.maps.get_mut(endpoints::CACHE) {
        cache.set_max_entries(seats);
    }
    let gateway_mac = options.gateway_mac;
    let two_kinds = if changing {
        u32::MAX
    } else if options.attach.settles {
        1 << Program::FromPod as u32
    } else {
        0
    };
    let node_cookie = bpf::netns_cookie().map_err(kernel("reading the network namespace's cookie"))?;
    let constants =
        Constants { gateway_mac, node_cookie, flow_before: plan.before, two_kinds, dry_run: false };
    let mut ebpf = open(&constants, |loader| {
        loader.map_max_entries("FLOWS", plan.entries);
        loader.map_max_entries(endpoints::CACHE, seats);
        for table in TABLES.iter().filter(|table| table.pinned) {
            let path = pins.maps.join(table.name);
            if let Some(wanted) = object.maps.get(table.name).filter(|_| table.rebuilt) {
                replace_other(wanted, &path)?;
            }
            loader.map_pin_path(table.name, path);
        }
        if plan.before != 0 {
            for name in moving::PINNED {
                loader.map_pin_path(name, pins.maps.join(name));
            }
        }
        Ok(())
    })?;
    for program in PROGRAMS {
        verify(&mut ebpf, program)?;
    }
    Ok(ebpf)
}

/// What a loading of the programs is told for good.
#[derive(Default)]
pub(super) struct Constants {
    /// MAC of every host end.
    pub(super) gateway_mac: [u8; 6],
    /// Cookie of the node's network namespace; 0 if its sockets are none of these programs' business.
    pub(super) node_cookie: u64,
    /// Bytes of a record in the table that flows are moved from; 0 if there is none.
    pub(super) flow_before: u32,
    /// Programs that a hook may have by both kinds, one behind the other: the bit of each one's number.
    pub(super) two_kinds: u32,
    /// Whether the programs only tell what they would do.
    pub(super) dry_run: bool,
}

/// The object with its constants set and its tables made or opened as `tables` says; no program is verified yet.
pub(super) fn open(
    constants: &Constants,
    tables: impl FnOnce(&mut EbpfLoader<'_>) -> Result<(), DatapathError>,
) -> Result<Ebpf, DatapathError> {
    let (flags, dry_run) = (fib_flags(), u32::from(constants.dry_run));
    // A hash with random keys of the kernel's: no pod can guess it.
    let note = RandomState::new().hash_one(constants.two_kinds);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("GATEWAY_MAC", &constants.gateway_mac[..], true)
        .override_global("NODE_COOKIE", &constants.node_cookie, true)
        .override_global("FIB_FLAGS", &flags, true)
        .override_global("FLOW_BEFORE_BYTES", &constants.flow_before, true)
        .override_global("TWO_KINDS", &constants.two_kinds, true)
        .override_global("NOTE", &note, true)
        .override_global("DRY_RUN", &dry_run, true);
    tables(&mut loader)?;
    loader.load(ELF).map_err(kernel("loading the eBPF object"))
}

/// Gives a program to the kernel's verifier.
pub(super) fn verify(ebpf: &mut Ebpf, program: Program) -> Result<(), DatapathError> {
    let loaded =
        if program.is_xdp() { xdp(ebpf, program)?.load() } else { classifier(ebpf, program)?.load() };
    loaded.map_err(refused(program.name()))
}

/// What the verifier says against a program.
pub(super) fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> DatapathError {
    move |error| DatapathError::Verifier { program, reason: tail(&chain(&error)) }
}

/// The end of a verifier log: the refusal stands in its last lines.
fn tail(text: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// A tc program as aya's type.
pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, DatapathError> {
    typed(ebpf, program.name())
}

/// An XDP program as aya's type.
pub(super) fn xdp(ebpf: &mut Ebpf, program: Program) -> Result<&mut Xdp, DatapathError> {
    typed(ebpf, program.name())
}

/// A program as aya's type.
pub(super) fn typed<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, DatapathError>
where
    &'a mut T: TryFrom<&'a mut programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| {
            kernel(format!("finding the program {name}"))(std::io::Error::other("not in the object"))
        })?
        .try_into()
        .map_err(kernel(format!("using {name} as what it is not")))
}

/// A program of the object as aya's type, to read.
pub(super) fn loaded<'a, T>(ebpf: &'a Ebpf, program: Program) -> Result<&'a T, DatapathError>
where
    &'a T: TryFrom<&'a programs::Program, Error = ProgramError>,
{
    let name = program.name();
    let missing =
        || kernel(format!("finding the program {name}"))(std::io::Error::other("not in the object"));
    ebpf.program(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(kernel(format!("using {name} as what it is not")))
}

/// Makes room for a table of this build where a pin holds another kind of it: aya reuses a pin without looking at it, and
/// would read it as garbage. Programs that run go on with theirs until they are replaced.
fn replace_other(wanted: &aya_obj::Map, path: &Path) -> Result<(), DatapathError> {
    if !path.exists() {
        return Ok(());
    }
    let info =
        MapInfo::from_pin(path).map_err(kernel(format!("opening the pinned table {}", path.display())))?;
    let kind = info.map_type().map_or(0, |kind| kind as u32);
    let found = (kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags());
    let wanted =
        (wanted.map_type(), wanted.key_size(), wanted.value_size(), wanted.max_entries(), wanted.map_flags());
    if found == wanted {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(kernel(format!("replacing the pinned table {}", path.display())))
}
