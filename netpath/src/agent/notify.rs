//! What the service manager that started the agent is told (sd_notify(3)): that it is ready, reads its configuration
//! again or ends, how it is, and for the watchdog that it gets on. Where there is no such manager, nothing is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Agent, blocking, reconcile::LONGEST_PAUSE, sweep::SWEEP};
use crate::{api::types::Status, datapath::monotonic_ns};

/// How often the manager is told how the agent is where it has no watchdog.
const TELL: Duration = Duration::from_secs(30);
/// So often within its time the watchdog is told, and this part of the time a step of a loop may take.
const PARTS: u32 = 4;

/// A loop of the agent that has to get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    /// Repairs; a step is a pod, or a look without need.
    Reconcile,
    /// Ends flows; a step is a sweep.
    Sweep,
}

impl Loop {
    const ALL: [Self; 2] = [Self::Reconcile, Self::Sweep];

    /// The longest it rests between two steps.
    fn rest(self) -> Duration {
        match self {
            Self::Reconcile => LONGEST_PAUSE,
            Self::Sweep => SWEEP.1,
        }
    }
}

/// When each loop made its last step, CLOCK_MONOTONIC ns.
pub(super) struct Progress([AtomicU64; 2]);

impl Progress {
    /// As if each had made one now.
    pub(super) fn new() -> Self {
        Self(Loop::ALL.map(|_| AtomicU64::new(monotonic_ns())))
    }

    /// Notes a step.
    pub(super) fn step(&self, of: Loop) {
        self.0[of as usize].store(monotonic_ns(), Ordering::Relaxed);
    }

    /// A loop whose last step is longer ago than its rest and `patience`, with how long.
    fn stuck(&self, patience: Duration) -> Option<(Loop, Duration)> {
        let now = monotonic_ns();
        let since = |of: &Loop| now.saturating_sub(self.0[*of as usize].load(Ordering::Relaxed));
        let mut ages = Loop::ALL.iter().map(|of| (*of, Duration::from_nanos(since(of))));
        ages.find(|(of, age)| *age > of.rest() + patience)
    }
}

