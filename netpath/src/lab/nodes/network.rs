//! The network of a lab with several nodes: links with nodes on them, joined by a router, and outside behind it.
//!
//! ```text
//!  lab1 up0 198.18.101.11/24 ──┐
//!  lab3 up0 198.18.101.13/24 ──┴ link1 198.18.101.1 ─┐
//!                                                    router 198.18.1.1 ── 198.18.1.2/30 outside, with etcd
//!  lab2 up0 198.18.102.12/24 ─── link2 198.18.102.1 ─┘
//! ```
//!
//! The same over IPv6, of 2001:db8:101::/64 and so on. A link is a bridge in the router's namespace.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    lab::topology::{End, Space, Spec, UPLINK, net, surroundings, wire},
    model::Family,
    net::{NetError, sysctl},
};

/// Router, outside, and nodes without agents yet.
#[derive(Debug)]
pub(in crate::lab) struct Network {
    /// Forwards between links and outside.
    pub(in crate::lab) router: Space,
    /// The outside server.
    pub(in crate::lab) outside: Space,
    /// The nodes.
    pub(in crate::lab) nodes: Vec<Node>,
}

/// A node's namespace, and where it is.
#[derive(Debug)]
pub(in crate::lab) struct Node {
    /// Its namespace, which has its name.
    pub(in crate::lab) space: Space,
    /// Which link it is on, from 1.
    pub(in crate::lab) link: u8,
    /// Which node it is, from 1.
    number: u8,
}

impl Node {
    /// Address of its uplink.
    pub(in crate::lab) fn address(&self, family: Family) -> IpAddr {
        address(family, self.link, 10 + self.number)
    }

    /// The router as it sees it.
    pub(in crate::lab) fn router(&self, family: Family) -> IpAddr {
        address(family, self.link, 1)
    }
}

/// Both families.
pub(in crate::lab) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The `last` address on a link.
fn address(family: Family, link: u8, last: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 18, 100 + link, last]),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100 + u16::from(link), 0, 0, 0, 0, last.into()).into(),
    }
}

/// The same with the length of the link's prefix.
fn on_link(link: u8, last: u8) -> [ipnet::IpNet; 2] {
    [net(address(Family::V4, link, last), 24), net(address(Family::V6, link, last), 64)]
}

impl Network {
    /// Builds it with nodes of these names, dealt out to so many links.
    ///
    /// # Errors
    /// What the kernel says. Namespaces made before the failure stay until their mount namespace goes.
    pub(in crate::lab) async fn build(names: &[String], links: u8) -> Result<Self, NetError> {
        let spec = Spec::default();
        let (router, outside) = surroundings(&spec).await?;
        for link in 1..=links {
            let name = bridge(link);
            router.netlink.add_bridge(&name, [2, 0, 198, 18, link, 1]).await?;
            router.configure(&name, &on_link(link, 1)).await?;
        }
        let mut network = Self { router, outside, nodes: Vec::new() };
        for (number, name) in (1..).zip(names) {
            let node = Node { space: spec.space(name).await?, link: (number - 1) % links + 1, number };
            network.plug(&node).await?;
            network.nodes.push(node);
        }
        Ok(network)
    }

    /// Connects a node to its link, with default routes by the router.
    async fn plug(&self, node: &Node) -> Result<(), NetError> {
        let (space, port) = (&node.space, format!("to-{}", node.space.name));
        let own = on_link(node.link, 10 + node.number);
        let end = End { space: &self.router, link: &port, addresses: &[] };
        wire(End { space, link: UPLINK, addresses: &own }, end, None).await?;
        let router = &self.router;
        let [port, bridge] =
            [router.configure(&port, &[]).await?, router.configure(&bridge(node.link), &[]).await?];
        router.netlink.set_master(port, bridge).await?;
        for family in FAMILIES {
            space.default_route(node.router(family)).await?;
        }
        // So that its stack speaks for packets of other nodes, see docs/CLUSTER.md.
        space.netns.enter(|| {
            sysctl::write(&format!("net/ipv4/conf/{UPLINK}/forwarding"), "1")?;
            sysctl::write("net/ipv6/conf/all/forwarding", "1").map(drop)
        })?
    }
}

/// The router's name for a link.
fn bridge(link: u8) -> String {
    format!("link{link}")
}
