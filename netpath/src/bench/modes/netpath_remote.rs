//! `netpath-direct` and `netpath-vxlan`: pods on two nodes of a cluster, each with an agent of its own, by plain routes and by
//! tunnels.

use std::net::{IpAddr, Ipv4Addr};

use futures::FutureExt;

use super::{Built, TWO_NODES, bridge::before, netpath::add, nodes::Nodes};
use crate::{
    api::{client::Client, types::Pod},
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        topology::{End, OUTSIDE, Space, Topology, net, wire},
    },
    net::{NetError, Netns},
};

/// What tells one from the other.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    made_of: &'static str,
    /// The cluster's `backend`, and its name.
    backend: &'static str,
    /// The two nodes' link; their pods' pool has its number too.
    link: u8,
}

#[derive(Debug)]
struct Remote {
    kind: Kind,
    /// Held open.
    _nodes: Nodes,
    agents: Vec<Client>,
    client: Netns,
    server: Netns,
    /// The second pod.
    pod: Pod,
}

pub(super) fn build_direct(site: &Site) -> Built<'_> {
    let made_of = "pods of two nodes of a cluster with an etcd, by direct routes";
    build(site, Kind { name: "netpath-direct", made_of, backend: "direct", link: 10 })
}

pub(super) fn build_vxlan(site: &Site) -> Built<'_> {
    let made_of = "pods of two nodes of a cluster with an etcd, by VXLAN";
    build(site, Kind { name: "netpath-vxlan", made_of, backend: "vxlan", link: 11 })
}

fn build(site: &Site, kind: Kind) -> Built<'_> {
    async move { Ok(Box::new(Remote::build(site, kind).await?) as Box<dyn Mode>) }.boxed()
}

impl Remote {
    async fn build(site: &Site, kind: Kind) -> Result<Self, LabError> {
        let topology = &site.topology;
        let nodes = Nodes::build(&topology.spec, kind.name, kind.link).await?;
        for at in [0, 1] {
            let own = Ipv4Addr::new(198, 18, 100 + kind.link, 4 * at as u8 + 2);
            lead_outside(topology, &nodes.both[at], own).await?;
        }
        let endpoints = site.etcd().await?;
        let configuration = |instance: &str| configuration(kind, instance, &endpoints);
        let both = nodes.both.each_ref().map(|node| &node.netns);
        let agents = site.stage().await.start_agents(&both, configuration).await?;
        let (client, _) = add(&agents[0], &format!("{}-a", kind.name), "tc").await?;
        let (server, pod) = add(&agents[1], &format!("{}-b", kind.name), "tc").await?;
        for agent in &agents {
            Site::knows_all(agent, agents.len()).await?;
        }
        Ok(Self { kind, _nodes: nodes, agents, client, server, pod })
    }

    fn to(&self, path: Path, of_family: fn(&IpAddr) -> bool) -> Result<Pair<'_>, &'static str> {
        if path != Path::PodPodRemote {
            return Err(TWO_NODES);
        }
        let address = self.pod.addresses.iter().copied().find(of_family);
        let address = address.ok_or("its pod has no address of the family")?;
        Ok(Pair { client: &self.client, server: &self.server, address })
    }
}

/// Gives a node a link of its own to the router, for etcd alone.
async fn lead_outside(topology: &Topology, node: &Space, own: Ipv4Addr) -> Result<(), NetError> {
    let router = before(own);
    let [_, _, link, last] = own.octets();
    let (near, far) = ([net(own, 30)], [net(router, 30)]);
    let to = format!("to-mgmt-{link}-{last}");
    wire(
        End { space: node, link: "mgmt", addresses: &near },
        End { space: &topology.router, link: &to, addresses: &far },
        None,
    )
    .await?;
    node.route(net(OUTSIDE, 32), router.into()).await
}

/// All else is at its default.
fn configuration(kind: Kind, instance: &str, endpoints: &[String]) -> String {
    let Kind { backend, link, .. } = kind;
    format!(
        "node = \"{instance}\"\n[cluster]\nname = \"{backend}\"\nbackend = \"{backend}\"\nendpoints = {endpoints:?}\n\
         pools = [\"10.{}.0.0/16\", \"fd00:{}::/48\"]\n",
        link + 60,
        link + 60
    )
}

impl Mode for Remote {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn made_of(&self) -> String {
        self.kind.made_of.into()
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        self.to(path, IpAddr::is_ipv4)
    }

    fn pair_v6(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        self.to(path, IpAddr::is_ipv6)
    }

    fn agents(&self) -> &[Client] {
        &self.agents
    }
}
