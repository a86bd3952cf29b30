//! How a node becomes one of its cluster: who it is there, and the blocks it begins with.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Heard, Membership};
use crate::{
    agent::{AgentError, blocking, namespace, state::State},
    config::Config,
    model::{Holder, Pool, order_blocks},
    store::{EtcdStore, cluster::Cluster},
};

/// Where Linux makes unique identifiers.
const UUID: &str = "/proc/sys/kernel/random/uuid";

/// Who the node is in its cluster, as its own state keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::agent) struct Identity {
    /// Name of the cluster.
    pub(in crate::agent) cluster: String,
    /// Name of the node there.
    pub(in crate::agent) node: String,
    pub(in crate::agent) uid: String,
    /// Its blocks of the network that every node has, none until they are claimed.
    pub(in crate::agent) blocks: Vec<IpNet>,
    /// What they are of; none in what earlier versions wrote.
    #[serde(default)]
    pub(in crate::agent) pools: Vec<Pool>,
    /// Whether it takes no new pods.
    #[serde(default)]
    pub(in crate::agent) drained: bool,
    /// Whether others have its blocks, or may have: until it is registered again.
    #[serde(default)]
    pub(in crate::agent) lost: bool,
    /// When its cluster last heard of it.
    #[serde(default)]
    pub(in crate::agent) heard: Option<Heard>,
}

/// Makes the configured node one of its cluster: with blocks of its own in place of a configured one. Asks etcd only for a
/// node that has none yet.
pub(in crate::agent) async fn join(
    mut config: Config,
    state: &State,
) -> Result<(Config, Option<Membership>), AgentError> {
    let Some(wanted) = config.cluster.clone() else {
        return stay_alone(state.identity().await?).map(|()| (config, None));
    };
    let mut access = wanted.etcd.clone();
    let first = first_endpoint(&config.node, access.endpoints.len());
    access.endpoints.rotate_left(first);
    let etcd = blocking(move || EtcdStore::new(&access)).await?;
    let cluster = Cluster::new(etcd, &wanted.name);
    let mut identity = own_identity(&config.node, &wanted.name, state).await?;
    let holder = Holder { node: config.node.clone(), uid: identity.uid.clone() };
    let fresh = identity.blocks.is_empty();
    if fresh {
        claim_first(&cluster, &holder, &wanted.pools, &mut identity).await?;
        state.save_identity(&identity).await?;
        tracing::info!(blocks = ?identity.blocks, "blocks claimed");
    }
    config.network.blocks.clone_from(&identity.blocks);
    config.network.pools.clone_from(&identity.pools);
    let own = (holder, namespace::boot()?);
    let others = (state.peers().await?, state.lost_nodes().await?);
    let member = Membership::new(cluster, own, identity, others, fresh);
    Ok((config, Some(member)))
}

/// Which endpoint a node begins with: not all with the same one, which would have all watches.
fn first_endpoint(node: &str, endpoints: usize) -> usize {
    node.bytes().map(usize::from).sum::<usize>() % endpoints.max(1)
}

/// Who this node has been there, or is from now on.
async fn own_identity(node: &str, cluster: &str, state: &State) -> Result<Identity, AgentError> {
    match state.identity().await? {
        Some(known) if known.cluster == cluster && known.node == node => Ok(known),
        Some(other) if !other.blocks.is_empty() => Err(AgentError::unfit(
            format!(
                "this node is '{}' in the cluster '{}', and not '{node}' in '{cluster}'",
                other.node, other.cluster
            ),
            "give it back its name, or take it out with 'netpath node leave' before it gets another",
        )),
        _ => {
            let uid = std::fs::read_to_string(UUID).map_err(AgentError::io(format!("reading {UUID}")))?;
            let (blocks, pools) = (Vec::new(), Vec::new());
            let (cluster, node, uid) = (cluster.to_owned(), node.to_owned(), uid.trim().to_owned());
            let new =
                Identity { cluster, node, uid, blocks, pools, drained: false, lost: false, heard: None };
            // Before anything is claimed by it.
            state.save_identity(&new).await?;
            Ok(new)
        }
    }
}

async fn claim_first(
    cluster: &Cluster,
    holder: &Holder,
    pools: &[Pool],
    identity: &mut Identity,
) -> Result<(), AgentError> {
    cluster.check_name(holder).await?;
    let pools = cluster.pools(pools).await?;
    let blocks = cluster.claim(holder, &pools).await?;
    identity.blocks = order_blocks(blocks).map_err(|wrong| AgentError::unfit(wrong.reason, wrong.instead))?;
    identity.pools = pools;
    Ok(())
}

/// A configuration without a cluster is for a node that is in none.
fn stay_alone(known: Option<Identity>) -> Result<(), AgentError> {
    let Some(known) = known.filter(|known| !known.blocks.is_empty()) else { return Ok(()) };
    Err(AgentError::unfit(
        format!("this node is '{}' in the cluster '{}', and [cluster] is missing", known.node, known.cluster),
        "give it back its [cluster], or take it out with 'netpath node leave' before that goes",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_begin_with_different_endpoints() {
        let firsts = |endpoints| (1..=9).map(move |at| first_endpoint(&format!("node{at}"), endpoints));
        for endpoint in 0..3 {
            assert_eq!(firsts(3).filter(|first| *first == endpoint).count(), 3);
        }
        assert!(firsts(1).all(|first| first == 0));
    }
}
