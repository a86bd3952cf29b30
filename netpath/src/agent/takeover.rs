//! From an earlier agent's programs to this one's, without a packet between them (docs/UPGRADE.md).

use std::{collections::BTreeMap, sync::Arc};

use super::{Agent, AgentError, lock, registry::Entry, start::load};
use crate::{
    compile,
    datapath::Datapath,
    model::{Interface, PodState},
};

impl Agent {
    /// Puts this build's programs in the place of an earlier agent's, wherever and however they are attached, once the tables
    /// tell them all that those knew; then moves the flows, if they are in an earlier table.
    pub(super) async fn take_over(self: &Arc<Self>) -> Result<(), AgentError> {
        self.replace_programs().await?;
        let (moving, changing) =
            self.on_datapath(|datapath| (datapath.is_moving(), datapath.is_changing())).await;
        if moving {
            let entries = self.on_datapath(Datapath::move_flows).await?;
            tracing::info!(entries, "flows moved");
        }
        if !moving && !changing {
            return Ok(());
        }
        // Once more, with programs that know of one table and of one kind only; the table stays what it is, even if an agent
        // that died had begun with another size: that is for the next start.
        let (datapath, _) = load(&self.config(), self.attach, self.flow_entries).await?;
        *lock(&self.readings) = datapath.readings();
        *self.datapath.lock().await = datapath;
        self.replace_programs().await
    }

    async fn replace_programs(self: &Arc<Self>) -> Result<(), AgentError> {
        // To programs without it a pod is a stranger, and its peers are outside.
        let interfaces = self.write_pods().await?;
        let seen = lock(&self.node).seen.clone();
        self.note("tables", &self.write_tables(&seen).await);
        self.note("deny list", &self.ensure_denied().await);
        self.note("table of published ports", &self.ensure_published().await);
        let replaced = self.on_datapath(Datapath::take_over).await;
        // Only then the kind that is wanted, if it is another: a packet may meet both from now on.
        self.ensure_node().await;
        let change = move |datapath: &mut Datapath| {
            let mut outcome = replaced;
            if datapath.is_changing() {
                for (name, ifindex) in &interfaces {
                    outcome = outcome.and(datapath.attach_pod(name, *ifindex));
                }
            }
            // What is on interfaces that nobody knows goes in the first pass, with what it belongs to.
            outcome = outcome.and(datapath.drop_others(|_| Some(true)));
            // While flows are in an earlier table, one program left behind would not find the new ones.
            if datapath.is_moving() { outcome } else { Ok(()) }
        };
        Ok(self.on_datapath(change).await?)
    }

    /// Writes the endpoints and links of every pod whose host end is there. Returns those, by name and index.
    async fn write_pods(&self) -> Result<Vec<(String, u32)>, AgentError> {
        let entries: Vec<Entry> = lock(&self.registry).pods().cloned().collect();
        let survey = Arc::clone(&lock(&self.node).seen.survey);
        let indexes: BTreeMap<&str, u32> =
            survey.links().map(|end| (end.link.name.as_str(), end.link.index)).collect();
        let mut records = Vec::new();
        for entry in entries.iter().filter(|entry| entry.pod.state == PodState::Ready) {
            for interface in &entry.pod.interfaces {
                let Some(ifindex) = indexes.get(interface.host.as_str()) else { continue };
                records.push(self.records(entry, interface, *ifindex)?);
            }
        }
        let write = move |datapath: &mut Datapath| {
            for (interface, endpoint, link) in &records {
                datapath.set_link(endpoint.ifindex, *link)?;
                interface
                    .all_addresses()
                    .try_for_each(|address| datapath.set_endpoint(address, *endpoint))?;
            }
            // The last agent may have been killed between the two tables, or have been of a build that has no cache. Not before
            // the table is whole: it may have been made anew, and the programs that run look into the cache.
            datapath.check_endpoint_cache()?;
            Ok::<_, AgentError>(
                records
                    .into_iter()
                    .map(|(interface, endpoint, _)| (interface.host, endpoint.ifindex))
                    .collect(),
            )
        };
        self.on_datapath(write).await
    }

    fn records(
        &self,
        entry: &Entry,
        interface: &Interface,
        ifindex: u32,
    ) -> Result<(Interface, netpath_common::abi::Endpoint, netpath_common::abi::Link), AgentError> {
        let endpoint = self.endpoint_of(&entry.pod, interface, ifindex)?;
        Ok((interface.clone(), endpoint, compile::link(&entry.pod, interface)))
    }
}
