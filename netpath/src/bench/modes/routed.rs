//! `routed`: a route for each pod and no bridge, as Calico does it: pods with /32 addresses and a gateway that the node
//! answers ARP for (`proxy_arp`), rules for everything that is forwarded, and masquerading.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{Built, bridge::before, nodes::Nodes, routed_rules, rules::Rules};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        topology::{End, OUTSIDE, Space, Spec, Topology, net, wire},
    },
    net::{NetError, Netns, Route, RouteKind, sysctl},
};

const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 18, 5, 2);
/// The two nodes' link.
const LINK: u8 = 8;
/// Their blocks; the first node's is 0.
const BLOCKS: [u8; 2] = [1, 2];
/// Number of their pods.
const FAR: u8 = 2;
/// Who pods send everything to. Nobody has this address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A node of this kind with a block of pods.
struct Node {
    space: Space,
    rules: Rules,
    block: u8,
}

struct Routed {
    node: Node,
    pods: Vec<Space>,
    /// Two nodes more, and a pod of each.
    nodes: [Node; 2],
    far: Vec<Space>,
    topology: Arc<Topology>,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Routed::build(Arc::clone(&site.topology)).await?) as Box<dyn Mode>) }.boxed()
}

/// The `number`th pod's address in a block.
const fn address(block: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, block, number)
}

impl Routed {
    async fn build(topology: Arc<Topology>) -> Result<Self, NetError> {
        let spec = &topology.spec;
        let node = spec.space("routed-node").await?;
        topology.connect(&node, "to-routed", &[(net(UPLINK, 30), before(UPLINK).into())]).await?;
        let node = Node::new(node, 0)?;
        let pods = vec![node.pod(spec, 2).await?, node.pod(spec, 3).await?];
        let two = Nodes::build(spec, "routed", LINK).await?;
        for (at, block) in [(0, BLOCKS[1]), (1, BLOCKS[0])] {
            let other = two.address(1 - at).into();
            two.both[at].route(net(address(block, 0), 24), other).await?;
            // The kernel answers ARP in a gateway's name only if a route leads to it.
            two.both[at].default_route(other).await?;
        }
        let [east, west] = two.both;
        let nodes = [Node::new(east, BLOCKS[0])?, Node::new(west, BLOCKS[1])?];
        let far = vec![nodes[0].pod(spec, FAR).await?, nodes[1].pod(spec, FAR).await?];
        Ok(Self { node, pods, nodes, far, topology })
    }
}

impl Node {
    fn new(space: Space, block: u8) -> Result<Self, NetError> {
        space.forward()?;
        let rules = routed_rules::install(&space)?;
        Ok(Self { space, rules, block })
    }

    async fn pod(&self, spec: &Spec, number: u8) -> Result<Space, NetError> {
        let (node, own) = (&self.space, address(self.block, number));
        let pod = spec.space(&format!("routed-{}-{number}", self.block)).await?;
        let port = format!("pod-{number}");
        let inside = End { space: &pod, link: "eth0", addresses: &[net(own, 32)] };
        wire(End { space: node, link: &port, addresses: &[] }, inside, spec.uplink_mtu).await?;
        routed_rules::add(&self.rules, node, &port)?;
        let index = node.configure(&port, &[]).await?;
        node.netlink.replace_route(&over(own, 32, None, index)).await?;
        node.netns.enter(|| {
            sysctl::write(&format!("net/ipv4/conf/{port}/proxy_arp"), "1")?;
            // The kernel would answer after up to 0.8 s, for the sake of other answers that nobody else gives here.
            sysctl::write(&format!("net/ipv4/neigh/{port}/proxy_delay"), "0")?;
            sysctl::write(&format!("net/ipv4/conf/{port}/rp_filter"), "1")
        })??;
        let index = pod.configure("eth0", &[]).await?;
        pod.netlink.replace_route(&over(GATEWAY, 32, None, index)).await?;
        pod.netlink.replace_route(&over(Ipv4Addr::UNSPECIFIED, 0, Some(GATEWAY), index)).await?;
        Ok(pod)
    }
}

fn over(address: Ipv4Addr, length: u8, via: Option<Ipv4Addr>, ifindex: u32) -> Route {
    Route {
        prefix: net(address, length),
        kind: RouteKind::Unicast,
        via: via.map(Into::into),
        ifindex: Some(ifindex),
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}

impl Mode for Routed {
    fn name(&self) -> &'static str {
        "routed"
    }

    fn made_of(&self) -> String {
        format!(
            "a /32 route for each veth pair, proxy_arp, {}: a FORWARD chain with chains of each pod, conntrack, marks and \
             masquerade; across nodes a route to the other's block by its address",
            self.node.rules.kind()
        )
    }

    fn doubt(&self) -> Option<String> {
        self.node.rules.doubt(self.name())
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = [0, 1].map(|at| &self.pods[at].netns);
        Ok(match path {
            Path::PodPod => Pair { client, server, address: address(0, 3).into() },
            Path::NodePod => Pair { client: &self.node.space.netns, server, address: address(0, 3).into() },
            Path::PodOnlink => {
                Pair { client, server: &self.topology.router.netns, address: before(UPLINK).into() }
            }
            Path::PodOutside => {
                Pair { client, server: &self.topology.outside.netns, address: OUTSIDE.into() }
            }
            Path::PodPodRemote => Pair {
                client: &self.far[0].netns,
                server: &self.far[1].netns,
                address: address(self.nodes[1].block, FAR).into(),
            },
        })
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.node.pod(&self.topology.spec, 10 + number).await?.netns) }.boxed())
    }
}
