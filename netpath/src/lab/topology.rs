//! The lab's network: a node, a router, and an outside that has no route back to pod addresses.
//!
//! ```text
//!  node up0 198.18.0.2/30 ─── 198.18.0.1 router 198.18.1.1 ─── 198.18.1.2/30 eth0 outside
//!     2001:db8:18::2/64 ─ 2001:db8:18::1         2001:db8:18:1::1 ─ 2001:db8:18:1::2/64
//! ```
//!
//! Addresses are of 198.18.0.0/15 (RFC 2544, for benchmarks) and 2001:db8::/32 (RFC 3849, for documentation), so they
//! never mean anything elsewhere. Duplicate address detection is off, so that nothing waits for it. Needs a tokio
//! runtime and, for everything to vanish with the last process, a private mount namespace with a tmpfs on the
//! directory that holds the namespaces.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use tokio::time::sleep;

use crate::{
    model::Family,
    net::{NetError, Netlink, Netns, Route, RouteKind, VethEnd, sysctl},
};

/// Address of the node's uplink.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Name of the node's uplink.
pub const UPLINK: &str = "up0";
/// The router as the node sees it.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Address of the outside server.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
/// The router as outside sees it.
const ROUTER_TO_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// Block that pod addresses come from. Only the node knows it.
pub const BLOCK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 61, 0, 0), 24);

/// IPv6 address of the node's uplink.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 2);
const ROUTER_TO_NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
/// IPv6 address of the outside server.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 1, 0, 0, 0, 2);
const ROUTER_TO_OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 1, 0, 0, 0, 1);
/// Block that pods' IPv6 addresses come from. Only the node knows it.
pub const BLOCK_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x61, 0, 0, 0, 0, 0, 0), 64);

/// Address of the node's uplink.
pub fn node(family: Family) -> IpAddr {
    match family {
        Family::V4 => NODE.into(),
        Family::V6 => NODE_V6.into(),
    }
}

/// Address of the outside server.
pub fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => OUTSIDE.into(),
        Family::V6 => OUTSIDE_V6.into(),
    }
}

/// Block that pods' addresses come from.
pub fn block(family: Family) -> IpNet {
    match family {
        Family::V4 => BLOCK.into(),
        Family::V6 => BLOCK_V6.into(),
    }
}

/// How long a link may take to carry, and how often it is asked.
const CARRIER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// What to build.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Directory for the namespaces' files, usually `/run/netns`.
    pub dir: PathBuf,
    /// Put before every namespace's name, so that several topologies fit one directory.
    pub prefix: String,
    /// MTU of the router's legs to nodes, bytes; the kernel's 1500 if absent.
    pub uplink_mtu: Option<u32>,
}

impl Default for Spec {
    fn default() -> Self {
        Self { dir: PathBuf::from("/run/netns"), prefix: String::new(), uplink_mtu: None }
    }
}

impl Spec {
    /// A new namespace of this topology, `lo` up.
    ///
    /// # Errors
    /// What the kernel says; nothing is left then.
    pub async fn space(&self, name: &str) -> Result<Space, NetError> {
        let name = format!("{}{name}", self.prefix);
        Space::create(&self.dir.join(&name), name).await
    }
}

/// A namespace of the lab with a netlink socket in it.
#[derive(Debug)]
pub struct Space {
    /// Name of its file.
    pub name: String,
    /// The namespace.
    pub netns: Netns,
    /// A socket inside it.
    pub netlink: Netlink,
}

impl Space {
    async fn create(path: &Path, name: String) -> Result<Self, NetError> {
        let netns = Netns::create(path)?;
        let finish = async {
            // For every link to come. A link-local address on probation sends nothing, and a router asks for its
            // neighbours with one.
            netns.enter(|| sysctl::write("net.ipv6.conf.default.accept_dad", "0"))??;
            let netlink = Netlink::connect(&netns).await?;
            netlink.set_up(index(&netlink, "lo").await?).await?;
            Ok(netlink)
        };
        match finish.await {
            Ok(netlink) => Ok(Self { name, netns, netlink }),
            Err(error) => {
                Netns::delete(path)?;
                Err(error)
            }
        }
    }

    /// Gives a link addresses and sets it up. Returns its index.
    ///
    /// # Errors
    /// What the kernel says, or that there is no such link.
    pub async fn configure(&self, link: &str, addresses: &[IpNet]) -> Result<u32, NetError> {
        let index = index(&self.netlink, link).await?;
        for address in addresses {
            self.netlink.add_address(index, *address).await?;
        }
        self.netlink.set_up(index).await?;
        Ok(index)
    }

    /// Waits until packets pass a link. The end that came up first has no carrier then, and drops what it is to send
    /// until the kernel's link watch gets to it, up to a second later; asking about the link makes it act at once since
    /// kernel 6.8.
    async fn carries(&self, link: &str) -> Result<(), NetError> {
        let failed =
            |reason: String| NetError { doing: format!("waiting for link {link}"), reason, errno: None };
        let deadline = Instant::now() + CARRIER;
        while Instant::now() < deadline {
            self.netlink.link(link).await?;
            if self.netns.enter(|| running(link))?.map_err(|error| failed(error.to_string()))? {
                return Ok(());
            }
            sleep(POLL).await;
        }
        Err(failed("it got no carrier".into()))
    }

