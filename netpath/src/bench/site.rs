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
        topology::{Spec, Topology},
    },
};

/// How long all pods' programs may take to be where they stay, and the pause between two askings.
const SETTLED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(20));

/// The network around the modes, and the surroundings that everything vanishes with.
#[derive(Debug)]
pub struct Site {
    /// Node of the agent, router and outside.
    pub topology: Arc<Topology>,
    stage: Mutex<Stage>,
    agent: OnceCell<Client>,
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
        Self { topology: Arc::new(topology), stage: Mutex::new(stage), agent: OnceCell::new() }
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
