//! What the programs would do with a packet: they run on it by hand, told to tell and to write nothing.
//!
//! `ends` finds out who sends and whom it is for, `packet` makes the packet, `walk` takes it from program to program,
//! `tell` puts their decisions into words, with the names that `view` knows.

mod ends;
mod packet;
mod tell;
mod view;
mod walk;

use std::sync::Arc;

use super::{Agent, AgentError, blocking, lock};
use crate::api::types::{Trace, TraceRequest};

use self::{view::View, walk::Walk};

impl Agent {
    /// What the programs would do with a packet, and with its answer. Nothing is sent, counted or remembered.
    ///
    /// # Errors
    /// [`AgentError::Trace`] if there is no such packet, [`AgentError::PodDown`], [`AgentError::PodBusy`], or the kernel's
    /// reason.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Trace, AgentError> {
        let view = self.view().await?;
        let start = self.start_of(request, &view).await?;
        let dry_run = Arc::clone(&self.dry_run);
        blocking(move || Walk { dry_run: &mut lock(&dry_run), view }.both_ways(start)).await
    }

    async fn view(&self) -> Result<View, AgentError> {
        let links = self.netlink.links().await?;
        let surroundings = lock(&self.node).seen.surroundings();
        let pods = lock(&self.registry).pods().cloned().collect();
        let ports = self.config().snat_ports.clone();
        let denying = !lock(&self.denied).is_empty();
        let (uplinks, addresses) = (surroundings.uplinks, surroundings.addresses);
        let peers = self.peers();
        Ok(View { links, pods, uplinks, addresses, peers, ports, denying })
    }
}
