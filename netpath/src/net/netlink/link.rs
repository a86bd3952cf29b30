//! Links: veth pairs, bridges, and what every link has.

use std::{
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd},
};

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::{Netlink, already};
use crate::net::{NetError, Netns};

/// The kernel's limit for an interface's name, without the final zero byte (`IFNAMSIZ`).
const NAME_MAX: usize = 15;

/// The MTUs a veth takes, bytes: what IPv4 has to carry (RFC 791) up to the largest IP packet.
const VETH_MTU: RangeInclusive<u32> = 68..=65535;

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

/// A link, and where its other end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::net) struct LinkDetail {
    /// The link.
    pub(in crate::net) link: Link,
    /// Index of a veth's other end, in that end's namespace.
    pub(in crate::net) peer: Option<u32>,
    /// That namespace's number as seen from this one; absent if it is this one.
    pub(in crate::net) peer_netns: Option<i32>,
    /// Packets pass: up, with carrier, and the kernel has acted on both.
    pub(in crate::net) operational: bool,
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

impl Netlink {
    /// The link with this name, or `None`. Fails if the kernel refuses to tell.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        Ok(self.link_detail(name).await?.map(|detail| detail.link))
    }

    /// All links. Fails if the kernel refuses to tell.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let answers = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        Ok(answers.into_iter().filter_map(parse).map(|detail| detail.link).collect())
    }

    /// The link with this name and its other end.
    pub(in crate::net) async fn link_detail(&self, name: &str) -> Result<Option<LinkDetail>, NetError> {
        let doing = format!("look up link {name}");
        check_name(name, &doing)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.request(&doing, RouteNetlinkMessage::GetLink(message), 0).await;
        Ok(already(answer, &[Errno::ENODEV])?.into_iter().find_map(parse))
    }

    /// The number this connection's namespace knows `netns` by, if it has one yet; a link that crosses gives it one.
    pub(in crate::net) async fn netns_number(&self, netns: &Netns) -> Result<Option<i32>, NetError> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(netns.as_fd().as_raw_fd() as u32));
        let doing = format!("look up the number of {netns}");
        let answers = self.request(&doing, RouteNetlinkMessage::GetNsId(message), 0).await?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => {
                message.attributes.into_iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) if number >= 0 => Some(number),
                    _ => None,
                })
            }
            _ => None,
        }))
    }

    /// Makes a veth pair, each end at once in its namespace (3.8 ms; moving an end costs 24 ms), with `mtu` on both.
    /// Fails, with nothing made, if a name is taken or the MTU is out of range.
    pub async fn add_veth(&self, a: &VethEnd<'_>, b: &VethEnd<'_>, mtu: Option<u32>) -> Result<(), NetError> {
        let doing = format!("make veth pair {} and {}", a.name, b.name);
        let (mut message, peer) = (end(a, mtu, &doing)?, end(b, mtu, &doing)?);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let made =
            self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await;
        made.map(drop).map_err(|error| match error.is(Errno::EEXIST) {
            true => error.hint("one of the names is taken in its namespace"),
            false => error,
        })
    }

    /// Makes a bridge. Fails if the name is taken.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetError> {
        let doing = format!("make bridge {name}");
        check_name(name, &doing)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Puts a link into a bridge. Fails if either is gone, or is not what it should be.
    pub async fn set_master(&self, ifindex: u32, bridge: u32) -> Result<(), NetError> {
        let doing = format!("put link #{ifindex} into bridge #{bridge}");
        self.change(&doing, ifindex, LinkAttribute::Controller(bridge)).await
    }

    /// Sets a link's MTU, bytes.
    pub(in crate::net) async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), NetError> {
        self.change(&format!("set the MTU of link #{ifindex} to {mtu}"), ifindex, LinkAttribute::Mtu(mtu))
            .await
    }

    /// Sets a link's Ethernet address.
    pub(in crate::net) async fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), NetError> {
        let doing = format!("set the address of link #{ifindex} to {}", crate::net::error::mac_text(mac));
        self.change(&doing, ifindex, LinkAttribute::Address(mac.to_vec())).await
    }

    /// Removes a link; no error if it is gone. A veth's other end goes with it.
    pub async fn delete_link(&self, ifindex: u32) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let doing = format!("remove link #{ifindex}");
        let removed = self.request(&doing, RouteNetlinkMessage::DelLink(message), 0).await;
        already(removed, &[Errno::ENODEV]).map(drop)
    }

    /// Sets a link up. Fails if it is gone.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), NetError> {
        self.set_flag_up(ifindex, true).await
    }

    /// Sets a link up or down.
    pub(in crate::net) async fn set_flag_up(&self, ifindex: u32, up: bool) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        let doing = format!("set link #{ifindex} {}", if up { "up" } else { "down" });
        self.request(&doing, RouteNetlinkMessage::NewLink(message), 0).await.map(drop)
    }

    async fn change(&self, doing: &str, ifindex: u32, attribute: LinkAttribute) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes.push(attribute);
        self.request(doing, RouteNetlinkMessage::NewLink(message), 0).await.map(drop)
    }
}

