//! `macvlan`: pods with interfaces of their own on top of the node's uplink, in its network.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{Built, ONE_NODE};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        topology::{OUTSIDE, Space, Topology, UPLINK, net},
    },
    net::{NetError, Netns},
};

const PREFIX: u8 = 24;
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 6, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 6, 2);

struct Macvlan {
    node: Space,
    /// Index of the node's uplink.
    uplink: u32,
    pods: Vec<Space>,
    topology: Arc<Topology>,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Macvlan::build(Arc::clone(&site.topology)).await?) as Box<dyn Mode>) }.boxed()
}

/// The `number`th pod's address.
const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 6, 10 + number)
}

impl Macvlan {
    async fn build(topology: Arc<Topology>) -> Result<Self, NetError> {
        let node = topology.spec.space("macvlan-node").await?;
        topology.connect(&node, "to-macvlan", &[(net(NODE, PREFIX), ROUTER.into())]).await?;
        let uplink = node.configure(UPLINK, &[]).await?;
        let mut made = Self { node, uplink, pods: Vec::new(), topology };
        for number in [0, 1] {
            made.pods.push(made.pod(number).await?);
        }
        Ok(made)
    }

    async fn pod(&self, number: u8) -> Result<Space, NetError> {
        let pod = self.topology.spec.space(&format!("macvlan-{number}")).await?;
        self.node.netlink.add_macvlan("eth0", self.uplink, &pod.netns).await?;
        pod.configure("eth0", &[net(address(number), PREFIX)]).await?;
        pod.default_route(ROUTER.into()).await?;
        Ok(pod)
    }
}

impl Mode for Macvlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn made_of(&self) -> String {
        "macvlan interfaces in bridge mode on the node's uplink, pods in the uplink's network, no translation"
            .into()
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = [0, 1].map(|at| &self.pods[at].netns);
        let topology = &self.topology;
        match path {
            Path::PodPod => Ok(Pair { client, server, address: address(1).into() }),
            Path::NodePod => Err("macvlan keeps pods and their node apart"),
            Path::PodOnlink => Ok(Pair { client, server: &topology.router.netns, address: ROUTER.into() }),
            Path::PodOutside => Ok(Pair { client, server: &topology.outside.netns, address: OUTSIDE.into() }),
            Path::PodPodRemote => Err(ONE_NODE),
        }
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.pod(2 + number).await?.netns) }.boxed())
    }
}
