//! The lab's surroundings: a private mount namespace, a holder that keeps it, and the agent.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};

use super::{
    error::{Doing, LabError},
    process::{self, Process},
    stage::Stage,
    state::{self, Lock, Places},
    topology::{BLOCK, BLOCK_V6, UPLINK},
};
use crate::{api::client::Client, net::Netns};

/// Where named namespaces live.
pub(super) const NETNS_DIR: &str = "/run/netns";
/// Where programs and tables are pinned.
const BPFFS: &str = "/sys/fs/bpf";
/// How long the agent may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked.
const ASK: Duration = Duration::from_millis(20);

/// Moves this process to a mount namespace of its own, with an empty directory for namespaces and an own bpffs, so that
/// nothing of the lab is visible on the machine and all of it goes with the lab's last process. Must be called while
/// the process has one thread: threads started later are in it, others would not be.
///
/// # Errors
/// What the kernel says.
pub(super) fn isolate(stage: &mut Stage) -> Result<(), LabError> {
    if !Path::new(NETNS_DIR).exists() {
        fs::create_dir_all(NETNS_DIR).doing(|| format!("making {NETNS_DIR}"))?;
        stage.state.made_netns_dir = true;
        stage.save()?;
    }
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "making a mount namespace".into())?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).doing(|| "making mounts private".into())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("lab"), NETNS_DIR, Some("tmpfs"), flags, Some("mode=0755"))
        .doing(|| format!("mounting tmpfs on {NETNS_DIR}"))?;
    if !Path::new(BPFFS).exists() {
        let reason =
            "the directory does not exist: is sysfs mounted on /sys, and has the kernel CONFIG_BPF_SYSCALL?";
        return Err(LabError::Step { doing: format!("mounting bpffs on {BPFFS}"), reason: reason.into() });
    }
    mount(Some("lab"), BPFFS, Some("bpf"), flags, Some("mode=0700"))
        .doing(|| format!("mounting bpffs on {BPFFS} (needs CONFIG_BPF_SYSCALL)"))
}

/// Takes the tmpfs off [`NETNS_DIR`] again, so that this process can remove the directory if it made it.
pub(super) fn uncover() {
    // Nothing mounted is what is wanted; the namespace goes with this process in any case.
    let _ = umount2(NETNS_DIR, MntFlags::MNT_DETACH);
}

/// Tells a holder that it is written down. Until then it ends with the run that started it.
fn release(mut stdin: impl Write) -> io::Result<()> {
    stdin.write_all(b".")
}

/// Body of `netpath lab hold`: keeps the mount namespace it was started in until SIGTERM or SIGINT. Ends at once if
/// standard input ends before `lab run` has written it down (a byte on standard input).
///
/// # Errors
/// What the kernel says about signals.
pub fn hold() -> Result<(), LabError> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().doing(|| "blocking signals".into())?;
    // Away from the terminal, whose Ctrl-C is for `lab run`. Fails for a group's leader, which started it by hand.
    let _ = setsid();
    if io::stdin().read_exact(&mut [0]).is_err() {
        return Ok(());
    }
    signals.wait().doing(|| "waiting for a signal".into()).map(drop)
}

/// Body of a benchmark's holder: keeps the mount namespace as [`hold`] does, until the benchmark's process ends and with
/// it standard input. If it ended without removing what it made, removes that.
///
/// # Errors
/// What could not be removed.
pub fn reap(instance: &'static str) -> Result<(), LabError> {
    let _ = setsid();
    let mut stdin = io::stdin();
    if stdin.read_exact(&mut [0]).is_err() {
        return Ok(());
    }
    io::copy(&mut stdin, &mut io::sink()).doing(|| "waiting for the benchmark's end".into())?;
    let places = Places::of(instance);
    state::remove(&places, Lock::wait(&places, PATIENCE)?, true).map(drop)
}

impl Stage {
    /// Starts this program with `arguments` as the holder, and writes it down. It keeps the mount namespace when this
    /// process is gone. The handle is its standard input.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn start_holder(&mut self, arguments: &[&str]) -> Result<ChildStdin, LabError> {
        let doing = || "starting the holder".to_owned();
        let mut command = Command::new(env::current_exe().doing(doing)?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().doing(doing)?;
        self.state.holder = Process::find(child.id());
        self.save()?;
        let mut stdin = child.stdin.take().ok_or("it has no standard input").doing(doing)?;
        release(&mut stdin).doing(doing)?;
        Ok(stdin)
    }

    /// Starts `netpath agent run` in the node's namespace, writes it down, and waits until it answers. `more` is added
    /// to its configuration, which is else that of a new installation.
    ///
    /// # Errors
    /// [`LabError::Agent`] with the end of its log if it ends or does not answer in time.
    pub(crate) async fn start_agent(&mut self, node: &Netns, more: &str) -> Result<Client, LabError> {
        let runtime = &self.places.runtime;
        let doing = || format!("preparing the agent in {}", runtime.display());
        DirBuilder::new().recursive(true).create(runtime.parent().unwrap_or(runtime)).doing(doing)?;
        DirBuilder::new().recursive(true).mode(0o700).create(runtime).doing(doing)?;
        let (config, log) = (runtime.join("agent.toml"), runtime.join("agent.log"));
        fs::write(&config, configuration() + more).doing(doing)?;
        let output = File::create(&log).doing(doing)?;
        let mut command = self.command().doing(doing)?;
        command.args(["agent", "run", "--uplink", UPLINK, "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(output.try_clone().doing(doing)?).stderr(output);
        // A group of its own: Ctrl-C on the terminal is for whoever started this, who then ends the agent.
        command.process_group(0);
        let mut child = node.enter(|| command.spawn())?.doing(doing)?;
        self.state.agent = Process::find(child.id());
        self.save()?;
        let client = Client::new(self.places.runtime.join("agent.sock"));
        match ready(&client, &mut child).await {
            Ok(()) => Ok(client),
            Err(reason) => Err(LabError::Agent { reason, tail: tail(&log), log }),
        }
    }

    /// Ends the agent; its pods and their traffic stay.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) fn stop_agent(&mut self) -> Result<(), LabError> {
        let agent = self.state.agent.take();
        process::end(agent.as_slice(), process::PATIENCE).doing(|| "ending the agent".into()).map(drop)
    }

    /// This program for this instance, with nothing of the environment that would tell it otherwise.
    pub(crate) fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--instance", self.places.instance]);
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NETPATH_")) {
            command.env_remove(name);
        }
        Ok(command)
    }
}

async fn ready(client: &Client, child: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match client.status().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended with {status}"));
        }
        if Instant::now() > deadline {
            return Err(format!("no answer within {} s: {error}", PATIENCE.as_secs()));
        }
        tokio::time::sleep(ASK).await;
    }
}

/// What the agent is told: everything else is at its default, so that the lab shows what users get.
fn configuration() -> String {
    format!("block = [\"{BLOCK}\", \"{BLOCK_V6}\"]\n")
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether this process may make namespaces.
pub(super) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_of_a_log_is_its_last_twenty_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, (0..30).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        assert!(tail(&log).starts_with("10\n") && tail(&log).ends_with("29"));
        assert!(tail(&dir.path().join("none")).contains("No such file"));
    }
}
