//! `routed`: a route for each pod and no bridge, as Calico does it: pods with /32 addresses and a gateway that the node
//! answers ARP for (`proxy_arp`), rules of nftables for everything that is forwarded, and masquerading.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{Built, bridge::before, nft};
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

/// What such a node has for its two first pods: marks for what policy has accepted, chains found by interface, flows
/// known to conntrack accepted first, tunnels from inside pods refused, a profile that accepts; masquerading by sets of
/// prefixes.
const RULES: &str = r#"
table ip routed {
    set pools { type ipv4_addr; flags interval; elements = { 10.65.0.0/24 } }
    set masqueraded { type ipv4_addr; flags interval; elements = { 10.65.0.0/24 } }
    chain profile {
        meta mark set meta mark or 0x10000
        return
    }
    chain egress {
        ct state established,related accept
        ct state invalid drop
        meta mark set meta mark and 0xfffeffff
        udp dport 4789 drop
        ip protocol 4 drop
        jump profile
        meta mark & 0x10000 == 0x10000 return
        drop
    }
    chain ingress {
        ct state established,related accept
        ct state invalid drop
        meta mark set meta mark and 0xfffeffff
        jump profile
        meta mark & 0x10000 == 0x10000 return
        drop
    }
    chain from_pods {
        iifname vmap { "pod-2" : jump egress, "pod-3" : jump egress }
    }
    chain to_pods {
        oifname vmap { "pod-2" : jump ingress, "pod-3" : jump ingress }
    }
    chain forward {
        type filter hook forward priority filter; policy drop
        meta mark set meta mark and 0xfff1ffff
        iifname "pod-*" jump from_pods
        oifname "pod-*" jump to_pods
        meta mark & 0x10000 == 0x10000 accept
        iifname "pod-*" accept
        oifname "pod-*" accept
    }
    chain input {
        type filter hook input priority filter; policy accept
        iifname "pod-*" ct state established,related accept
    }
    chain output {
        type filter hook output priority filter; policy accept
        oifname "pod-*" ct state established,related accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept
        ip saddr @masqueraded ip daddr != @pools masquerade
    }
}
"#;

struct Routed {
    node: Space,
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
        nft::apply(&node, RULES)?;
        let mut made = Self { node, pods: Vec::new(), topology };
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
        mtu: None,
        table: None,
    }
}

impl Mode for Routed {
    fn name(&self) -> &'static str {
        "routed"
    }

    fn made_of(&self) -> String {
        "a /32 route for each veth pair, proxy_arp, nftables with a FORWARD chain by interface, conntrack, marks and \
         masquerade by sets"
            .into()
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = [0, 1].map(|at| &self.pods[at].netns);
        Ok(match path {
            Path::PodPod => Pair { client, server, address: address(3) },
            Path::NodePod => Pair { client: &self.node.netns, server, address: address(3) },
            Path::PodOutside => Pair { client, server: &self.topology.outside.netns, address: OUTSIDE },
        })
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.pod(10 + number).await?.netns) }.boxed())
    }
}
