//! Netlink, namespaces, pod links and sysctls. Typed operations; no shelling out.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {reason}")]
pub struct NetError {
    /// What was being done, on which object.
    pub doing: String,
    /// The kernel's reason.
    pub reason: String,
    /// errno (positive), if the kernel gave one.
    pub errno: Option<i32>,
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    #[expect(dead_code, reason = "skeleton")]
    file: File,
    #[expect(dead_code, reason = "skeleton")]
    path: Option<PathBuf>,
}

impl Netns {
    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetError> {
        todo!()
    }

    /// An existing namespace by its file (`/run/netns/NAME`, `/proc/PID/ns/net`).
    pub fn open(_path: &Path) -> Result<Self, NetError> {
        todo!()
    }

    /// A new, empty namespace, bind-mounted at `path` so that `ip netns` sees it. Leaves nothing behind on failure.
    pub fn create(_path: &Path) -> Result<Self, NetError> {
        todo!()
    }

    /// Unmounts and removes a namespace's file; no error if it is not there.
    pub fn delete(_path: &Path) -> Result<(), NetError> {
        todo!()
    }

    /// Inode of the namespace: equal for handles of the same namespace.
    pub fn inode(&self) -> u64 {
        todo!()
    }

    /// Runs `f` on a short-lived thread inside the namespace. Sockets opened there, and processes spawned there, stay
    /// in it.
    pub fn enter<T: Send>(&self, _f: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        todo!()
    }
}

/// A link as netlink tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; zero if it has none.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kind (`veth`, `bridge`, …), if it is not a plain device.
    pub kind: Option<String>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Name.
    pub name: &'a str,
    /// Ethernet address, set at creation: udev rewriting it later makes redirected packets vanish.
    pub mac: Option<[u8; 6]>,
    /// Namespace; the netlink socket's own if absent.
    pub netns: Option<&'a Netns>,
}

/// What happens to packets of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwarded.
    #[default]
    Unicast,
    /// Answered with host unreachable.
    Unreachable,
    /// Dropped in silence.
    Blackhole,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// Kind.
    pub kind: RouteKind,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Interface.
    pub ifindex: Option<u32>,
    /// The next hop is on the link although no prefix says so.
    pub onlink: bool,
    /// MTU of the route, bytes.
    pub mtu: Option<u32>,
}

/// Protocol number netpath's routes carry (`rtm_protocol`), so that they can be listed and removed.
pub const ROUTE_PROTOCOL: u8 = 0x6e;

/// A netlink connection to one namespace.
#[derive(Clone, Debug)]
pub struct Netlink {}

impl Netlink {
    /// Opens a socket inside `netns`; it stays bound to it. Needs a tokio runtime.
    pub async fn connect(_netns: &Netns) -> Result<Self, NetError> {
        todo!()
    }

    /// The link with this name.
    pub async fn link(&self, _name: &str) -> Result<Option<Link>, NetError> {
        todo!()
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        todo!()
    }

    /// All addresses as (interface index, address with prefix length).
    pub async fn addresses(&self) -> Result<Vec<(u32, IpNet)>, NetError> {
        todo!()
    }

    /// Makes a veth pair, each end at once in its namespace (3.8 ms; moving an end costs 24 ms), with `mtu` on both.
    pub async fn add_veth(
        &self,
        _a: &VethEnd<'_>,
        _b: &VethEnd<'_>,
        _mtu: Option<u32>,
    ) -> Result<(), NetError> {
        todo!()
    }

    /// Makes a bridge.
    pub async fn add_bridge(&self, _name: &str) -> Result<(), NetError> {
        todo!()
    }

    /// Puts a link into a bridge.
    pub async fn set_master(&self, _ifindex: u32, _bridge: u32) -> Result<(), NetError> {
        todo!()
    }

    /// Removes a link; no error if it is gone.
    pub async fn delete_link(&self, _ifindex: u32) -> Result<(), NetError> {
        todo!()
    }

    /// Sets a link up.
    pub async fn set_up(&self, _ifindex: u32) -> Result<(), NetError> {
        todo!()
    }

    /// Adds an address; no error if it is there.
    pub async fn add_address(&self, _ifindex: u32, _address: IpNet) -> Result<(), NetError> {
        todo!()
    }

    /// Adds or replaces a route, marked with [`ROUTE_PROTOCOL`].
    pub async fn replace_route(&self, _route: &Route) -> Result<(), NetError> {
        todo!()
    }

    /// Removes a route; no error if it is gone.
    pub async fn delete_route(&self, _route: &Route) -> Result<(), NetError> {
        todo!()
    }

    /// Routes marked with [`ROUTE_PROTOCOL`].
    pub async fn own_routes(&self) -> Result<Vec<Route>, NetError> {
        todo!()
    }

    /// Interface of the default route of a family, if there is one.
    pub async fn default_route_interface(&self, _v6: bool) -> Result<Option<u32>, NetError> {
        todo!()
    }

    /// Adds or replaces a permanent neighbour entry.
    pub async fn replace_neighbour(
        &self,
        _ifindex: u32,
        _address: IpAddr,
        _mac: [u8; 6],
    ) -> Result<(), NetError> {
        todo!()
    }
}

/// A pod's link, fully described: what [`PodLink::ensure`] makes true.
#[derive(Clone, Debug)]
pub struct PodLink {
    /// Host end's name.
    pub host_name: String,
    /// Host end's MAC: the gateway MAC.
    pub host_mac: [u8; 6],
    /// Name inside the pod, `eth0`.
    pub pod_name: String,
    /// MAC inside the pod.
    pub pod_mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// The pod's addresses, each a host prefix (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// Gateway the pod routes via, one per family in use: 169.254.1.1, and fe80::1-style later.
    pub gateways: Vec<IpAddr>,
}

impl PodLink {
    /// Makes host and pod side match this description, changing only what differs, undoing its own steps on failure:
    /// the veth pair; in the pod `lo` up, addresses, `gateway` as link route with a permanent neighbour, default route,
    /// IPv6 off if no address needs it; on the host end: up, IPv4 forwarding, permanent neighbour and host route for
    /// each address. Returns the host end's index.
    pub async fn ensure(&self, _host: &Netlink, _host_ns: &Netns, _pod_ns: &Netns) -> Result<u32, NetError> {
        todo!()
    }

    /// Removes it; no error if it is gone.
    pub async fn remove(&self, _host: &Netlink) -> Result<(), NetError> {
        todo!()
    }
}

/// Sysctls of the calling thread's network namespace, by dotted or slashed key below `/proc/sys`.
pub mod sysctl {
    use super::NetError;

    /// Reads a value, trimmed.
    pub fn read(_key: &str) -> Result<String, NetError> {
        todo!()
    }

    /// Writes a value if it differs; returns what was there before, or `None` if nothing had to change.
    pub fn write(_key: &str, _value: &str) -> Result<Option<String>, NetError> {
        todo!()
    }
}
