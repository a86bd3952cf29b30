//! `netpath`: pods of a running agent.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};

use super::{Built, ONE_NODE};
use crate::{
    api::{
        client::Client,
        types::{Pod, PodAdd},
    },
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        error::Doing,
        topology::{OUTSIDE, OUTSIDE_V6, ROUTER, Topology},
    },
    net::Netns,
};

/// Two pods that an agent made on the topology's node.
#[derive(Debug)]
pub struct Netpath {
    client: Netns,
    server: Netns,
    address: Ipv4Addr,
    address_v6: Option<Ipv6Addr>,
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
        let (client, _) = kind.add(&agent, "a").await?;
        let (server, pod) = kind.add(&agent, "b").await?;
        let v4 = |address: &IpAddr| if let IpAddr::V4(v4) = address { Some(*v4) } else { None };
        let v6 = |address: &IpAddr| if let IpAddr::V6(v6) = address { Some(*v6) } else { None };
        let address_v6 = pod.addresses.iter().find_map(v6);
        let address = pod.addresses.iter().find_map(v4).ok_or("it has no IPv4 address");
        let address = address.doing(|| "looking at pod b".into())?;
        let netpath = Netpath::new(client, server, address, Arc::clone(&site.topology), agent);
        Ok(Box::new(Netpath { kind, address_v6, ..netpath }) as Box<dyn Mode>)
    }
    .boxed()
}

/// Adds a pod in a mode of the agent's and opens its namespace.
pub(super) async fn add(agent: &Client, name: &str, mode: &str) -> Result<(Netns, Pod), LabError> {
    let wanted = PodAdd { name: name.into(), mode: Some(mode.into()), ..PodAdd::default() };
    let pod = agent.pod_add(&wanted).await.doing(|| format!("adding pod {name}"))?;
    Ok((Netns::open(pod.netns.as_ref())?, pod))
}

impl Kind {
    async fn add(self, agent: &Client, name: &str) -> Result<(Netns, Pod), LabError> {
        add(agent, &format!("{}{name}", self.prefix), self.pods).await
    }
}

impl Netpath {
    /// From the namespaces of two pods of an agent; `address` is the second one's. Without IPv6.
    pub fn new(
        client: Netns,
        server: Netns,
        address: Ipv4Addr,
        topology: Arc<Topology>,
        agent: Client,
    ) -> Self {
        Self { client, server, address, address_v6: None, topology, agent, kind: TC }
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
        let (client, server, address) = (&self.client, &self.server, self.address.into());
        let topology = &self.topology;
        Ok(match path {
            Path::PodPod => Pair { client, server, address },
            Path::NodePod => Pair { client: &topology.node.netns, server, address },
            Path::PodOnlink => Pair { client, server: &topology.router.netns, address: ROUTER.into() },
            Path::PodOutside => Pair { client, server: &topology.outside.netns, address: OUTSIDE.into() },
            Path::PodPodRemote => return Err(ONE_NODE),
        })
    }

    fn pair_v6(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let pair = self.pair(path)?;
        let own = self.address_v6.ok_or("its pod has no IPv6 address")?;
        match path {
            Path::PodPod | Path::NodePod => Ok(Pair { address: own.into(), ..pair }),
            Path::PodOutside => Ok(Pair { address: OUTSIDE_V6.into(), ..pair }),
            Path::PodOnlink | Path::PodPodRemote => Err("it is measured over IPv4 only"),
        }
    }

    fn agents(&self) -> &[Client] {
        std::slice::from_ref(&self.agent)
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.kind.add(&self.agent, &format!("new-{number}")).await?.0) }.boxed())
    }
}
