//! The node's own sockets and published ports: programs on the cgroups of its processes.

use super::Agent;
use crate::{config::Cgroup, datapath::cgroup2};

/// What the hooks are called among the problems.
const OBJECT: &str = "node's sockets";

impl Agent {
    /// Has the hooks where they belong while anything is published, else nowhere. Without them everybody else reaches
    /// published ports all the same: what fails is noted.
    pub(super) async fn ensure_socket_hooks(&self, publishes: bool) {
        let cgroup = match self.config().cgroup.clone() {
            Cgroup::Root if publishes => cgroup2().map(Some).ok_or_else(|| {
                "cgroup version 2 is not mounted; mount it, or name a cgroup by datapath.cgroup".to_owned()
            }),
            Cgroup::At(path) if publishes => Ok(Some(path)),
            _ => Ok(None),
        };
        let outcome = match cgroup {
            Ok(cgroup) => {
                let attach =
                    self.on_datapath(move |datapath| datapath.attach_socket_hooks(cgroup.as_deref()));
                attach.await.map_err(|error| error.to_string())
            }
            Err(reason) => Err(reason),
        };
        let told = outcome.map_err(|reason| {
            format!("published ports do not answer the node itself at its own addresses: {reason}")
        });
        self.note(OBJECT, &told);
    }
}