impl Agent {
    /// Tells that it is ready, then how it is until it ends. The watchdog hears of it only while every loop gets on,
    /// the API is served by `serving`, and a request would be answered.
    pub(super) async fn tell_loop(self: Arc<Self>, serving: AbortHandle) {
        let every = sd_notify::watchdog_enabled().map_or(TELL, |limit| limit / PARTS);
        let mut ending = self.ending.subscribe();
        tell(&[NotifyState::Ready]).await;
        loop {
            match self.gets_on(every, &serving).await {
                Ok(how) => tell(&[NotifyState::Watchdog, NotifyState::Status(&how)]).await,
                Err(stuck) => {
                    tracing::error!("{stuck}; not telling the watchdog");
                    tell(&[NotifyState::Status(&stuck)]).await;
                }
            }
            tokio::select! {
                () = sleep(every) => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    }

    /// How the agent is, in a line; or what does not get on, which nothing but a restart helps. A step may take
    /// `patience` beside the rest before it.
    async fn gets_on(&self, patience: Duration, serving: &AbortHandle) -> Result<String, String> {
        if let Some((of, age)) = self.progress.stuck(patience) {
            return Err(format!("stuck: the loop {of:?} has made no step for {} s", age.as_secs()));
        }
        if serving.is_finished() {
            return Err("stuck: the API is not served any more".into());
        }
        // Not by the socket: clients that hold all connections are no reason to restart.
        match timeout(patience, self.status()).await {
            Ok(Ok(status)) => Ok(line(&status)),
            // An answer, and in the log.
            Ok(Err(error)) => Ok(format!("problem: {error}")),
            Err(_) => Err(format!("stuck: no answer to a request for {} s", patience.as_secs())),
        }
    }
}

/// What `systemctl status` shows.
fn line(status: &Status) -> String {
    let well = format!("{} pods, {} flows, uplinks {}", status.pods, status.flows, status.uplinks.join(" "));
    match status.problems.as_slice() {
        [] => well,
        [one] => format!("{well}; problem: {one}"),
        [first, rest @ ..] => {
            format!("{well}; problem: {first}, and {} more in 'netpath status'", rest.len())
        }
    }
}

/// Tells that the configuration is being read again, and since when: Type=notify-reload wants to know that this is the
/// answer to its signal.
pub(super) async fn reloading() {
    let since = NotifyState::monotonic_usec_now().ok();
    let told: Vec<_> = [NotifyState::Reloading].into_iter().chain(since).collect();
    tell(&told).await;
}

/// Tells that this is done, whether or not the configuration was taken.
pub(super) async fn reloaded(taken: bool) {
    let how =
        if taken { "configuration read again" } else { "the new configuration was refused; see the log" };
    tell(&[NotifyState::Ready, NotifyState::Status(how)]).await;
}

/// Tells that the agent ends.
pub(super) async fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending; programs, links and flows stay")]).await;
}

/// A manager that does not listen is not waited for, and none is no error.
async fn tell(states: &[NotifyState<'_>]) {
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let told = blocking(move || sd_notify::notify(&[NotifyState::Custom(text.trim_end())]));
    if let Ok(Err(error)) = timeout(TELL, told).await {
        tracing::warn!("telling the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::testing::{Running, named, with_node},
        store::memory::MemoryStore,
    };

    /// No time for a step.
    const SHORT: Duration = Duration::from_millis(200);
    /// Time enough.
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn only_an_agent_that_gets_on_says_so() {
        with_node(async |node| {
            let Running { agent, mut tasks, .. } =
                node.start(Arc::new(MemoryStore::default())).await.unwrap();
            agent.pod_add(&named("a")).await.unwrap();
            let serving = tokio::spawn(std::future::pending::<()>());
            let asked_for = async |agent: &Agent, time| agent.gets_on(time, &serving.abort_handle()).await;
            // The kernel takes its time while namespaces are torn down.
            let asked = async |agent: &Agent| asked_for(agent, LONG).await;
            assert_eq!(asked(&agent).await.unwrap(), "1 pods, 0 flows, uplinks up0");
            tasks.shutdown().await;

            // Each loop by itself.
            let long_ago = |of: Loop| {
                let age = of.rest() + LONG + Duration::from_millis(1);
                agent.progress.0[of as usize].fetch_sub(age.as_nanos() as u64, Ordering::Relaxed);
            };
            for of in Loop::ALL {
                Loop::ALL.iter().for_each(|one| agent.progress.step(*one));
                assert!(asked(&agent).await.is_ok());
                long_ago(of);
                assert!(asked(&agent).await.unwrap_err().contains(&format!("{of:?}")));
            }
            // A pass makes steps, a pass that cannot begin makes none.
            long_ago(Loop::Reconcile);
            agent.progress.step(Loop::Sweep);
            let held = agent.node_changes.lock().await;
            let pass = agent.pass(crate::agent::reconcile::Extent::Full);
            assert!(timeout(SHORT, pass).await.is_err(), "it waits for who holds the node");
            assert!(asked(&agent).await.is_err());
            drop(held);
            agent.pass(crate::agent::reconcile::Extent::Full).await;
            assert!(asked(&agent).await.is_ok());

            // A request that is not answered.
            let datapath = Arc::clone(&agent.datapath);
            let (release, released) = std::sync::mpsc::channel::<()>();
            let (holding, held) = tokio::sync::oneshot::channel();
            let holder = std::thread::spawn(move || {
                let _held = datapath.blocking_lock();
                holding.send(()).unwrap();
                released.recv()
            });
            held.await.unwrap();
            assert!(asked_for(&agent, SHORT).await.unwrap_err().contains("no answer"));
            release.send(()).unwrap();
            holder.join().unwrap().unwrap();
            assert!(asked(&agent).await.is_ok());

            serving.abort();
            while !serving.is_finished() {
                tokio::task::yield_now().await;
            }
            assert!(agent.gets_on(SHORT, &serving.abort_handle()).await.unwrap_err().contains("API"));
        });
    }
}
