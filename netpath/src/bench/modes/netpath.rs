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
    kind: Kind,
}

/// Which way the pods' packets take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Name of the mode.
    pub(super) name: &'static str,
    /// What it is made of.
    pub(super) made_of: &'static str,
    /// The pods' mode, as the agent knows it.
    pub(super) pods: &'static str,
    /// What the pods' names begin with.
    pub(super) prefix: &'static str,
}

const TC: Kind = Kind {
    name: "netpath",
    made_of: "pods of a netpath agent with a new installation's configuration",
    pods: "tc",
    prefix: "",
};

pub(super) fn build(site: &Site) -> Built<'_> {
    build_kind(site, TC)
}

pub(super) fn build_kind(site: &Site, kind: Kind) -> Built<'_> {
    async move {
        let agent = site.agent().await?;
        let (client, _) = add(&agent, kind, "a").await?;
        let (server, pod) = add(&agent, kind, "b").await?;
        let v4 = |address: &std::net::IpAddr| {
            if let std::net::IpAddr::V4(v4) = address { Some(*v4) } else { None }
        };
        let address = pod.addresses.iter().find_map(v4).ok_or("it has no IPv4 address");
        let address = address.doing(|| "looking at pod b".into())?;
        let netpath = Netpath::new(client, server, address, Arc::clone(&site.topology), agent);
        Ok(Box::new(Netpath { kind, ..netpath }) as Box<dyn Mode>)
    }
    .boxed()
}

/// Adds a pod and opens its namespace.
async fn add(agent: &Client, kind: Kind, name: &str) -> Result<(Netns, Pod), LabError> {
    let name = format!("{}{name}", kind.prefix);
    let wanted = PodAdd { name: name.clone(), mode: Some(kind.pods.into()), ..PodAdd::default() };
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
        Self { client, server, address, topology, agent, kind: TC }
    }
}

impl Mode for Netpath {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn made_of(&self) -> String {
        self.kind.made_of.into()
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
        Some(async move { Ok(add(&self.agent, self.kind, &format!("new-{number}")).await?.0) }.boxed())
    }
}
