//! `vxlan`: nodes joined by the kernel's own VXLAN, as flannel does it: pods on a bridge of their node, a route to the other
//! node's block through a tunnel device with static neighbours, and rules that masquerade nothing within the cluster.

use std::net::Ipv4Addr;

use futures::FutureExt;

use super::{
    Built, TWO_NODES,
    bridge::{LACKS, show_to_netfilter},
    nodes::Nodes,
    rules::{Rules, Text},
};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::topology::{End, Space, Spec, UPLINK, net, wire},
    net::{NetError, Route, RouteKind, Tunnel},
};

/// The two nodes' link.
const LINK: u8 = 9;
const BRIDGE: &str = "cni0";
const DEVICE: &str = "flannel.1";
/// Flannel's: Linux's own, and not the one that IANA gave out later.
const PORT: u16 = 8472;
const VNI: u32 = 1;
/// Bytes of the headers around each frame, its own Ethernet header included.
const AROUND: u32 = 50;
/// MTU of links whose MTU nobody has chosen, bytes.
const MTU: u32 = 1500;

const TABLES: &str = "*filter
:bench-FWD - [0:0]
-A FORWARD -j bench-FWD
-A bench-FWD -s 10.66.0.0/16 -j ACCEPT
-A bench-FWD -d 10.66.0.0/16 -j ACCEPT
COMMIT
*nat
:bench-POSTRTG - [0:0]
-A POSTROUTING -j bench-POSTRTG
-A bench-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A bench-POSTRTG -s BLOCK -d 10.66.0.0/16 -j RETURN
-A bench-POSTRTG -s 10.66.0.0/16 -d BLOCK -j RETURN
-A bench-POSTRTG ! -s 10.66.0.0/16 -d BLOCK -j RETURN
-A bench-POSTRTG -s 10.66.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A bench-POSTRTG ! -s 10.66.0.0/16 -d 10.66.0.0/16 -j MASQUERADE --random-fully
COMMIT
";

const NFT_TABLES: &str = "
table ip flannel {
    chain forward {
        type filter hook forward priority filter; policy accept
        ip saddr 10.66.0.0/16 accept
        ip daddr 10.66.0.0/16 accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept
        meta mark & 0x4000 == 0x4000 return
        ip saddr BLOCK ip daddr 10.66.0.0/16 return
        ip saddr 10.66.0.0/16 ip daddr BLOCK return
        ip saddr != 10.66.0.0/16 ip daddr BLOCK return
        ip saddr 10.66.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
        ip saddr != 10.66.0.0/16 ip daddr 10.66.0.0/16 masquerade fully-random
    }
}
";

struct Vxlan {
    /// Held open.
    _nodes: Nodes,
    ends: [Side; 2],
}

/// A node's part of it.
struct Side {
    rules: Rules,
    /// Whether bridged packets pass netfilter.
    called: Option<String>,
    pod: Space,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Vxlan::build(&site.topology.spec).await?) as Box<dyn Mode>) }.boxed()
}

/// An address in the block of the node at a place: the tunnel device has the first, the bridge the next, then comes the pod.
const fn address(at: usize, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 66, at as u8 + 1, number)
}

/// Locally administered Ethernet address of the `number`th device of the node at a place.
const fn mac(at: usize, number: u8) -> [u8; 6] {
    [2, 0, 10, 66, at as u8 + 1, number]
}

impl Vxlan {
    async fn build(spec: &Spec) -> Result<Self, NetError> {
        let nodes = Nodes::build(spec, "vxlan", LINK).await?;
        let mtu = spec.uplink_mtu.unwrap_or(MTU) - AROUND;
        let ends = [Side::build(spec, &nodes, 0, mtu).await?, Side::build(spec, &nodes, 1, mtu).await?];
        Ok(Self { _nodes: nodes, ends })
    }
}

impl Side {
    async fn build(spec: &Spec, nodes: &Nodes, at: usize, mtu: u32) -> Result<Self, NetError> {
        let node = &nodes.both[at];
        node.forward()?;
        let block = net(address(at, 0), 24).to_string();
        let [iptables, nft] = [TABLES, NFT_TABLES].map(|text| text.replace("BLOCK", &block));
        let rules = Rules::install(node, Text { iptables: &iptables, nft: &nft })?;
        tunnel(nodes, at, mtu).await?;
        node.netlink.add_bridge(BRIDGE, mac(at, 1)).await?;
        let bridge = node.configure(BRIDGE, &[net(address(at, 1), 24)]).await?;
        let called = show_to_netfilter(node, true)?;

        let pod = spec.space(&format!("vxlan-{at}")).await?;
        let inside = End { space: &pod, link: "eth0", addresses: &[net(address(at, 2), 24)] };
        wire(End { space: node, link: "veth", addresses: &[] }, inside, Some(mtu)).await?;
        let port = node.configure("veth", &[]).await?;
        node.netlink.set_master(port, bridge).await?;
        pod.default_route(address(at, 1).into()).await?;
        Ok(Self { rules, called, pod })
    }
}

/// The tunnel device of the node at a place, with the way to the other one's block.
async fn tunnel(nodes: &Nodes, at: usize, mtu: u32) -> Result<(), NetError> {
    let (node, other) = (&nodes.both[at], 1 - at);
    let uplink = node.configure(UPLINK, &[]).await?;
    let tunnel = Tunnel { vni: VNI, local: nodes.address(at), uplink, port: PORT };
    node.netlink.add_tunnel(DEVICE, mac(at, 0), tunnel, mtu).await?;
    let device = node.configure(DEVICE, &[net(address(at, 0), 32)]).await?;
    let peer = address(other, 0);
    node.netlink.replace_neighbour(device, peer.into(), mac(other, 0)).await?;
    node.netlink.replace_forwarding(device, mac(other, 0), nodes.address(other).into()).await?;
    let route = Route {
        prefix: net(peer, 24),
        kind: RouteKind::Unicast,
        via: Some(peer.into()),
        ifindex: Some(device),
        onlink: true,
        source: None,
        mtu: None,
        table: None,
    };
    node.netlink.replace_route(&route).await
}

impl Mode for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn made_of(&self) -> String {
        let Side { rules, called, .. } = &self.ends[0];
        format!(
            "a Linux bridge with veth pairs on each of two nodes, a VXLAN device of the kernel with static neighbours, {}: \
             accept and masquerade but within the cluster, bridge-nf-call-iptables {}",
            rules.kind(),
            called.as_deref().unwrap_or(LACKS)
        )
    }

    fn doubt(&self) -> Option<String> {
        self.ends[0].rules.doubt(self.name())
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = self.ends.each_ref().map(|end| &end.pod.netns);
        match path {
            Path::PodPodRemote => Ok(Pair { client, server, address: address(1, 2).into() }),
            _ => Err(TWO_NODES),
        }
    }
}
