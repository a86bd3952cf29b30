//! Questions to the kernel that change nothing: for those who look for faults while an agent may be running.

use aya::programs::{SchedClassifier, TcAttachType};

use super::{
    error::{DatapathError, kernel},
    load::{self, Constants, PROGRAMS},
};

/// A program among an interface's tcx programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcxProgram {
    /// On what leaves the interface; else on what arrives.
    pub egress: bool,
    /// Name, as far as the kernel keeps it: 15 bytes.
    pub name: String,
    /// Kernel's id of the program.
    pub id: u32,
}

/// Has the verifier read all programs of this build, with tables of their own; nothing is attached, pinned or left.
///
/// # Errors
/// The verifier's or the kernel's reason.
pub fn try_load() -> Result<(), DatapathError> {
    // The flow table's size takes memory and is not what is asked.
    const FEW: u32 = 64;
    let mut ebpf = load::open(&Constants::default(), |loader| {
        loader.map_max_entries("FLOWS", FEW);
        Ok(())
    })?;
    PROGRAMS.into_iter().try_for_each(|program| load::verify(&mut ebpf, program))
}

/// Whether the kernel has tcx.
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// The tcx programs of an interface in their order, those on what arrives first; none where the kernel has no tcx.
///
/// # Errors
/// The kernel's reason.
pub fn tcx_programs(ifname: &str) -> Result<Vec<TcxProgram>, DatapathError> {
    let mut all = Vec::new();
    if !has_tcx() {
        return Ok(all);
    }
    for (egress, hook) in [(false, TcAttachType::Ingress), (true, TcAttachType::Egress)] {
        let (_, programs) = SchedClassifier::query_tcx(ifname, hook)
            .map_err(kernel(format!("listing the programs of {ifname}")))?;
        all.extend(programs.iter().map(|info| TcxProgram {
            egress,
            name: info.name_as_str().unwrap_or_default().to_owned(),
            id: info.id(),
        }));
    }
    Ok(all)
}
