//! What the kernel announces, of a namespace and of those that its links lead to.
//!
//! An announcement is a hint that something may have changed, and where; what is so now is looked up afterwards. Lost
//! ones cost a look at everything.

use std::{
    collections::HashSet,
    io::{self, IoSliceMut},
    net::IpAddr,
    os::fd::AsRawFd as _,
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recvmsg},
};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        route::{RouteAttribute, RouteHeader},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use super::{ROUTE_PROTOCOL, neighbour::destination, route::address as address_of, survey::aligned};
use crate::net::{NetError, Netns};

/// What is announced of the namespace itself and of pods. Neighbours of other links are too many to look at, and routes
/// are sorted out below.
const GROUPS: [MulticastGroup; 11] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];
/// Room for announcements that nobody has read yet, bytes; less where the node's `rmem_max` is lower.
const ROOM: u32 = 1 << 20;
/// The largest announcement, with room to spare.
const LARGEST: usize = 64 * 1024;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// `SOL_NETLINK` and `NETLINK_LISTEN_ALL_NSID` (include/uapi/linux/netlink.h): which namespace it is from.
const NUMBER: (i32, i32) = (270, 8);
/// Length of `struct cmsghdr`, and of that with a namespace's number.
const CONTROL_HEADER: usize = 16;
const CONTROL: usize = 24;

/// Message types (include/uapi/linux/rtnetlink.h): the first of a group makes, the second removes.
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETED_NEIGHBOUR: u16 = 29;
const NEW_RULE: u16 = 32;
const DELETED_RULE: u16 = 33;
const DELETED_QDISC: u16 = 37;
const DELETED_FILTER: u16 = 45;
const NEW_SETTINGS: u16 = 80;

/// What may have changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Anything: announcements were lost.
    pub lost: bool,
    /// Links, addresses, settings or routes of the namespace itself.
    pub node: bool,
    /// Filters of these of its links.
    pub links: HashSet<u32>,
    /// Routes to these addresses, or neighbours that have them.
    pub addresses: HashSet<IpAddr>,
    /// Somebody's routes to these prefixes, in the place of others.
    pub replaced: HashSet<IpNet>,
    /// Something inside these namespaces, by the numbers that links to them tell.
    pub inside: HashSet<i32>,
}

impl Hints {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A subscription to announcements.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    reaches_pods: bool,
}

impl Watch {
    /// Subscribes inside a namespace. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The kernel's reason.
    pub async fn open(netns: &Netns) -> Result<Self, NetError> {
        let doing = format!("subscribe to netlink's announcements in {netns}");
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            // What does not fit is lost, and told so.
            let _ = socket.set_rx_buf_sz(ROOM);
            // Needs CAP_NET_BROADCAST; without it pods are looked at in turn.
            let reaches_pods = socket.set_listen_all_namespaces(true).is_ok();
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group as u32)?;
            }
            Ok((socket, reaches_pods))
        };
        let (socket, reaches_pods) =
            netns.enter_async(open).await?.map_err(|error: io::Error| NetError::io(&doing, &error))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, against types that swap their descriptor; this one is owned"
        )]
        let socket = AsyncFd::new(socket).map_err(|error| NetError::io(&doing, &error))?;
        Ok(Self { socket, buffer: vec![0; LARGEST], reaches_pods })
    }

    /// Whether it also tells of the namespaces that links lead to.
    pub fn reaches_pods(&self) -> bool {
        self.reaches_pods
    }

    /// Waits until there is something to tell, and takes down all there is.
    ///
    /// # Errors
    /// The kernel's reason; the subscription is of no use then.
    pub async fn wait(&mut self, hints: &mut Hints) -> Result<(), NetError> {
        while hints.is_empty() {
            let ready = self.socket.readable().await;
            let ready = ready.map(|mut ready| ready.clear_ready());
            ready.map_err(|error| NetError::io("wait for netlink's announcements", &error))?;
            self.drain(hints)?;
        }
        Ok(())
    }

    /// Takes down whatever comes, until that fails: for as long as it is polled.
    pub async fn gather(&mut self, hints: &mut Hints) -> NetError {
        loop {
            let ready = self.socket.readable().await.map(|mut ready| ready.clear_ready());
            let ready = ready.map_err(|error| NetError::io("wait for netlink's announcements", &error));
            if let Err(error) = ready.and_then(|()| self.drain(hints)) {
                return error;
            }
        }
    }

    /// Takes down what is there, without waiting.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn drain(&mut self, hints: &mut Hints) -> Result<(), NetError> {
        loop {
            let mut control = [0; CONTROL];
            let mut room = [IoSliceMut::new(&mut self.buffer)];
            let read =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut room, Some(&mut control), MsgFlags::MSG_DONTWAIT)
                    .map(|message| message.bytes);
            match read {
                Ok(length) => note_all(&self.buffer[..length], namespace(&control), hints),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => hints.lost = true,
                Err(errno) => return Err(NetError::errno("read netlink's announcements", errno)),
            }
        }
    }
}

