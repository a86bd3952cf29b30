//! `bridge`: pods on a Linux bridge that has the gateway's address, masqueraded by nftables, with bridged packets shown
//! to netfilter, as Docker does it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Built, ONE_NODE, nft::masquerade};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::{
        LabError,
        topology::{End, OUTSIDE, OUTSIDE_V6, Space, Topology, net, wire},
    },
    net::{NetError, Netns, sysctl},
};

const BRIDGE: &str = "br0";
/// What there is in place of a kernel's setting that it has not.
pub(super) const LACKS: &str = "absent (no br_netfilter)";
/// Pods' IPv6 addresses where netfilter translates them; the first is the bridge's.
const SUBNET_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0), 64);
const UPLINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 2, 0, 0, 0, 2);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 2, 0, 0, 0, 1);

/// What tells a kind of bridge from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Pods' addresses; the first is the bridge's.
    pub(super) subnet: Ipv4Net,
    /// Address of the node's uplink, with the router's before it.
    pub(super) uplink: Ipv4Addr,
    /// Whether netfilter sees packets, and translates them on their way to outside. Else the router knows the pods.
    pub(super) netfilter: bool,
}

const KIND: Kind = Kind {
    name: "bridge",
    subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 24),
    uplink: Ipv4Addr::new(198, 18, 2, 2),
    netfilter: true,
};

/// A node of its own with a bridge and two pods, behind the same router as the lab's node.
#[derive(Debug)]
pub struct Bridge {
    kind: Kind,
    node: Space,
    /// Index of the bridge.
    bridge: u32,
    pods: Vec<Space>,
    topology: Arc<Topology>,
    /// Whether bridged packets pass netfilter.
    called: Option<String>,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Bridge::build(Arc::clone(&site.topology)).await?) as Box<dyn Mode>) }.boxed()
}

impl Bridge {
    /// Builds it on the topology's router. Needs the program `nft`.
    ///
    /// # Errors
    /// What the kernel or `nft` says.
    pub async fn build(topology: Arc<Topology>) -> Result<Self, NetError> {
        Self::of(KIND, topology).await
    }

    /// Builds a kind of it.
    ///
    /// # Errors
    /// What the kernel or `nft` says.
    pub(super) async fn of(kind: Kind, topology: Arc<Topology>) -> Result<Self, NetError> {
        let node = topology.spec.space(&format!("{}-node", kind.name)).await?;
        node.forward()?;
        let router = before(kind.uplink);
        let mut uplinks = vec![(net(kind.uplink, 30), router.into())];
        uplinks.extend(kind.netfilter.then(|| (net(UPLINK_V6, 64), ROUTER_V6.into())));
        topology.connect(&node, &format!("to-{}", kind.name), &uplinks).await?;
        let gateway = address(kind, 1);
        // An address of its own (locally administered): without one a bridge takes another with each port that comes.
        let [a, b, c, d] = gateway.octets();
        node.netlink.add_bridge(BRIDGE, [2, 0, a, b, c, d]).await?;
        let bridge = node.configure(BRIDGE, &kind.nets(1)).await?;
        let called = show_to_netfilter(&node, kind.netfilter)?;
        if kind.netfilter {
            masquerade(&node, kind.subnet.into(), BRIDGE)?;
            masquerade(&node, SUBNET_V6.into(), BRIDGE)?;
        } else {
            topology.router.route(kind.subnet.into(), kind.uplink.into()).await?;
        }
        let mut made = Self { kind, node, bridge, pods: Vec::new(), topology, called };
        for number in [2, 3] {
            made.pods.push(made.pod(number).await?);
        }
        Ok(made)
    }

