//! Where modes are built: router and outside for all, and an agent for those that need one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, MutexGuard, OnceCell},
    time::sleep,
};

use crate::{
    api::{client::Client, types::Status},
    lab::{
        LabError,
        error::Doing,
        stage::Stage,
        topology::{OUTSIDE, Spec, Topology},
    },
};

/// How long agents may take until they know each other, and pods' programs until they are where they stay; the pause between two
/// askings.
const SETTLED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(20));

/// The network around the modes, and the surroundings that everything vanishes with.
#[derive(Debug)]
pub struct Site {
    /// Node of the agent, router and outside.
    pub topology: Arc<Topology>,
    stage: Mutex<Stage>,
    agent: OnceCell<Client>,
    /// Its endpoints, or why there is none: a second one would meet what is left of the first.
    etcd: OnceCell<Result<Vec<String>, String>>,
}

impl Site {
    /// Builds router and outside.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn build(stage: Stage) -> Result<Self, LabError> {
        Ok(Self::around(Topology::build(Spec::default()).await?, stage))
    }

    /// Around a network that is there.
    pub(super) fn around(topology: Topology, stage: Stage) -> Self {
        Self {
            topology: Arc::new(topology),
            stage: Mutex::new(stage),
            agent: OnceCell::new(),
            etcd: OnceCell::new(),
        }
    }

    /// The agent on the topology's node, started with a new installation's configuration when it is first asked for.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) async fn agent(&self) -> Result<Client, LabError> {
        let start = async || self.stage.lock().await.start_agent(&self.topology.node.netns, "").await;
        self.agent.get_or_try_init(start).await.cloned()
    }

    /// Stops the agent and starts it again with more configuration.
    ///
    /// # Errors
    /// If it does not end, or does not come up.
    pub(super) async fn restart_agent(&self, more: &str) -> Result<Client, LabError> {
        let mut stage = self.stage.lock().await;
        stage.stop_agent()?;
        stage.start_agent(&self.topology.node.netns, more).await
    }

    /// Endpoints of an etcd outside, started when it is first asked for.
    ///
    /// # Errors
    /// If it is not installed, or does not come up.
    pub(super) async fn etcd(&self) -> Result<Vec<String>, LabError> {
        let outside = &self.topology.outside.netns;
        let start = async || self.stage.lock().await.start_etcd(outside, OUTSIDE.into(), 1).await;
        let started = self.etcd.get_or_init(async || start().await.map_err(|error| error.to_string())).await;
        started.clone().doing(|| "preparing etcd".into())
    }

    /// Waits until an agent has a way to all other nodes of its cluster, which has so many with it.
    ///
    /// # Errors
    /// If it has not in time.
    pub(super) async fn knows_all(agent: &Client, nodes: usize) -> Result<(), LabError> {
        let deadline = Instant::now() + SETTLED.0;
        loop {
            let known = agent.nodes().await.doing(|| "asking the agent for the nodes it knows".into())?;
            if known.iter().filter(|node| node.backend.is_some()).count() + 1 == nodes {
                return Ok(());
            }
            if Instant::now() > deadline {
                let wrong = format!("after {:?} it knows {known:?}", SETTLED.0);
                return Err(wrong).doing(|| "waiting for ways to other nodes".into());
            }
            sleep(SETTLED.1).await;
        }
    }

    /// Waits until an agent has moved its pods' programs to where they cost packets least.
    ///
    /// # Errors
    /// If it does not, with what it says is wrong.
    pub(super) async fn settled(agent: &Client) -> Result<Status, LabError> {
        let deadline = Instant::now() + SETTLED.0;
        loop {
            let status = agent.status().await.doing(|| "asking the agent for its programs".into())?;
            if status.settling == 0 {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let wrong =
                    format!("{} are left after {:?}: {:?}", status.settling, SETTLED.0, status.problems);
                return Err(wrong).doing(|| "waiting for pods' programs to be moved to tcx links".into());
            }
            sleep(SETTLED.1).await;
        }
    }

    /// The surroundings.
    pub(super) async fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().await
    }
}
