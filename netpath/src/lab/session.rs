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
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked.
pub(super) const ASK: Duration = Duration::from_millis(20);

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
    cover(NETNS_DIR.as_ref(), "mode=0755")?;
    if !Path::new(BPFFS).exists() {
        let reason =
            "the directory does not exist: is sysfs mounted on /sys, and has the kernel CONFIG_BPF_SYSCALL?";
        return Err(LabError::Step { doing: format!("mounting bpffs on {BPFFS}"), reason: reason.into() });
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("lab"), BPFFS, Some("bpf"), flags, Some("mode=0700"))
        .doing(|| format!("mounting bpffs on {BPFFS} (needs CONFIG_BPF_SYSCALL)"))
}

/// Takes the tmpfs off a directory again, so that this process can remove the directory.
pub(super) fn uncover(dir: &Path) {
    // Nothing mounted is what is wanted; the namespace goes with this process in any case.
    let _ = umount2(dir, MntFlags::MNT_DETACH);
}

/// Mounts a tmpfs on a directory of the private mount namespace.
pub(super) fn cover(dir: &Path, mode: &str) -> Result<(), LabError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("lab"), dir, Some("tmpfs"), flags, Some(mode))
        .doing(|| format!("mounting tmpfs on {}", dir.display()))
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
pub fn reap(instance: &str) -> Result<(), LabError> {
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
        let mut child = launch_agent(&self.places, node, &(configuration() + more))?;
        self.state.agent = Process::find(child.id());
        self.save()?;
        ready(&self.places, &mut child).await
    }

    /// Starts an agent in each of several namespaces, all at once, and waits until all answer. The first one's instance,
    /// which its socket and state have their names of, is that of the surroundings with a `1` behind it, and so on;
    /// `configuration` tells what an instance is configured with beside its uplink, [`UPLINK`].
    ///
    /// # Errors
    /// [`LabError::Agent`] with the end of its log for the first that ends or does not answer in time.
    pub(crate) async fn start_agents(
        &mut self,
        nodes: &[&Netns],
        configuration: impl Fn(&str) -> String,
    ) -> Result<Vec<Client>, LabError> {
        let first = self.state.instances.len() + 1;
        let instances =
            (first..first + nodes.len()).map(|number| format!("{}{number}", self.places.instance));
        let all: Vec<_> = instances.map(Places::of).collect();
        all.iter().try_for_each(Places::check_free)?;
        self.state.instances.extend(all.iter().map(|places| places.instance.clone()));
        self.save()?;
        let mut children = Vec::new();
        for (places, node) in all.iter().zip(nodes) {
            let child = launch_agent(places, node, &configuration(&places.instance))?;
            self.note(&child)?;
            children.push(child);
        }
        let mut clients = Vec::new();
        for (places, child) in all.iter().zip(&mut children) {
            clients.push(ready(places, child).await?);
        }
        Ok(clients)
    }

    /// Writes a process down, to be ended with the rest.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn note(&mut self, child: &Child) -> Result<(), LabError> {
        self.state.others.extend(Process::find(child.id()));
        self.save()
    }

    /// Ends the agent; its pods and their traffic stay.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) fn stop_agent(&mut self) -> Result<(), LabError> {
        let agent = self.state.agent.take();
        process::end(agent.as_slice(), process::PATIENCE).doing(|| "ending the agent".into()).map(drop)
    }
}

/// This program for an instance, with nothing of the environment that would tell it otherwise.
fn command(instance: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--instance", instance]);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NETPATH_")) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Starts `netpath agent run` in a namespace, with this configuration.
fn launch_agent(places: &Places, node: &Netns, configuration: &str) -> Result<Child, LabError> {
    let runtime = &places.runtime;
    let doing = || format!("preparing the agent in {}", runtime.display());
    make_dir(runtime).doing(doing)?;
    let config = runtime.join("agent.toml");
    fs::write(&config, configuration).doing(doing)?;
    let mut command = command(&places.instance).doing(doing)?;
    command.args(["agent", "run", "--uplink", UPLINK, "--config"]).arg(&config);
    launch(node, &mut command, &places.log()).doing(doing)
}

/// Makes a directory for root's eyes only, below one for all.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(dir.parent().unwrap_or(dir))?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Starts a program in a namespace, with nothing to read, and what it says in a file.
pub(super) fn launch(netns: &Netns, command: &mut Command, log: &Path) -> io::Result<Child> {
    let output = File::create(log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A group of its own: Ctrl-C on the terminal is for whoever started this, who then ends it.
    command.process_group(0);
    netns.enter(|| command.spawn()).map_err(io::Error::other)?
}

/// Waits until an agent answers.
async fn ready(places: &Places, child: &mut Child) -> Result<Client, LabError> {
    let client = Client::new(places.runtime.join("agent.sock"));
    match answers(&client, child).await {
        Ok(()) => Ok(client),
        Err(reason) => Err(LabError::Agent { reason, tail: tail(&places.log()), log: places.log() }),
    }
}

async fn answers(client: &Client, child: &mut Child) -> Result<(), String> {
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
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether a program is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    let dirs = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&dirs).any(|dir| dir.join(program).is_file())
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