    /// A pod with the `number`th address.
    async fn pod(&self, number: u8) -> Result<Space, NetError> {
        let pod = self.topology.spec.space(&format!("{}-{number}", self.kind.name)).await?;
        let port = format!("veth-{number}");
        let inside = End { space: &pod, link: "eth0", addresses: &self.kind.nets(number) };
        let outside = End { space: &self.node, link: &port, addresses: &[] };
        wire(outside, inside, self.topology.spec.uplink_mtu).await?;
        let port = self.node.configure(&port, &[]).await?;
        self.node.netlink.set_master(port, self.bridge).await?;
        pod.default_route(address(self.kind, 1).into()).await?;
        if self.kind.netfilter {
            pod.default_route(address_v6(1).into()).await?;
        }
        Ok(pod)
    }
}

impl Kind {
    /// The `number`th addresses, with the length of their subnets.
    fn nets(self, number: u8) -> Vec<IpNet> {
        let v6 = self.netfilter.then(|| net(address_v6(number), 64));
        std::iter::once(net(address(self, number), 24)).chain(v6).collect()
    }
}

/// Has the kernel show bridged packets to netfilter, or not. The keys are there if it can (module `br_netfilter`); each namespace
/// has its own (Linux 5.3). Returns what it does then; `None` if it cannot.
///
/// # Errors
/// If the namespace is not to be entered.
pub(super) fn show_to_netfilter(node: &Space, shown: bool) -> Result<Option<String>, NetError> {
    let [v4, v6] = ["", "6"].map(|family| format!("net.bridge.bridge-nf-call-ip{family}tables"));
    let wanted = if shown { "1" } else { "0" };
    node.netns.enter(|| {
        // Whether it can is told of IPv4.
        let _ = sysctl::write(&v6, wanted);
        sysctl::write(&v4, wanted).and_then(|_| sysctl::read(&v4)).ok()
    })
}

/// The `number`th IPv6 address of pods whose kind has such.
fn address_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(SUBNET_V6.network().to_bits() + u128::from(number))
}

/// The `number`th address of a kind's pods.
fn address(kind: Kind, number: u8) -> Ipv4Addr {
    let [a, b, c, _] = kind.subnet.network().octets();
    Ipv4Addr::new(a, b, c, number)
}

/// The address before one.
pub(in crate::bench) const fn before(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() - 1)
}

impl Mode for Bridge {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn made_of(&self) -> String {
        let (kind, called) = (self.kind, self.called.as_deref().unwrap_or(LACKS));
        let outside =
            if kind.netfilter { "nftables masquerade" } else { "no translation, the router knows the pods" };
        format!("Linux bridge with veth pairs, {outside}, bridge-nf-call-iptables {called}")
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let [client, server] = [0, 1].map(|at| &self.pods[at].netns);
        let (pod, topology) = (address(self.kind, 3).into(), &self.topology);
        Ok(match path {
            Path::PodPod => Pair { client, server, address: pod },
            Path::NodePod => Pair { client: &self.node.netns, server, address: pod },
            Path::PodOnlink => {
                Pair { client, server: &topology.router.netns, address: before(self.kind.uplink).into() }
            }
            Path::PodOutside => Pair { client, server: &topology.outside.netns, address: OUTSIDE.into() },
            Path::PodPodRemote => return Err(ONE_NODE),
        })
    }

    fn pair_v6(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let pair = self.pair(path)?;
        match path {
            _ if !self.kind.netfilter => Err("it is built for IPv4 only"),
            Path::PodPod | Path::NodePod => Ok(Pair { address: address_v6(3).into(), ..pair }),
            Path::PodOutside => Ok(Pair { address: OUTSIDE_V6.into(), ..pair }),
            Path::PodOnlink | Path::PodPodRemote => Err("it is measured over IPv4 only"),
        }
    }

    fn doubt(&self) -> Option<String> {
        let lacks = self.kind.netfilter && self.called.is_none();
        lacks.then(|| {
            "this kernel has no br_netfilter: bridged packets of mode bridge do not pass netfilter, as they would with Docker"
                .into()
        })
    }

    fn newcomer(&self, number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        Some(async move { Ok(self.pod(10 + number).await?.netns) }.boxed())
    }
}
