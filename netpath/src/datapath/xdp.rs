//! XDP programs on interfaces: pinned links, in the driver where it can, else before the stack (generic).
//!
//! An interface has one XDP program: somebody else's is left alone, and ours is then not attached.

use std::{
    io,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpLinkId},
};
use netpath_common::abi::Program;
use nix::errno::Errno;

use super::{
    Datapath,
    bpf::detach_pinned,
    error::{DatapathError, kernel},
    load,
    pins::Pins,
};

/// A link whose pin is removed lets go of its interface a little later, in a worker of the kernel.
const RELEASE: Duration = Duration::from_millis(100);

impl Datapath {
    /// Attaches `xdp_uplink`, in the driver if it can, or replaces what is there; or takes it off. Idempotent.
    ///
    /// # Errors
    /// The kernel's reason, or that somebody else's XDP program is there.
    pub fn attach_deny(&mut self, ifname: &str, ifindex: u32, attached: bool) -> Result<(), DatapathError> {
        if !attached {
            return remove(&self.pins.link(ifindex, Program::XdpUplink.name()));
        }
        let program = load::xdp(&mut self.ebpf, Program::XdpUplink)?;
        let modes = [XdpMode::Driver, XdpMode::Skb];
        attach(program, Program::XdpUplink, &self.pins, &modes, (ifname, ifindex))
    }

    /// Attaches `xdp_pod` to a pod's host end, or replaces what is there. In the driver, as every veth can: on socket buffers
    /// a train of segments would not fit out of the other end. Idempotent.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach_frames(&mut self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        let program = load::xdp(&mut self.ebpf, Program::XdpPod)?;
        attach(program, Program::XdpPod, &self.pins, &[XdpMode::Driver], (ifname, ifindex))
    }

    /// Takes `xdp_pod` off; no error if it is not there.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn detach_frames(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        remove(&self.pins.link(ifindex, Program::XdpPod.name()))
    }

    /// Whether `xdp_pod` of this loading is on an interface, by a pinned link.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn has_frames(&mut self, ifindex: u32) -> Result<bool, DatapathError> {
        let pin = self.pins.link(ifindex, Program::XdpPod.name());
        // Asking costs as much as replacing, and tells less.
        Ok(pin.exists() && replace(load::xdp(&mut self.ebpf, Program::XdpPod)?, &pin)?)
    }

    /// A loaded XDP program, for test runs.
    ///
    /// # Errors
    /// If it is none.
    pub fn xdp_program(&self, program: Program) -> Result<&Xdp, DatapathError> {
        load::loaded(&self.ebpf, program)
    }
}

/// Attaches a loaded program in the first of the modes that works, or puts it into the link that is there. Idempotent.
fn attach(
    xdp: &mut Xdp,
    program: Program,
    pins: &Pins,
    modes: &[XdpMode],
    (ifname, ifindex): (&str, u32),
) -> Result<(), DatapathError> {
    let pin = pins.link(ifindex, program.name());
    if pin.exists() && replace(xdp, &pin)? {
        return Ok(());
    }
    let doing = format!("attaching {} to {ifname}", program.name());
    let mut attached = in_mode(xdp, ifindex, modes[0]);
    for mode in &modes[1..] {
        if attached.as_ref().is_err_and(|error| !is_taken(error)) {
            attached = in_mode(xdp, ifindex, *mode);
        }
    }
    let id = attached.map_err(|error| {
        let why =
            if is_taken(&error) { ", which has another XDP program ('ip link show' tells)" } else { "" };
        kernel(format!("{doing}{why}"))(error)
    })?;
    let link: FdLink = xdp.take_link(id).map_err(kernel(&doing))?.try_into().map_err(kernel(&doing))?;
    link.pin(&pin).map_err(kernel(format!("pinning the link of {} on {ifname}", program.name())))?;
    Ok(())
}

/// Puts a program into a pinned link, in one step. Returns false if the link has no interface any more, as somebody has
/// detached it or the interface is gone; its pin is then gone as well.
pub(super) fn replace(xdp: &mut Xdp, pin: &Path) -> Result<bool, DatapathError> {
    let doing = || format!("replacing the program of the link {}", pin.display());
    let old = PinnedLink::from_pin(pin).map_err(kernel(doing()))?;
    let link: XdpLink = FdLink::from(old).try_into().map_err(kernel(doing()))?;
    match xdp.attach_to_link(link) {
        Ok(id) => {
            // The pin alone is to hold the link: kept open here, it would outlive its pin.
            drop(xdp.take_link(id).map_err(kernel(doing()))?);
            Ok(true)
        }
        Err(error) if errno(&error) == Some(Errno::ENOLINK) => {
            remove(pin)?;
            Ok(false)
        }
        Err(error) => Err(kernel(doing())(error)),
    }
}

/// Takes a program off by its pin, at once; no error if there is none.
pub(super) fn remove(pin: &Path) -> Result<(), DatapathError> {
    // What is not taken off here goes with its pin, a little later.
    let _ = detach_pinned(pin);
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(kernel(format!("removing the pin {}", pin.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Attaches in one mode, once an earlier link has let go.
fn in_mode(xdp: &mut Xdp, ifindex: u32, mode: XdpMode) -> Result<XdpLinkId, ProgramError> {
    let deadline = Instant::now() + RELEASE;
    loop {
        match xdp.attach_to_if_index(ifindex, mode) {
            Err(error) if is_taken(&error) && Instant::now() < deadline => sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

/// Whether an interface has another program, in the same mode or in another.
fn is_taken(error: &ProgramError) -> bool {
    matches!(errno(error), Some(Errno::EBUSY | Errno::EEXIST))
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
