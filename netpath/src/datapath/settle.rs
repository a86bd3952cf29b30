//! `from_pod` on tcx instead of a filter, once there is time for it: a filter costs each packet more.
//!
//! The link is made before the filter goes, and meanwhile a packet meets both: what the first lets go on it marks, and the
//! second finds that (`TWO_KINDS` of the programs).

use std::os::fd::{AsFd as _, OwnedFd};

use netpath_common::abi::Program;
use nix::libc::{EEXIST, ENODEV};

use super::{
    Datapath,
    bpf::{self, TcxHook},
    clsact,
    error::{DatapathError, kernel},
    load,
    pins::Pins,
};

const PROGRAM: Program = Program::FromPod;

/// Makes links for pods whose programs came by filters. Whoever has it waits for nobody who works on programs and tables, and
/// nobody for him.
#[derive(Debug)]
pub struct Settler {
    program: OwnedFd,
    pins: Pins,
}

impl Settler {
    /// Whether a pod's interface has its link.
    pub fn is_settled(&self, ifindex: u32) -> bool {
        self.pins.link(ifindex, PROGRAM.name()).exists()
    }

    /// Makes it; no error if the interface is gone. Blocks for a grace period of the kernel, with its lock for links held. What is
    /// to follow is [`Datapath::drop_filter`].
    ///
    /// # Errors
    /// The kernel's reason; the filter is as it was.
    pub fn settle(&self, ifindex: u32) -> Result<(), DatapathError> {
        let pin = self.pins.link(ifindex, PROGRAM.name());
        match bpf::pin_first(self.program.as_fd(), (ifindex, TcxHook::Ingress), &pin) {
            // Somebody else has the pin, or the program is there: what is whole by then is looked at next.
            Err(error) if error.raw_os_error() == Some(EEXIST) && pin.exists() => Ok(()),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(()),
            outcome => outcome.map_err(kernel(format!(
                "moving {} of the interface with index {ifindex} from its filter to a tcx link",
                PROGRAM.name()
            ))),
        }
    }
}

impl Datapath {
    /// Who moves pods' programs to links; nobody if they are where they are to stay.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn settler(&self) -> Result<Option<Settler>, DatapathError> {
        if !self.attach.settles {
            return Ok(None);
        }
        let doing = || format!("opening {}", PROGRAM.name());
        let program = load::loaded::<aya::programs::SchedClassifier>(&self.ebpf, PROGRAM)?;
        let program = program.fd().map_err(kernel(doing()))?.as_fd();
        let program = program.try_clone_to_owned().map_err(kernel(doing()))?;
        Ok(Some(Settler { program, pins: self.pins.clone() }))
    }

    /// Removes a pod's filter that is behind its link by now; no error if there is none.
    ///
    /// # Errors
    /// The kernel's reason; a packet that meets both is judged once.
    pub fn drop_filter(&self, ifindex: u32) -> Result<(), DatapathError> {
        self.drop_behind(&clsact::on(self.pins.owner, &[ifindex])?)
    }
}
