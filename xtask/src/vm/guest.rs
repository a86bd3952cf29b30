//! A guest: QEMU, its console shown as it comes, and a watchdog.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    emulator::emulator,
    job::{JUNIT, Job, SKIPPED},
    kernel::Kernel,
};
use crate::process::say;

/// What a job left.
pub(super) struct Outcome {
    /// Whether it ended with status 0.
    pub(super) passed: bool,
    /// How long the guest ran.
    pub(super) took: Duration,
    /// nextest's report, if there is one.
    pub(super) junit: Option<String>,
    /// The tests that say they could not run, `name: reason` a line.
    pub(super) skipped: String,
}

/// Megabytes: what tests write goes to the guest's memory too.
const MEMORY: &str = "3072";
/// The TSC is no clock here: measured against a timer while the host is busy, its rate is off, and seconds last a sixth.
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on tsc=unstable clocksource=hpet";
/// QEMU's exit status is twice the byte written to isa-debug-exit, plus one; the bytes are init.sh's.
const PASSED: i32 = 16 * 2 + 1;
const FAILED: i32 = 17 * 2 + 1;
const NOT_PREPARED: i32 = 18 * 2 + 1;

/// Runs a job in a guest with this kernel.
///
/// # Errors
/// The guest cannot be started, ends without saying how, or takes longer than `limit`.
pub(super) fn run(kernel: &Kernel, job: &Job, limit: Duration) -> Result<Outcome> {
    let share = Share::new(kernel, job)?;
    let started = Instant::now();
    let mut qemu = qemu(kernel, &share.0)?;
    let console = qemu.0.stdout.take().context("QEMU's console")?;
    let (sender, lines) = channel();
    thread::spawn(move || read(console, |line| sender.send(line).is_ok()));
    let Some(status) = watch(&mut qemu.0, &lines, started + limit)? else {
        bail!("killed after {} minutes: raise --timeout, or select fewer tests", limit.as_secs() / 60);
    };
    let passed = match status.code() {
        Some(PASSED) => true,
        Some(FAILED) => false,
        Some(NOT_PREPARED) => bail!("the guest could not be prepared; why is said above"),
        Some(0) => bail!("the guest ended without a result: did its kernel panic? Its last lines are above"),
        _ if status.signal().is_some() => bail!("QEMU was ended by a signal: {status}"),
        _ => bail!("QEMU failed: {status}"),
    };
    let read = |name| fs::read_to_string(share.0.join(name));
    let skipped = read(SKIPPED).unwrap_or_default();
    Ok(Outcome { passed, took: started.elapsed(), junit: read(JUNIT).ok(), skipped })
}

/// The directory shared with a guest; removed in the end, and before the start if a run could not.
struct Share(PathBuf);

impl Share {
    fn new(kernel: &Kernel, job: &Job) -> Result<Self> {
        let dir = kernel.dir.join("share");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let share = Self(dir);
        for (name, contents) in &job.files {
            fs::write(share.0.join(name), contents)
                .with_context(|| format!("writing {name} for the guest"))?;
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// QEMU, ended with its guard.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn qemu(kernel: &Kernel, share: &Path) -> Result<Guest> {
    let mut qemu = emulator()?;
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
    qemu.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
    qemu.arg("-kernel").arg(kernel.vmlinuz()).arg("-initrd").arg(kernel.initramfs());
    qemu.args(["-append", COMMAND_LINE]);
    for (tag, path, options) in [
        ("host", Path::new("/"), "readonly=on,multidevs=remap"),
        ("modules", &kernel.modules(), "readonly=on,multidevs=remap"),
        ("share", share, "multidevs=remap"),
    ] {
        let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        // QEMU's own way to write a comma.
        let path = path.replace(',', ",,");
        qemu.arg("-virtfs");
        qemu.arg(format!("local,path={path},mount_tag={tag},security_model=none,{options}"));
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(Guest(qemu.spawn().context("starting QEMU through setpriv")?))
}

/// Calls `each` with every line until it has enough.
fn read(console: impl Read, each: impl Fn(String) -> bool) {
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !each(String::from_utf8_lossy(&line).trim_end().to_owned()) {
            return;
        }
        line.clear();
    }
}

/// Shows the console until QEMU ends; nothing if it had to be killed.
fn watch(qemu: &mut Child, lines: &Receiver<String>, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => eprintln!("{line}"),
            // Its console is closed: it is about to end.
            Err(RecvTimeoutError::Disconnected) => return qemu.wait().map(Some).context("waiting for QEMU"),
            Err(RecvTimeoutError::Timeout) => {
                say(format!("killing QEMU, process {}: it takes too long", qemu.id()));
                qemu.kill().context("killing QEMU")?;
                qemu.wait().context("waiting for QEMU")?;
                return Ok(None);
            }
        }
    }
}
