//! The agent: its answers, its process, and who may ask it.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use super::process::Process;
use crate::{
    api::{
        client::{Client, ClientError},
        types::{ClusterNode, Network, Pod, Status},
    },
    config::Paths,
};

/// How long an answer may take before the agent is said to hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that runs, or does not.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Agent {
    /// Who holds the instance's lock.
    pub(in crate::doctor) process: Option<Process>,
    /// Its answer, or why there is none.
    pub(in crate::doctor) status: Result<Status, String>,
    pub(in crate::doctor) pods: Vec<Pod>,
    pub(in crate::doctor) networks: Vec<Network>,
    /// Of the cluster, if it is in one.
    pub(in crate::doctor) nodes: Vec<ClusterNode>,
    /// Of socket, directory of the socket, directory of the state and the store, those that are there.
    pub(in crate::doctor) modes: Vec<Mode>,
}

/// Who may use a file.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Mode {
    pub(in crate::doctor) path: PathBuf,
    /// Permission bits.
    pub(in crate::doctor) mode: u32,
    pub(in crate::doctor) owner: u32,
    pub(in crate::doctor) dir: bool,
}

impl Agent {
    pub(super) async fn read(client: &Client, paths: &Paths, holder: Option<u32>) -> Self {
        let asked = async {
            let client = client.clone().with_patience(PATIENCE);
            let (status, pods) = (client.status().await?, client.pods().await?);
            // Refused by the agent of a node that is in no cluster.
            let nodes = client.nodes().await.unwrap_or_default();
            Ok::<_, ClientError>((status, pods, client.networks().await?, nodes))
        };
        let (status, pods, networks, nodes) = match asked.await {
            Ok((status, pods, networks, nodes)) => (Ok(status), pods, networks, nodes),
            Err(error) => (Err(error.to_string()), Vec::new(), Vec::new(), Vec::new()),
        };
        let files = [paths.socket(), paths.run_dir.clone(), paths.state_dir.clone(), paths.store()];
        Self {
            process: holder.and_then(Process::read),
            status,
            pods,
            networks,
            nodes,
            modes: files.into_iter().filter_map(mode).collect(),
        }
    }
}

fn mode(path: PathBuf) -> Option<Mode> {
    let file = fs::metadata(&path).ok()?;
    Some(Mode { path, mode: file.mode() & 0o7777, owner: file.uid(), dir: file.is_dir() })
}