/// What describes one end of a veth pair.
fn end(end: &VethEnd<'_>, mtu: Option<u32>, doing: &str) -> Result<LinkMessage, NetError> {
    check_name(end.name, doing)?;
    if let Some(mtu) = mtu.filter(|mtu| !VETH_MTU.contains(mtu)) {
        let (least, most) = VETH_MTU.into_inner();
        return Err(NetError::new(doing, format!("an MTU of {mtu} is out of range ({least} to {most})")));
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(end.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())));
    Ok(message)
}

/// The kernel's rules for names, in words; its own answer would be "numerical result out of range".
fn check_name(name: &str, doing: &str) -> Result<(), NetError> {
    let reason = if name.is_empty() || name.len() > NAME_MAX {
        format!("the name has to have 1 to {NAME_MAX} bytes")
    } else if matches!(name, "." | "..")
        || name.contains(['/', ':', '\0', '%'])
        || name.contains(char::is_whitespace)
    {
        "the name must not hold a slash, a colon, a percent sign or white space, nor be . or ..".to_owned()
    } else {
        return Ok(());
    };
    Err(NetError::new(doing, reason))
}

/// A link out of the kernel's answer.
pub(super) fn parse(answer: RouteNetlinkMessage) -> Option<LinkDetail> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: None,
    };
    let (mut peer, mut peer_netns, mut operational) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::OperState(state) => operational = state == State::Up,
            LinkAttribute::LinkNetNsId(number) => peer_netns = Some(number),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(LinkDetail { link, peer, peer_netns, operational })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{sysctl, testing};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    fn end<'a>(name: &'a str, mac: Option<[u8; 6]>, netns: Option<&'a Netns>) -> VethEnd<'a> {
        VethEnd { name, mac, netns }
    }

    #[test]
    fn veth_ends_are_made_where_they_belong() {
        testing::with_pair(|pair| async move {
            pair.node
                .add_veth(&end("a", Some(A), None), &end("b", Some(B), Some(&pair.pod_ns)), Some(1400))
                .await
                .unwrap();
            let a = pair.node.link_detail("a").await.unwrap().unwrap();
            let b = pair.pod.link_detail("b").await.unwrap().unwrap();
            assert_eq!(
                (a.link.mac, a.link.mtu, a.link.up, a.link.kind.as_deref()),
                (A, 1400, false, Some("veth"))
            );
            assert_eq!((b.link.mac, b.link.mtu), (B, 1400));
            assert_eq!((a.peer, b.peer), (Some(b.link.index), Some(a.link.index)));
            assert_eq!(a.peer_netns, pair.node.netns_number(&pair.pod_ns).await.unwrap());
            assert!(a.peer_netns.is_some());
            assert!(
                pair.node.link("b").await.unwrap().is_none() && pair.pod.link("a").await.unwrap().is_none()
            );

            // The first end elsewhere, the second here; then both elsewhere.
            pair.node
                .add_veth(&end("c", None, Some(&pair.pod_ns)), &end("d", None, None), None)
                .await
                .unwrap();
            assert!(
                pair.pod.link("c").await.unwrap().is_some() && pair.node.link("d").await.unwrap().is_some()
            );
            let both = Some(&pair.pod_ns);
            pair.node.add_veth(&end("e", None, both), &end("f", None, both), None).await.unwrap();
            assert!(
                pair.pod.link("e").await.unwrap().is_some() && pair.pod.link("f").await.unwrap().is_some()
            );
        });
    }

    #[test]
    fn links_go_up_and_away() {
        testing::with_pair(|pair| async move {
            pair.node
                .add_veth(&end("a", None, None), &end("b", None, Some(&pair.pod_ns)), None)
                .await
                .unwrap();
            let a = pair.node.link("a").await.unwrap().unwrap();
            pair.node.set_up(a.index).await.unwrap();
            pair.node.set_up(a.index).await.unwrap();
            assert!(pair.node.link("a").await.unwrap().unwrap().up);
            let names: Vec<_> = pair.node.links().await.unwrap().into_iter().map(|link| link.name).collect();
            assert_eq!(names, ["lo", "a"]);
            pair.node.delete_link(a.index).await.unwrap();
            pair.node.delete_link(a.index).await.unwrap();
            assert!(
                pair.node.link("a").await.unwrap().is_none() && pair.pod.link("b").await.unwrap().is_none()
            );
            let error = pair.node.set_up(a.index).await.unwrap_err();
            assert!(error.is(Errno::ENODEV), "{error}");
        });
    }

    #[test]
    fn bridges_take_ports() {
        testing::with_pair(|pair| async move {
            pair.node.add_bridge("br0").await.unwrap();
            pair.node.add_veth(&end("a", None, None), &end("b", None, None), None).await.unwrap();
            let bridge = pair.node.link("br0").await.unwrap().unwrap();
            let port = pair.node.link("a").await.unwrap().unwrap();
            assert_eq!(bridge.kind.as_deref(), Some("bridge"));
            pair.node.set_master(port.index, bridge.index).await.unwrap();
            let error = pair.node.set_master(port.index, port.index).await.unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("put link #{0} into bridge #{0}: ", port.index)),
                "{error}"
            );
        });
    }

    #[test]
    fn errors_say_why() {
        testing::with_pair(|pair| async move {
            let (a, b) = (end("a", None, None), end("b", None, Some(&pair.pod_ns)));
            let error = pair.node.add_veth(&a, &b, Some(20)).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "make veth pair a and b: an MTU of 20 is out of range (68 to 65535)"
            );
            pair.node.add_veth(&a, &b, None).await.unwrap();
            let error = pair.node.add_veth(&end("z", None, None), &b, None).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "make veth pair z and b: File exists; one of the names is taken in its namespace"
            );
            assert!(pair.node.link("z").await.unwrap().is_none());
            for name in ["", "0123456789abcdef", "a/b", "a b", ".."] {
                assert!(pair.node.link(name).await.unwrap_err().reason.contains("the name"), "{name}");
            }
        });
    }

    #[test]
    fn a_connection_stays_in_its_namespace_and_ends_with_its_last_clone() {
        testing::with_pair(|pair| async move {
            let clone = pair.pod.clone();
            drop(pair.pod);
            assert_eq!(clone.links().await.unwrap().len(), 1);
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            drop(clone);
            tokio::task::yield_now().await;
            assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks - 1);
            assert_eq!(sysctl::read("net.ipv4.ip_forward").unwrap(), "0");
        });
    }
}