/// The number of the namespace that an announcement is from; absent if it is the socket's own.
fn namespace(control: &[u8; CONTROL]) -> Option<i32> {
    let word = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("four bytes"));
    ((word(8), word(12)) == NUMBER).then(|| word(CONTROL_HEADER))
}

fn note_all(mut bytes: &[u8], namespace: Option<i32>, hints: &mut Hints) {
    while let Some(header) = bytes.get(..HEADER) {
        let length = u32::from_ne_bytes(header[..4].try_into().expect("four bytes"));
        let message = u16::from_ne_bytes(header[4..6].try_into().expect("two bytes"));
        let end = (length as usize).clamp(HEADER, bytes.len());
        note(message, &bytes[..end], namespace, hints);
        bytes = bytes.get(aligned(end as u32)..).unwrap_or_default();
    }
}

fn note(message: u16, bytes: &[u8], namespace: Option<i32>, hints: &mut Hints) {
    match (message, namespace) {
        (DELETED_QDISC | DELETED_FILTER, None) => {
            hints.links.insert(index_of(bytes));
        }
        // Filters of ours are on the node's side only.
        (NEW_NEIGHBOUR | DELETED_NEIGHBOUR, number) => note_neighbour(bytes, number, hints),
        (NEW_LINK | DELETED_LINK | NEW_ADDRESS | DELETED_ADDRESS | NEW_SETTINGS, None) => hints.node = true,
        (NEW_ROUTE | DELETED_ROUTE, None) => note_route(bytes, hints),
        (
            NEW_LINK | DELETED_LINK | NEW_ADDRESS | DELETED_ADDRESS | NEW_ROUTE | DELETED_ROUTE | NEW_RULE
            | DELETED_RULE | NEW_SETTINGS | DELETED_QDISC,
            Some(number),
        ) => {
            hints.inside.insert(number);
        }
        _ => {}
    }
}

/// Neighbours of multicast groups come and go by themselves, on every link.
fn note_neighbour(bytes: &[u8], namespace: Option<i32>, hints: &mut Hints) {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return };
    let NetlinkPayload::InnerMessage(
        RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour),
    ) = message.payload
    else {
        return;
    };
    let address = neighbour.attributes.iter().find_map(destination).filter(|address| !address.is_multicast());
    match (address, namespace) {
        (Some(address), None) => hints.addresses.insert(address),
        (Some(_), Some(number)) => hints.inside.insert(number),
        (None, _) => false,
    };
}

/// `tcm_ifindex`.
fn index_of(bytes: &[u8]) -> u32 {
    let index = bytes.get(HEADER + 4..HEADER + 8).and_then(|index| index.try_into().ok());
    u32::from_ne_bytes(index.unwrap_or_default())
}

