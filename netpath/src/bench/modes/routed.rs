//! `routed`: a route for each pod and no bridge, as Calico does it: pods with /32 addresses and a gateway that the node
//! answers ARP for (`proxy_arp`), rules for everything that is forwarded, and masquerading.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{Built, bridge::before, routed_rules::Rules};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        topology::{End, OUTSIDE, Space, Topology, net, wire},
    },
    net::{NetError, Netns, Route, RouteKind, sysctl},
};

const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 18, 5, 2);
/// Who pods send everything to. Nobody has this address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

struct Routed {
    node: Space,
    rules: Rules,
    pods: Vec<Space>,
    topology: Arc<Topology>,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Routed::build(Arc::clone(&site.topology)).await?) as Box<dyn Mode>) }.boxed()
}

/// The `number`th pod's address.
const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, 0, number)
}

impl Routed {
    async fn build(topology: Arc<Topology>) -> Result<Self, NetError> {
        let node = topology.spec.space("routed-node").await?;
        node.forward()?;
        topology.connect(&node, "to-routed", &[(net(UPLINK, 30), before(UPLINK).into())]).await?;
        let rules = Rules::install(&node)?;
        let mut made = Self { node, rules, pods: Vec::new(), topology };
        for number in [2, 3] {
            made.pods.push(made.pod(number).await?);
        }
        Ok(made)
    }

    async fn pod(&self, number: u8) -> Result<Space, NetError> {
        let pod = self.topology.spec.space(&format!("routed-{number}")).await?;
        let port = format!("pod-{number}");
        let inside = End { space: &pod, link: "eth0", addresses: &[net(address(number), 32)] };
        wire(End { space: &self.node, link: &port, addresses: &[] }, inside, self.topology.spec.uplink_mtu)
            .await?;
        self.rules.add(&self.node, &port)?;
        let index = self.node.configure(&port, &[]).await?;
        self.node.netlink.replace_route(&over(address(number), 32, None, index)).await?;
        self.node.netns.enter(|| {
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
             masquerade",
            self.rules.kind()
        )
    }

    fn doubt(&self) -> Option<String> {
        let Rules::Nft(reason) = &self.rules else { return None };
        Some(format!("mode routed has rules of nftables' own in place of iptables-nft: {reason}"))
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = [0, 1].map(|at| &self.pods[at].netns);
        Ok(match path {
            Path::PodPod => Pair { client, server, address: address(3).into() },
            Path::NodePod => Pair { client: &self.node.netns, server, address: address(3).into() },
            Path::PodOnlink => {
                Pair { client, server: &self.topology.router.netns, address: before(UPLINK).into() }
            }
            Path::PodOutside => {
                Pair { client, server: &self.topology.outside.netns, address: OUTSIDE.into() }
            }
        })
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.pod(10 + number).await?.netns) }.boxed())
    }
}
