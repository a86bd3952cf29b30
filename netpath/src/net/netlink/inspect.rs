//! What only somebody who looks for faults asks for.

use std::os::fd::{AsFd as _, AsRawFd as _};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    neighbour::{NeighbourMessage, NeighbourState},
    nsid::{NsidAttribute, NsidMessage},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Link, Netlink, link};
use crate::net::{NetError, Netns};

/// A link, and what bears on the packets it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The link.
    pub link: Link,
    /// Whether it has a carrier, as far as its driver tells.
    pub carrier: bool,
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Kernel's id of its XDP program.
    pub xdp: Option<u32>,
    /// Whether that runs on the kernel's socket buffers (generic), else in the driver.
    pub xdp_generic: bool,
}

/// A filter on an interface's clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// On what leaves the interface; else on what arrives.
    pub egress: bool,
    /// Kind (`bpf`, `u32`, `flower`, …).
    pub kind: String,
    /// Place among the filters; lower runs first.
    pub priority: u16,
    /// Name of a `bpf` filter.
    pub name: Option<String>,
}

impl Netlink {
    /// All links with their state.
    pub async fn link_states(&self) -> Result<Vec<LinkState>, NetError> {
        let answers = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        Ok(answers.into_iter().filter_map(state).collect())
    }

    /// The number that a namespace has in this one, as veths to it tell; `None` if it has none.
    pub async fn number_of(&self, netns: &Netns) -> Result<Option<i32>, NetError> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(netns.as_fd().as_raw_fd().cast_unsigned()));
        let answers = self
            .request(&format!("find the number of {netns}"), RouteNetlinkMessage::GetNsId(message), 0)
            .await?;
        let number = |attribute: &NsidAttribute| match attribute {
            NsidAttribute::Id(number) => Some(*number).filter(|number| *number >= 0),
            _ => None,
        };
        let told = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => message.attributes.iter().find_map(number),
            _ => None,
        });
        Ok(told)
    }

    /// Neighbours of all interfaces that the kernel has learnt by itself. Permanent ones do not count towards the tables'
    /// limits since Linux 5.0 (58956317c8de).
    pub async fn learnt_neighbours(&self, v6: bool) -> Result<usize, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let answers = self.dump("list neighbours", RouteNetlinkMessage::GetNeighbour(message)).await?;
        let learnt = |answer: &&RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => {
                !matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
            }
            _ => false,
        };
        Ok(answers.iter().filter(learnt).count())
    }

    /// Filters on an interface's clsact qdisc, those on what arrives first; none if it has no such qdisc.
    pub async fn filters(&self, ifindex: u32) -> Result<Vec<Filter>, NetError> {
        let mut all = Vec::new();
        for (egress, minor) in [(false, TcHandle::MIN_INGRESS), (true, TcHandle::MIN_EGRESS)] {
            let mut message = TcMessage::default();
            message.header.index = ifindex.cast_signed();
            message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
            let doing = format!("list filters of link #{ifindex}");
            let answers = self.dump(&doing, RouteNetlinkMessage::GetTrafficFilter(message)).await?;
            all.extend(answers.into_iter().filter_map(|answer| filter(answer, egress)));
        }
        // Each priority is announced by itself before what it holds, and some kinds have several parts.
        let mut once: Vec<Filter> = Vec::new();
        for filter in &all {
            let same = |one: &Filter| (one.egress, one.priority) == (filter.egress, filter.priority);
            let head = filter.name.is_none() && all.iter().any(|one| same(one) && one.name.is_some());
            if !head && !once.contains(filter) {
                once.push(filter.clone());
            }
        }
        Ok(once)
    }
}

fn state(answer: RouteNetlinkMessage) -> Option<LinkState> {
    let (mut carrier, mut master, mut xdp, mut xdp_generic) = (true, None, None, false);
    if let RouteNetlinkMessage::NewLink(message) = &answer {
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Carrier(value) => carrier = *value != 0,
                LinkAttribute::Controller(index) => master = Some(*index),
                LinkAttribute::Xdp(of) => {
                    xdp = of.iter().find_map(|one| match one {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                    xdp_generic = of.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
                }
                _ => {}
            }
        }
    }
    Some(LinkState { link: link::parse(answer)?.link, carrier, master, xdp, xdp_generic })
}

fn filter(answer: RouteNetlinkMessage, egress: bool) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return None };
    let priority = (message.header.info >> 16) as u16;
    let mut filter = Filter { egress, kind: String::new(), priority, name: None };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind = kind,
            TcAttribute::Options(options) => {
                filter.name = options.into_iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::net::{VethEnd, testing};

    #[test]
    fn links_tell_their_state_and_filters_are_listed_once() {
        testing::with_pair(|pair| async move {
            let (a, b) = (
                VethEnd { name: "a", mac: None, netns: None },
                VethEnd { name: "b", mac: None, netns: Some(&pair.pod_ns) },
            );
            pair.node.add_veth(&a, &b, None).await.unwrap();
            pair.node.add_bridge("br0", [2, 0, 0, 0, 0, 1]).await.unwrap();
            let index = async |name: &str| pair.node.link(name).await.unwrap().unwrap().index;
            let (a, bridge) = (index("a").await, index("br0").await);
            pair.node.set_master(a, bridge).await.unwrap();
            pair.node.set_up(a).await.unwrap();
            let states = pair.node.link_states().await.unwrap();
            let state = states.iter().find(|state| state.link.index == a).unwrap();
            assert_eq!((state.carrier, state.master, state.xdp), (false, Some(bridge), None), "b is down");
            assert_eq!(pair.node.filters(a).await.unwrap(), []);
            for line in
                ["qdisc add dev a clsact", "filter add dev a egress pref 7 protocol ip u32 match u32 0 0"]
            {
                assert!(Command::new("tc").args(line.split(' ')).status().unwrap().success(), "tc {line}");
            }
            let filters = pair.node.filters(a).await.unwrap();
            let told: Vec<_> =
                filters.iter().map(|one| (one.egress, one.kind.as_str(), one.priority)).collect();
            assert_eq!(told, [(true, "u32", 7)]);
            assert_eq!(pair.node.learnt_neighbours(false).await.unwrap(), 0);
        });
    }
}