/// A node may be told a whole routing table and all its changes. Of it only default routes, ours, and those in the place
/// of ours are of interest: routes to one address, and what has replaced another, of which no removal is told
/// (`NLM_F_REPLACE`, include/uapi/linux/netlink.h).
fn note_route(bytes: &[u8], hints: &mut Hints) {
    let Some(&[family, length, _, _, table, protocol, ..]) = bytes.get(HEADER..) else { return };
    let replaces = u16::from_ne_bytes([bytes[6], bytes[7]]) & NLM_F_REPLACE != 0;
    if table != RouteHeader::RT_TABLE_MAIN {
        return;
    }
    if protocol == ROUTE_PROTOCOL || length == 0 {
        hints.node = true;
    } else if (replaces || length == if i32::from(family) == nix::libc::AF_INET { 32 } else { 128 })
        && let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        && let NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) = message.payload
    {
        let destination = |attribute| match attribute {
            RouteAttribute::Destination(address) => address_of(&address),
            _ => None,
        };
        let Some(address) = route.attributes.into_iter().find_map(destination) else { return };
        match IpNet::new(address, length) {
            Ok(prefix) if replaces && prefix.prefix_len() < prefix.max_prefix_len() => {
                hints.replaced.insert(prefix);
            }
            _ => drop(hints.addresses.insert(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::net::{Route, RouteKind, VethEnd, sysctl, testing};

    /// What is announced of what `change` does.
    async fn told(watch: &mut Watch, change: impl Future<Output = ()>) -> Hints {
        let mut hints = Hints::default();
        watch.drain(&mut hints).unwrap();
        hints = Hints::default();
        change.await;
        timeout(Duration::from_secs(5), watch.wait(&mut hints)).await.expect("an announcement").unwrap();
        hints
    }

    #[test]
    fn changes_are_announced_with_their_place_ipv4_and_ipv6() {
        testing::with_pair(|pair| async move {
            let mut watch = Watch::open(&pair.node_ns).await.unwrap();
            assert!(watch.reaches_pods());
            let ends = (
                VethEnd { name: "a", mac: None, netns: None },
                VethEnd { name: "b", mac: None, netns: Some(&pair.pod_ns) },
            );
            let made =
                told(&mut watch, async { pair.node.add_veth(&ends.0, &ends.1, None).await.unwrap() }).await;
            assert!(made.node && !made.lost, "{made:?}");
            let outer = pair.node.link_detail("a").await.unwrap().unwrap();
            let inner = pair.pod.link("b").await.unwrap().unwrap().index;
            let number = outer.peer_netns.unwrap();
            pair.node.set_up(outer.link.index).await.unwrap();
            pair.pod.set_up(inner).await.unwrap();
            for address in ["10.0.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().unwrap()) {
                let inside = told(&mut watch, async {
                    pair.pod.add_address(inner, address.into()).await.unwrap();
                })
                .await;
                assert!(inside.inside.contains(&number), "{address}: {inside:?}");
                let index = outer.link.index;
                let neighbour = told(&mut watch, async {
                    pair.node.replace_neighbour(index, address, [2; 6]).await.unwrap();
                })
                .await;
                assert!(neighbour.addresses.contains(&address), "{address}: {neighbour:?}");
                let route = Route {
                    prefix: address.into(),
                    kind: RouteKind::Unicast,
                    via: None,
                    ifindex: Some(index),
                    onlink: false,
                    source: None,
                    mtu: None,
                    table: None,
                };
                let ours = told(&mut watch, async { pair.node.replace_route(&route).await.unwrap() }).await;
                assert!(ours.node, "{address}: {ours:?}");
                let prefix = IpNet::new(address, if address.is_ipv4() { 24 } else { 64 }).unwrap().trunc();
                let ip = |word: &str, mtu: &str| {
                    let mut command = std::process::Command::new("ip");
                    command.args(["route", word, &prefix.to_string(), "dev", "a", "mtu", mtu]);
                    pair.node_ns.enter(|| command.status()).unwrap().unwrap();
                };
                ip("add", "1400");
                let theirs = told(&mut watch, async { ip("replace", "1300") }).await;
                assert!(theirs.replaced.contains(&prefix) && !theirs.node, "{prefix}: {theirs:?}");
            }
            let setting = told(&mut watch, async {
                sysctl::write("net/ipv4/conf/a/forwarding", "1").unwrap();
            })
            .await;
            assert!(setting.node, "{setting:?}");
        });
    }

    #[test]
    fn lost_announcements_are_told() {
        testing::with_pair(|pair| async move {
            let mut watch = Watch::open(&pair.node_ns).await.unwrap();
            watch.socket.get_ref().set_rx_buf_sz(4096_u32).unwrap();
            let lo = pair.node.link("lo").await.unwrap().unwrap().index;
            for n in 1..=100 {
                pair.node.add_address(lo, format!("10.0.0.{n}/32").parse().unwrap()).await.unwrap();
            }
            let mut hints = Hints::default();
            watch.wait(&mut hints).await.unwrap();
            watch.drain(&mut hints).unwrap();
            assert!(hints.lost && hints.node, "{hints:?}");
        });
    }
}
