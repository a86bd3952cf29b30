//! `netpath`: pods of a running agent.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::Built;
use crate::{
    api::{
        client::Client,
        types::{Pod, PodAdd},
    },
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        error::Doing,
        topology::{OUTSIDE, Topology},
    },
    net::Netns,
};

/// Two pods that an agent made on the topology's node.
#[derive(Debug)]
pub struct Netpath {
    client: Netns,
    server: Netns,
    address: Ipv4Addr,
    topology: Arc<Topology>,
    agent: Client,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async {
        let agent = site.agent().await?;
        let (client, _) = add(&agent, "a").await?;
        let (server, pod) = add(&agent, "b").await?;
        let v4 = |address: &std::net::IpAddr| {
            if let std::net::IpAddr::V4(v4) = address { Some(*v4) } else { None }
        };
        let address = pod.addresses.iter().find_map(v4).ok_or("it has no IPv4 address");
        let address = address.doing(|| "looking at pod b".into())?;
        Ok(Box::new(Netpath::new(client, server, address, Arc::clone(&site.topology), agent))
            as Box<dyn Mode>)
    }
    .boxed()
}

/// Adds a pod and opens its namespace.
async fn add(agent: &Client, name: &str) -> Result<(Netns, Pod), LabError> {
    let wanted = PodAdd { name: name.into(), ..PodAdd::default() };
    let pod = agent.pod_add(&wanted).await.doing(|| format!("adding pod {name}"))?;
    Ok((Netns::open(pod.netns.as_ref())?, pod))
}

impl Netpath {
    /// From the namespaces of two pods of an agent; `address` is the second one's.
    pub fn new(
        client: Netns,
        server: Netns,
        address: Ipv4Addr,
        topology: Arc<Topology>,
        agent: Client,
    ) -> Self {
        Self { client, server, address, topology, agent }
    }
}

impl Mode for Netpath {
    fn name(&self) -> &'static str {
        "netpath"
    }

    fn made_of(&self) -> String {
        "pods of a netpath agent with a new installation's configuration".into()
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let (client, server, address) = (&self.client, &self.server, self.address);
        Ok(match path {
            Path::PodPod => Pair { client, server, address },
            Path::NodePod => Pair { client: &self.topology.node.netns, server, address },
            Path::PodOutside => Pair { client, server: &self.topology.outside.netns, address: OUTSIDE },
        })
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(add(&self.agent, &format!("new-{number}")).await?.0) }.boxed())
    }
}