    /// Adds or replaces a route through a gateway.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn route(&self, prefix: IpNet, via: IpAddr) -> Result<(), NetError> {
        self.netlink.replace_route(&route(prefix, via)).await
    }

    /// Removes what [`Self::route`] added; no error if it is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn unroute(&self, prefix: IpNet, via: IpAddr) -> Result<(), NetError> {
        self.netlink.delete_route(&route(prefix, via)).await
    }

    /// Adds or replaces the default route of a gateway's family.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn default_route(&self, via: IpAddr) -> Result<(), NetError> {
        self.route(Family::of(via).everything(), via).await
    }

    /// Makes it a router: forwards both families, and does not judge packets by the way back (hosts may have `rp_filter` on, and
    /// new namespaces take that over).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forward(&self) -> Result<(), NetError> {
        self.netns.enter(|| {
            for key in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"] {
                sysctl::write(key, "0")?;
            }
            sysctl::write("net.ipv6.conf.all.forwarding", "1")?;
            sysctl::write("net.ipv4.ip_forward", "1").map(drop)
        })?
    }
}

/// One end of a wire: where, which name, which addresses.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The namespace.
    pub space: &'a Space,
    /// Name of the link.
    pub link: &'a str,
    /// Its addresses, if it gets any.
    pub addresses: &'a [IpNet],
}

/// Connects two namespaces by a veth pair, both ends up and carrying. `mtu` in bytes.
///
/// # Errors
/// What the kernel says.
pub async fn wire(a: End<'_>, b: End<'_>, mtu: Option<u32>) -> Result<(), NetError> {
    let near = VethEnd { name: a.link, mac: None, netns: None };
    let far = VethEnd { name: b.link, mac: None, netns: Some(&b.space.netns) };
    a.space.netlink.add_veth(&near, &far, mtu).await?;
    a.space.configure(a.link, a.addresses).await?;
    b.space.configure(b.link, b.addresses).await?;
    a.space.carries(a.link).await?;
    b.space.carries(b.link).await
}

/// Whether the kernel counts a link of the calling thread's namespace as running.
fn running(link: &str) -> nix::Result<bool> {
    Ok(getifaddrs()?.any(|one| one.interface_name == link && one.flags.contains(InterfaceFlags::IFF_RUNNING)))
}

/// An address with its prefix length.
pub fn net(address: impl Into<IpAddr>, length: u8) -> IpNet {
    IpNet::new_assert(address.into(), length)
}

fn route(prefix: IpNet, via: IpAddr) -> Route {
    Route {
        prefix,
        kind: RouteKind::Unicast,
        via: Some(via),
        ifindex: None,
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}

/// A router, and outside, which is behind it and has it as its way to everything.
///
/// # Errors
/// What the kernel says.
pub(super) async fn surroundings(spec: &Spec) -> Result<(Space, Space), NetError> {
    let (router, outside) = (spec.space("router").await?, spec.space("outside").await?);
    router.forward()?;
    let own = [net(OUTSIDE, 30), net(OUTSIDE_V6, 64)];
    let routers = [net(ROUTER_TO_OUTSIDE, 30), net(ROUTER_TO_OUTSIDE_V6, 64)];
    wire(
        End { space: &outside, link: "eth0", addresses: &own },
        End { space: &router, link: "to-outside", addresses: &routers },
        None,
    )
    .await?;
    for router in routers {
        outside.default_route(router.addr()).await?;
    }
    Ok((router, outside))
}

async fn index(netlink: &Netlink, name: &str) -> Result<u32, NetError> {
    netlink.link(name).await?.map(|link| link.index).ok_or_else(|| NetError {
        doing: format!("looking for link {name}"),
        reason: "there is none".into(),
        errno: None,
    })
}

/// Node, router and outside. The namespaces' files stay until the mount namespace they are in goes.
#[derive(Debug)]
pub struct Topology {
    /// What it was built from.
    pub spec: Spec,
    /// The node: an uplink and a default route, nothing else.
    pub node: Space,
    /// Forwards between the node and outside; knows no pod address.
    pub router: Space,
    /// The outside server's namespace: everything through the router.
    pub outside: Space,
}

impl Topology {
    /// Builds it.
    ///
    /// # Errors
    /// What the kernel says. Namespaces made before the failure stay, see [`Topology`].
    pub async fn build(spec: Spec) -> Result<Self, NetError> {
        let node = spec.space("node").await?;
        let (router, outside) = surroundings(&spec).await?;
        let topology = Self { spec, node, router, outside };
        let (v4, v6) = ((net(NODE, 30), ROUTER.into()), (net(NODE_V6, 64), ROUTER_TO_NODE_V6.into()));
        topology.connect(&topology.node, "to-node", &[v4, v6]).await?;
        Ok(topology)
    }

    /// Gives a namespace an uplink [`UPLINK`] to the router, with default routes over it. `router_link` is the name of
    /// the router's end, `addresses` the uplink's addresses with that of the router on each one's subnet.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn connect(
        &self,
        space: &Space,
        router_link: &str,
        addresses: &[(IpNet, IpAddr)],
    ) -> Result<(), NetError> {
        let own: Vec<IpNet> = addresses.iter().map(|(own, _)| *own).collect();
        let routers: Vec<IpNet> =
            addresses.iter().map(|(own, router)| net(*router, own.prefix_len())).collect();
        wire(
            End { space, link: UPLINK, addresses: &own },
            End { space: &self.router, link: router_link, addresses: &routers },
            self.spec.uplink_mtu,
        )
        .await?;
        for (_, router) in addresses {
            space.default_route(*router).await?;
        }
        Ok(())
    }
}
