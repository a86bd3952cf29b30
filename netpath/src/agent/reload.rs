//! A new configuration for a running agent, at SIGHUP.

use std::sync::Arc;

use super::{Agent, lock};
use crate::config::{Config, ConfigError};

impl Agent {
    /// What the agent goes by now.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.config))
    }

    /// Number of the group that may read from the API.
    pub(crate) fn api_group(&self) -> Option<u32> {
        self.config().api_group
    }

    /// Where metrics are served over TCP.
    pub(crate) fn metrics_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.config().metrics_listen.clone()
    }

    /// Takes a configuration over; the next pass, which begins at once, makes the kernel match it, the next sweep the
    /// flows. What cannot be read, is not valid or changes what is fixed at the start changes nothing; it is told in the
    /// log. Returns whether it was taken.
    pub(super) async fn reload(&self, wanted: Result<Config, ConfigError>) -> bool {
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!("{error}; the configuration stays as it was");
                return false;
            }
        };
        // What was changed by request stays changed, and what is being changed is not lost.
        let _one = self.network_changes.lock().await;
        let running = self.config();
        let mut wanted = wanted;
        if wanted.cluster.is_some() {
            // Claimed, not configured.
            wanted.network.blocks.clone_from(&running.network.blocks);
            wanted.network.pools.clone_from(&running.network.pools);
        }
        let fixed = running.fixed_against(&wanted);
        if !fixed.is_empty() {
            tracing::error!(
                "a running agent cannot change {}; the configuration stays as it was, restart the agent for the new one",
                fixed.join(", ")
            );
            return false;
        }
        if *running == wanted {
            tracing::info!("the configuration has not changed");
            return true;
        }
        let network = match self.state.default_change().await {
            Ok(change) => change.apply(wanted.network.clone()),
            Err(error) => {
                tracing::error!("{error}; the configuration stays as it was");
                return false;
            }
        };
        let mut networks = self.all_networks();
        networks.iter_mut().filter(|one| one.name == network.name).for_each(|one| *one = network.clone());
        if let Err(reason) = self.check_room(&networks) {
            tracing::error!("{reason}; the configuration stays as it was");
            return false;
        }
        lock(&self.registry).update_network(network);
        *lock(&self.config) = Arc::new(wanted);
        self.reloaded.notify_one();
        tracing::info!("configuration read again");
        true
    }
}
