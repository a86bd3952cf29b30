//! What a lab and a benchmark share: surroundings of their own on this machine, removed however the work in them ends.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    error::{Doing, LabError},
    process::Process,
    session,
    state::{self, Lock, Places, State},
};

/// Why the work stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It came to its end.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM or SIGHUP: remove everything, whatever was asked for.
    Terminated,
}

/// Surroundings: where their files are, and which processes they have.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Where things are.
    pub(crate) places: Places,
    /// Who belongs to it.
    pub(super) state: State,
}

/// Does `work` in a private mount namespace, and then removes what belongs to it, unless `keep` says otherwise, which is
/// told why the work stopped and whether it had found something by then. What an earlier one left is removed first.
/// Must be called while the process has one thread.
///
/// # Errors
/// [`LabError::NotRoot`], [`LabError::Busy`], or the work's; everything is removed then, too.
pub(crate) fn perform<T, E: From<LabError>>(
    places: &Places,
    keep: impl FnOnce(Stop, bool) -> bool,
    work: impl AsyncFnOnce(Stage, &mut Option<T>) -> Result<(), E>,
) -> Result<(Stop, Option<T>), E> {
    if !session::is_root() {
        return Err(LabError::NotRoot.into());
    }
    let deferred = Deferred::new()?;
    let lock = Lock::take(places)?;
    let state = match cleared(places) {
        Ok(state) => state,
        Err(refused) => {
            lock.give_back(places);
            return Err(refused.into());
        }
    };
    let mut stage = Stage { places: places.clone(), state };
    let ended = match stage.save().and_then(|()| session::isolate(&mut stage)) {
        Ok(()) => play(stage, deferred, work),
        Err(error) => Err(error.into()),
    };
    if !matches!(&ended, Ok((stop, found)) if keep(*stop, found.is_some())) {
        let removed = state::remove(places, lock, true);
        // Why the work failed is the news; what could not be removed then is the next one's.
        if ended.is_ok() {
            removed?;
        }
    }
    ended
}

/// Removes what an earlier one left, and finds out whether the places are free then.
fn cleared(places: &Places) -> Result<State, LabError> {
    state::sweep(places, false)?;
    places.check_free()?;
    Ok(State::new(&places.instance, Process::current().doing(|| "looking up this process".into())?))
}

/// The runtime starts in the private mount namespace, so that its threads are in it.
fn play<T, E: From<LabError>>(
    stage: Stage,
    deferred: Deferred,
    work: impl AsyncFnOnce(Stage, &mut Option<T>) -> Result<(), E>,
) -> Result<(Stop, Option<T>), E> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.doing(|| "starting the runtime".into())?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen().doing(|| "listening for signals".into())?;
        drop(deferred);
        let mut found = None;
        let stop = tokio::select! {
            done = work(stage, &mut found) => done.map(|()| Stop::Done),
            stop = signals.next() => Ok(stop),
        };
        stop.map(|stop| (stop, found))
    });
    // Threads that still measure must not hold up the end.
    runtime.shutdown_background();
    ended
}

impl Stage {
    /// Of a test that starts no processes.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let places = Places::of("bench");
        let state = State::new(&places.instance, Process::current().expect("this process"));
        Self { places, state }
    }

    /// Writes down which processes there are.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn save(&self) -> Result<(), LabError> {
        self.state.save(&self.places)
    }
}

/// Keeps SIGINT, SIGTERM and SIGHUP waiting while this exists, so that none of them ends the process between its first
/// trace on the machine and the moment it listens. Children do not inherit it: `Command` clears the mask.
struct Deferred(SigSet);

impl Deferred {
    fn new() -> Result<Self, LabError> {
        let set = SigSet::from_iter([Number::SIGINT, Number::SIGTERM, Number::SIGHUP]);
        set.thread_block().doing(|| "blocking signals".into())?;
        Ok(Self(set))
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // Fails for an unknown operation only.
        let _ = self.0.thread_unblock();
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupted,
            _ = self.terminate.recv() => Stop::Terminated,
            _ = self.hang_up.recv() => Stop::Terminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refusal(places: &Places) -> String {
        let work = async |_, _: &mut Option<()>| -> Result<(), LabError> { panic!("nothing is to be done") };
        perform(places, |_, _| panic!("nothing is to be kept"), work).unwrap_err().to_string()
    }

    #[test]
    fn who_is_refused_leaves_nothing_and_removes_nothing_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        fs::create_dir_all(&places.runtime).unwrap();
        fs::write(places.runtime.join("agent.sock"), "").unwrap();
        assert!(refusal(&places).contains("uninstall"));
        assert!(places.runtime.join("agent.sock").exists(), "somebody else's");
        assert!(!places.lab.exists(), "no lock is left");
        // What a later netpath's lab has written down is its own, and so is the lock's directory.
        let lock = Lock::take(&places).unwrap();
        assert!(refusal(&places).contains("running already"));
        assert!(places.lab.join("lock").exists(), "who has it keeps it");
        drop(lock);
        fs::write(places.lab.join("lab.json"), "{}").unwrap();
        assert!(refusal(&places).contains("lab.json"));
        assert_eq!(fs::read(places.lab.join("lab.json")).unwrap(), b"{}");
        assert!(Lock::take(&places).is_ok(), "and nobody has the lock");
    }
}
