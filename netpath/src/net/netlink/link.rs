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
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoMacVlan, InfoVeth, InfoVxlan,
            LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, State,
        },
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::{Netlink, already};
use crate::net::{NetError, Netns};

/// The kernel's limit for an interface's name, without the final zero byte (`IFNAMSIZ`).
const NAME_MAX: usize = 15;

/// The MTUs a veth takes, bytes: what IPv4 has to carry (RFC 791) up to the largest IP packet.
const VETH_MTU: RangeInclusive<u32> = 68..=65535;

/// What the kernel calls no queue: of a link that was never up, and of one that is.
const NO_QUEUE: [&str; 2] = ["noop", "noqueue"];

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
    /// Kind of the queue for what leaves by it (`tbf`, `mq`, …), if it has one.
    pub queue: Option<String>,
}

/// A link, where its other end is, and how the kernel is told to treat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkDetail {
    /// The link.
    pub link: Link,
    /// Index of a veth's other end, in that end's namespace.
    pub peer: Option<u32>,
    /// That namespace's number as seen from this one; absent if it is this one.
    pub peer_netns: Option<i32>,
    /// Packets pass: up, with carrier, and the kernel has acted on both.
    pub operational: bool,
    /// The sysctls that netpath sets on links, as far as the kernel has them.
    pub settings: Settings,
    /// UDP port of a VXLAN device.
    pub vxlan_port: Option<u16>,
}

/// Sysctls of a link, which the kernel tells with it: no file has to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.conf.LINK.forwarding`.
    pub forwarding: Option<bool>,
    /// Those of `net.ipv6.conf.LINK`; absent where the link has no IPv6.
    pub v6: Option<SettingsV6>,
}

/// Sysctls of a link for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsV6 {
    /// `disable_ipv6`.
    pub disabled: bool,
    /// `accept_ra`.
    pub accept_ra: i32,
    /// `forwarding`.
    pub forwarding: bool,
    /// `force_forwarding`; false as well where the kernel has no such thing.
    pub force_forwarding: bool,
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

    /// The link with this index and its other end, or `None`. Fails if the kernel refuses to tell.
    pub async fn link_at(&self, ifindex: u32) -> Result<Option<LinkDetail>, NetError> {
        if ifindex == 0 {
            return Ok(None);
        }
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let doing = format!("look up link #{ifindex}");
        let answer = self.request(&doing, RouteNetlinkMessage::GetLink(message), 0).await;
        Ok(already(answer, &[Errno::ENODEV])?.into_iter().find_map(parse))
    }

    /// Gives a link another name. A kernel before 6.2 (bd039b5ea2a9) renames only what is down: then it is down
    /// afterwards. Fails if the name is taken.
    pub(in crate::net) async fn rename(&self, ifindex: u32, name: &str) -> Result<(), NetError> {
        let doing = format!("rename link #{ifindex} to {name}");
        let rename = || self.change(&doing, ifindex, LinkAttribute::IfName(name.to_owned()));
        match rename().await {
            Err(error) if error.is(Errno::EBUSY) => {
                self.set_flag_up(ifindex, false).await?;
                rename().await
            }
            outcome => outcome,
        }
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

    /// Makes a bridge. Fails if the name is taken. Its Ethernet address is told: the kernel would give it the lowest one of
    /// its ports, which changes with each port that comes, and who knows the earlier one sends into the void.
    pub async fn add_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(), NetError> {
        let doing = format!("make bridge {name}");
        let mut message = end(&VethEnd { name, mac: Some(mac), netns: None }, None, &doing)?;
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Makes a macvlan in bridge mode on top of the link `parent`, at once in another namespace. Fails if the name is taken
    /// there, or the kernel has no macvlan.
    pub async fn add_macvlan(&self, name: &str, parent: u32, netns: &Netns) -> Result<(), NetError> {
        let doing = format!("make macvlan {name} on link #{parent}");
        let mut message = end(&VethEnd { name, mac: None, netns: Some(netns) }, None, &doing)?;
        message.attributes.push(LinkAttribute::Link(parent));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
        ]));
        self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Puts a link into a bridge. Fails if either is gone, or is not what it should be.
    pub async fn set_master(&self, ifindex: u32, bridge: u32) -> Result<(), NetError> {
        let doing = format!("put link #{ifindex} into bridge #{bridge}");
        self.change(&doing, ifindex, LinkAttribute::Controller(bridge)).await
    }

    /// Sets a link's MTU, bytes.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), NetError> {
        self.change(&format!("set the MTU of link #{ifindex} to {mtu}"), ifindex, LinkAttribute::Mtu(mtu))
            .await
    }

    /// Sets a link's Ethernet address.
    pub(in crate::net) async fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), NetError> {
        let doing = format!("set the address of link #{ifindex} to {}", crate::net::error::mac_text(mac));
        self.change(&doing, ifindex, LinkAttribute::Address(mac.to_vec())).await
    }

    /// Removes a link; no error if it is gone. A veth's other end goes with it. The kernel answers when everybody has let go of
    /// it, after 10 to 30 ms; several at once share most of the wait.
    pub async fn delete_link(&self, ifindex: u32) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let doing = format!("remove link #{ifindex}");
        let removed = self.request_apart(&doing, RouteNetlinkMessage::DelLink(message)).await;
        already(removed, &[Errno::ENODEV])
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
pub(super) fn end(end: &VethEnd<'_>, mtu: Option<u32>, doing: &str) -> Result<LinkMessage, NetError> {
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
        queue: None,
    };
    let (mut peer, mut peer_netns, mut operational) = (None, None, false);
    let (mut settings, mut vxlan_port) = (Settings::default(), None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Qdisc(queue) => {
                link.queue = Some(queue).filter(|kind| !NO_QUEUE.contains(&kind.as_str()));
            }
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::OperState(state) => operational = state == State::Up,
            LinkAttribute::LinkNetNsId(number) => peer_netns = Some(number),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(all)) => vxlan_port = all.iter().find_map(port),
                        _ => {}
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => settings = parse_settings(&families),
            _ => {}
        }
    }
    Some(LinkDetail { link, peer, peer_netns, operational, settings, vxlan_port })
}

fn port(info: &InfoVxlan) -> Option<u16> {
    if let InfoVxlan::Port(port) = info { Some(*port) } else { None }
}

fn parse_settings(families: &[AfSpecUnspec]) -> Settings {
    let mut settings = Settings::default();
    for family in families {
        match family {
            AfSpecUnspec::Inet(all) => {
                settings.forwarding = all.iter().find_map(|one| match one {
                    AfSpecInet::DevConf(conf) => Some(conf.forwarding != 0),
                    _ => None,
                });
            }
            AfSpecUnspec::Inet6(all) => {
                settings.v6 = all.iter().find_map(|one| match one {
                    AfSpecInet6::DevConf(conf) => Some(SettingsV6 {
                        disabled: conf.disable_ipv6 != 0,
                        accept_ra: conf.accept_ra,
                        forwarding: conf.forwarding != 0,
                        force_forwarding: conf.force_forwarding != 0,
                    }),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    settings
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
