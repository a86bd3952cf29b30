//! What a lab leaves on the machine while it is up: processes and a few directories, written down so that the next run
//! or `lab down` can remove them whatever happened to this one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::{
        linux::fs::MetadataExt,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    error::{Doing, LabError},
    process::{self, Process},
    session,
};

/// Instance name of the lab's agent.
pub(super) const LAB: &str = "lab";
/// Layout of the state file.
const VERSION: u32 = 1;

/// Where things are. Other places than the machine's are for tests.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Name of the agent's instance.
    pub(super) instance: String,
    /// Lock and state file.
    pub(super) lab: PathBuf,
    /// The agent's socket, configuration and log, and whatever else is to vanish in the end.
    pub(crate) runtime: PathBuf,
    /// The agent's store.
    pub(super) store: PathBuf,
}

impl Places {
    /// The machine's, for an instance.
    pub(crate) fn of(instance: impl Into<String>) -> Self {
        let instance = instance.into();
        Self {
            lab: format!("/run/netpath-{instance}").into(),
            runtime: Path::new("/run/netpath").join(&instance),
            store: Path::new("/var/lib/netpath").join(&instance),
            instance,
        }
    }

    fn state(&self) -> PathBuf {
        self.lab.join("lab.json")
    }

    /// The agent's log.
    pub(super) fn log(&self) -> PathBuf {
        self.runtime.join("agent.log")
    }

    /// Whether nobody else's agent has this instance: neither directory of it exists.
    ///
    /// # Errors
    /// The one that does.
    pub(super) fn check_free(&self) -> Result<(), LabError> {
        let doing = || format!("taking the instance '{}' for this run", self.instance);
        match [&self.runtime, &self.store].into_iter().find(|dir| dir.exists()) {
            None => Ok(()),
            Some(dir) => Err(format!(
                "{} exists, and no run before this one has left it: 'netpath --instance {} uninstall' removes an agent's",
                dir.display(),
                self.instance
            ))
            .doing(doing),
        }
    }

    /// Where etcd keeps its files.
    pub(super) fn etcd(&self) -> PathBuf {
        self.runtime.join("etcd")
    }
}

/// Processes of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    instance: String,
    /// The `lab run` itself.
    pub(super) run: Process,
    /// Keeps the mount namespace.
    pub(super) holder: Option<Process>,
    /// The agent.
    pub(super) agent: Option<Process>,
    /// Whatever else was started: agents of more nodes, etcd, BIRD.
    #[serde(default)]
    pub(super) others: Vec<Process>,
    /// Instances of the agents of more nodes.
    #[serde(default)]
    pub(super) instances: Vec<String>,
    /// The lab made the directory for namespaces.
    pub(super) made_netns_dir: bool,
}

impl State {
    /// A lab that only has its `lab run` yet.
    pub(super) fn new(instance: &str, run: Process) -> Self {
        Self {
            version: VERSION,
            instance: instance.into(),
            run,
            holder: None,
            agent: None,
            others: Vec::new(),
            instances: Vec::new(),
            made_netns_dir: false,
        }
    }

    /// Reads the state file; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or a later version wrote it.
    fn load(places: &Places) -> Result<Option<Self>, LabError> {
        let path = places.state();
        let doing = || format!("reading {}", path.display());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.doing(doing)?,
        };
        let state: Self = serde_json::from_str(&text).doing(doing)?;
        if state.version > VERSION {
            let reason = format!(
                "version {} of netpath's lab wrote it; remove that lab with the same netpath",
                state.version
            );
            return Err(LabError::Step { doing: doing(), reason });
        }
        Ok(Some(state))
    }

    /// Writes the state file in one step, readable by root only.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn save(&self, places: &Places) -> Result<(), LabError> {
        let path = places.state();
        let fresh = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&fresh, &path)
        };
        write().doing(|| format!("writing {}", path.display()))
    }

    /// Everything that belongs to the lab except this process: what is written down, and whatever else lives in the
    /// lab's mount namespace (an agent that was started just before a crash, a shell of `pod exec`).
    fn processes(&self) -> Vec<Process> {
        let machine = Process::find(1).and_then(Process::mount_namespace);
        let started = self.agent.iter().chain(&self.holder).chain(&self.others);
        let known: Vec<_> = started.copied().filter(|one| one.alive()).collect();
        let inside =
            known.first().and_then(|one| one.mount_namespace()).filter(|&inode| Some(inode) != machine);
        let mut all = known;
        for process in inside.map(process::in_mount_namespace).unwrap_or_default() {
            if !all.contains(&process) {
                all.push(process);
            }
        }
        all.retain(|process| process.pid != std::process::id());
        all
    }
}

/// The right to make or remove the lab; freed by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, making its directory.
    ///
    /// # Errors
    /// [`LabError::Busy`] if somebody has it, else what the kernel says.
    pub(super) fn take(places: &Places) -> Result<Self, LabError> {
        let path = places.lab.join("lock");
        let doing = || format!("locking {}", path.display());
        loop {
            DirBuilder::new().recursive(true).mode(0o700).create(&places.lab).doing(doing)?;
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .doing(doing)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let pid =
                        State::load(places)?.filter(|state| state.run.alive()).map(|state| state.run.pid);
                    return Err(LabError::Busy { what: places.instance.clone(), pid });
                }
                Err(TryLockError::Error(error)) => return Err(error).doing(doing),
            }
            // Whoever had it may have removed the file in between: then this is a lock on nothing.
            let (own, there) = (file.metadata().doing(doing)?, fs::metadata(&path));
            if there.is_ok_and(|there| there.st_ino() == own.st_ino()) {
                return Ok(Self { _file: file });
            }
        }
    }
}

