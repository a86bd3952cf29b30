//! What pods do not reach on nodes.

use super::{Agent, AgentError, lock};
use crate::compile::{Protection, Surroundings};

impl Agent {
    /// Tells the programs which ports are protected. They ask where a flow begins: when there are more ports, or more nodes, flows of before
    /// are ended, after the tables say so.
    pub(super) async fn protect(&self, surroundings: &Surroundings) -> Result<(), AgentError> {
        let listed = self.config().protected_ports();
        let now = Protection::new(&listed, surroundings, &self.peers());
        let words = now.words.clone();
        self.on_datapath(move |datapath| datapath.set_protected(&words)).await?;
        let is_more = now.is_more_than(&lock(&self.node).protection);
        if is_more {
            let protection = now.clone();
            let refused = move |key: &_, flow: &_| protection.refuses(key, flow);
            let ended = self.on_flows(move |flows| flows.remove_if(refused)).await?;
            if ended > 0 {
                tracing::info!(flows = ended, "ended flows of pods to protected ports of nodes");
            }
        }
        lock(&self.node).protection = now;
        Ok(())
    }
}
