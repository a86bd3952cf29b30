//! Dry runs: the same programs once more, loaded to tell what they decide. They read the tables that the attached ones
//! read, write to none of them, and count, note and tell in tables of their own.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, MapData},
    programs::SchedClassifier,
};
use netpath_common::abi::{Program, Trace};

use super::{
    error::{DatapathError, kernel},
    load::{Constants, TABLES, classifier, open, verify, xdp},
    tables::take,
};

/// Pinned tables that a dry run has of its own, with as many entries as it needs: a row or a page is enough.
const OWN: [(&str, u32); 6] = [
    ("FRAGMENTS", 64),
    ("COUNTERS", 1),
    ("POD_COUNTERS", 1),
    ("EXHAUSTED", 64),
    ("SNAT_TRIES", 1),
    ("DENY_COUNTERS", 1),
];
/// The same of tables that are not pinned.
const SMALL: [(&str, u32); 2] = [("UNREPLIED", 1), ("EVENTS", 4096)];

/// Longest frame of a dry run, bytes: older kernels take what fits a page beside their own records.
pub const MAX_FRAME: usize = 3500;

/// Programs that run on one packet at a time, by hand. They are loaded at their first use, and stay.
pub struct DryRun {
    gateway_mac: [u8; 6],
    /// Where the tables that decide are pinned.
    maps: PathBuf,
    loaded: Option<Loaded>,
}

struct Loaded {
    ebpf: Ebpf,
    trace: Array<MapData, Trace>,
}

/// A frame at a program.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The frame, from the Ethernet header on; at most [`MAX_FRAME`] bytes.
    pub frame: &'a [u8],
    /// Interface that the program runs on.
    pub ifindex: u32,
    /// Interface the packet came in by; 0 if the node made it.
    pub ingress_ifindex: u32,
    /// Mark.
    pub mark: u32,
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The frame.
    pub frame: Vec<u8>,
    /// Its mark.
    pub mark: u32,
    /// What the program told.
    pub trace: Trace,
}

impl DryRun {
    pub(super) fn new(gateway_mac: [u8; 6], maps: PathBuf) -> Self {
        Self { gateway_mac, maps, loaded: None }
    }

    /// A tc program.
    ///
    /// # Errors
    /// The verifier's or the kernel's reason, or a pinned table is missing.
    pub fn program(&mut self, program: Program) -> Result<&SchedClassifier, DatapathError> {
        self.loaded()?.program(program)
    }

    /// Runs a program on a frame. Nothing is sent: the kernel ignores what a program asks for in a test run.
    ///
    /// # Errors
    /// As [`program`](Self::program).
    pub fn run(&mut self, program: Program, at: At<'_>) -> Result<Ran, DatapathError> {
        let doing = || format!("running {} on a packet of a trace", program.name());
        let loaded = self.loaded()?;
        loaded.trace.set(0, Trace::default(), 0).map_err(kernel(doing()))?;
        let mut frame = vec![0; at.frame.len()];
        let (context_in, mut context_out) = (context(at), [0; CONTEXT]);
        let mut options = TestRunOptions {
            data_in: Some(at.frame),
            data_out: Some(&mut frame),
            ..TestRunOptions::default()
        };
        let ran = if program.is_xdp() {
            loaded.verify(program)?;
            xdp(&mut loaded.ebpf, program)?.test_run(options)
        } else {
            (options.ctx_in, options.ctx_out) = (Some(&context_in[..]), Some(&mut context_out[..]));
            loaded.program(program)?.test_run(options)
        };
        ran.map_err(kernel(doing()))?;
        let mark = context_out[MARK..].first_chunk().copied().unwrap_or_default();
        let trace = loaded.trace.get(&0, 0).map_err(kernel(doing()))?;
        Ok(Ran { frame, mark: u32::from_ne_bytes(mark), trace })
    }

    fn loaded(&mut self) -> Result<&mut Loaded, DatapathError> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => {
                let constants =
                    Constants { gateway_mac: self.gateway_mac, dry_run: true, ..Constants::default() };
                let mut ebpf = open(&constants, |loader| share(loader, &self.maps))?;
                let trace = take!(&mut ebpf, "TRACE");
                Loaded { ebpf, trace }
            }
        };
        Ok(self.loaded.insert(loaded))
    }
}

impl Loaded {
    fn program(&mut self, program: Program) -> Result<&SchedClassifier, DatapathError> {
        self.verify(program)?;
        Ok(classifier(&mut self.ebpf, program)?)
    }

    /// Loads a program at its first use.
    fn verify(&mut self, program: Program) -> Result<(), DatapathError> {
        let there = self.ebpf.program(program.name()).is_some_and(|program| program.fd().is_ok());
        if there { Ok(()) } else { verify(&mut self.ebpf, program) }
    }
}

/// Opens the tables that decide; aya would make one that is not there, and pin it.
fn share(loader: &mut EbpfLoader<'_>, maps: &Path) -> Result<(), DatapathError> {
    for (name, entries) in OWN.into_iter().chain(SMALL) {
        loader.map_max_entries(name, entries);
    }
    for table in TABLES.iter().filter(|table| table.pinned && !OWN.iter().any(|(own, _)| *own == table.name))
    {
        let pin = maps.join(table.name);
        if !pin.exists() {
            let missing =
                io::Error::new(io::ErrorKind::NotFound, "somebody has removed it; restart the agent");
            return Err(kernel(format!("opening the pinned table {}", pin.display()))(missing));
        }
        loader.map_pin_path(table.name, pin);
    }
    Ok(())
}

/// Bytes of `struct __sk_buff` (include/uapi/linux/bpf.h), and where the fields of it stand that a run may set.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

fn context(at: At<'_>) -> [u8; CONTEXT] {
    let mut bytes = [0; CONTEXT];
    for (offset, value) in [(MARK, at.mark), (INGRESS_IFINDEX, at.ingress_ifindex), (IFINDEX, at.ifindex)] {
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}