impl Lock {
    /// Takes the lock as soon as a process that is about to be gone has let go of it.
    ///
    /// # Errors
    /// As [`Lock::take`], after `patience`.
    pub(super) fn wait(places: &Places, patience: Duration) -> Result<Self, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::take(places) {
                Err(LabError::Busy { .. }) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                taken => return taken,
            }
        }
    }

    /// Gives it back with its directory, for a lab that nothing came of; if one is written down there, the lock's file stays.
    pub(super) fn give_back(self, places: &Places) {
        if !places.state().exists() {
            // What cannot be removed is found by the next one.
            let _ = fs::remove_file(places.lab.join("lock")).and_then(|()| fs::remove_dir(&places.lab));
        }
    }
}

/// Ends a running `lab run` of somebody else, so that its lock becomes free. Returns whether there was one.
///
/// # Errors
/// If it does not end.
pub(super) fn end_run(places: &Places) -> Result<bool, LabError> {
    let Some(state) = State::load(places)? else { return Ok(false) };
    if state.run.pid == std::process::id() {
        return Ok(false);
    }
    Ok(process::end(&[state.run], process::PATIENCE)
        .doing(|| format!("ending lab run (process {})", state.run.pid))?
        > 0)
}

/// Removes a lab: its processes (and with the last of them every namespace, link and pin), then its files, the lock's
/// last. Nothing to remove is no error. `inside` says that this process is in its mount namespace. Returns whether there
/// was something.
///
/// # Errors
/// If a process does not end or a file cannot be removed.
pub(super) fn remove(places: &Places, lock: Lock, inside: bool) -> Result<bool, LabError> {
    let found = sweep(places, inside)?;
    remove_dir(&places.lab)?;
    drop(lock);
    Ok(found)
}

/// As [`remove`], but keeps the lock for a new lab.
///
/// # Errors
/// As [`remove`].
pub(super) fn sweep(places: &Places, inside: bool) -> Result<bool, LabError> {
    let state = State::load(places)?;
    let found = state.is_some();
    if let Some(state) = &state {
        process::end(&state.processes(), process::PATIENCE).doing(|| "ending the lab's processes".into())?;
        if state.made_netns_dir {
            // Only now: an agent that still made a pod would make its namespace in the machine's directory.
            if inside {
                session::uncover(session::NETNS_DIR.as_ref());
            }
            // Stays if somebody else uses it by now.
            let _ = fs::remove_dir(session::NETNS_DIR);
        }
    }
    if inside {
        session::uncover(&places.etcd());
    }
    // Without what a run has written down, these directories are somebody else's.
    let more = state.iter().flat_map(|state| &state.instances).map(Places::of);
    for places in more.chain(found.then(|| places.clone())) {
        for dir in [&places.runtime, &places.store] {
            remove_dir(dir)?;
            // Its parent belongs to all instances: goes with the last of them.
            if let Some(parent) = dir.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }
    match fs::remove_file(places.state()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", places.state().display()))
        }
        _ => Ok(found),
    }
}

fn remove_dir(dir: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_second_lab_is_refused_and_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let lock = Lock::take(&places).unwrap();
        let run = Process::current().unwrap();
        State::new(LAB, run).save(&places).unwrap();
        let mode = fs::metadata(places.state()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Lock::take(&places).unwrap_err();
        assert!(matches!(error, LabError::Busy { pid, .. } if pid == Some(run.pid)), "{error}");
        assert!(error.to_string().contains("lab down"));
        assert!(remove(&places, lock, false).unwrap());
        assert!(!places.lab.exists());
        assert!(!remove(&places, Lock::take(&places).unwrap(), false).unwrap(), "nothing left to remove");
    }

    #[test]
    fn what_a_crash_left_is_removed_but_no_reused_pid_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let lock = Lock::take(&places).unwrap();
        let cat = || Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (mut agent, mut stranger) = (cat(), cat());
        let mut state = State::new(LAB, Process { pid: 1, start: u64::MAX });
        state.agent = Process::find(agent.id());
        let reused = Process::find(stranger.id()).unwrap();
        state.holder = Some(Process { start: reused.start - 1, ..reused });
        state.save(&places).unwrap();
        fs::create_dir_all(&places.runtime).unwrap();
        fs::write(places.runtime.join("agent.log"), "x").unwrap();
        assert!(!end_run(&places).unwrap(), "process 1 began at another time");
        // The child shares this process's mount namespace. If that is not the machine's, everything in it would be taken
        // for the lab's; so only look at what is written down here.
        let known: Vec<_> = [state.agent, state.holder].into_iter().flatten().collect();
        process::end(&known, process::PATIENCE).unwrap();
        assert!(agent.try_wait().unwrap().is_some());
        assert!(reused.alive());
        assert!(places.check_free().is_err());
        assert!(sweep(&places, false).unwrap());
        assert!(!places.runtime.exists() && !places.state().exists());
        places.check_free().unwrap();
        drop(lock);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn an_instance_that_no_lab_wrote_down_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let _lock = Lock::take(&places).unwrap();
        for dir in [&places.store, &places.runtime] {
            fs::create_dir_all(dir).unwrap();
            assert!(!sweep(&places, false).unwrap(), "nothing of a lab");
            let error = places.check_free().unwrap_err().to_string();
            assert!(dir.exists() && error.contains(&*dir.to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn a_later_layout_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let _lock = Lock::take(&places).unwrap();
        let later = State { version: VERSION + 1, ..State::new(LAB, Process::current().unwrap()) };
        later.save(&places).unwrap();
        assert!(State::load(&places).unwrap_err().to_string().contains("same netpath"));
    }
}
