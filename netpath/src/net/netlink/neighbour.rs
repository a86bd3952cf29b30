//! Neighbour entries: which Ethernet address an IP address has.

use std::net::IpAddr;

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::RouteType,
    },
};

use super::{Netlink, address::family, already};
use crate::net::{NetError, error::mac_text};

/// A permanent neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permanent {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
    pub(super) mac: [u8; 6],
}

impl Netlink {
    /// Adds or replaces a permanent neighbour entry.
    pub async fn replace_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetError> {
        let doing = format!("set neighbour {address} on link #{ifindex} to {}", mac_text(mac));
        let mut message = describe(ifindex, address);
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&doing, RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }

    /// The Ethernet address of a permanent entry; `None` if there is no entry or the kernel learnt it by itself.
    pub(in crate::net) async fn permanent_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<[u8; 6]>, NetError> {
        let doing = format!("look up neighbour {address} on link #{ifindex}");
        let message = RouteNetlinkMessage::GetNeighbour(describe(ifindex, address));
        let answers = already(self.request(&doing, message, 0).await, &[Errno::ENOENT])?;
        Ok(answers.into_iter().find_map(parse).map(|permanent| permanent.mac))
    }

    /// Whether neighbour discovery has found nobody with an address, or is still asking; not where there is no entry.
    pub async fn is_unanswered(&self, ifindex: u32, address: IpAddr) -> Result<bool, NetError> {
        let doing = format!("look up neighbour {address} on link #{ifindex}");
        let message = RouteNetlinkMessage::GetNeighbour(describe(ifindex, address));
        let answers = already(self.request(&doing, message, 0).await, &[Errno::ENOENT])?;
        Ok(answers.into_iter().any(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(known) => {
                matches!(known.header.state, NeighbourState::Failed | NeighbourState::Incomplete)
            }
            _ => false,
        }))
    }

    /// Removes a neighbour entry; no error if it, or the interface, is gone.
    pub(in crate::net) async fn delete_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<(), NetError> {
        let doing = format!("remove neighbour {address} from link #{ifindex}");
        let message = RouteNetlinkMessage::DelNeighbour(describe(ifindex, address));
        already(self.request(&doing, message, 0).await, &[Errno::ENOENT, Errno::ENODEV]).map(drop)
    }
}

fn describe(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.attributes.push(parameter(address));
    message
}

/// An IP address in a message.
pub(super) fn parameter(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    })
}

/// A permanent entry out of the kernel's answer.
pub(super) fn parse(answer: RouteNetlinkMessage) -> Option<Permanent> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            other => address = destination(&other).or(address),
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    permanent.then_some(Permanent { ifindex: message.header.ifindex, address: address?, mac: mac? })
}

/// The IP address of an entry.
pub(super) fn destination(attribute: &NeighbourAttribute) -> Option<IpAddr> {
    match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{VethEnd, testing};

    #[test]
    fn permanent_entries_of_both_families() {
        testing::with_pair(|pair| async move {
            let b = VethEnd { name: "b", mac: None, netns: Some(&pair.pod_ns) };
            pair.node.add_veth(&VethEnd { name: "a", mac: None, netns: None }, &b, None).await.unwrap();
            let index = pair.node.link("a").await.unwrap().unwrap().index;
            pair.node.set_up(index).await.unwrap();
            for address in ["169.254.1.1", "fe80::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
                assert_eq!(pair.node.permanent_neighbour(index, address).await.unwrap(), None);
                for mac in [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 2]] {
                    pair.node.replace_neighbour(index, address, mac).await.unwrap();
                    assert_eq!(pair.node.permanent_neighbour(index, address).await.unwrap(), Some(mac));
                }
                pair.node.delete_neighbour(index, address).await.unwrap();
                pair.node.delete_neighbour(index, address).await.unwrap();
                assert_eq!(pair.node.permanent_neighbour(index, address).await.unwrap(), None);
            }
            let error =
                pair.node.replace_neighbour(999, "10.0.0.1".parse().unwrap(), [2; 6]).await.unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("set neighbour 10.0.0.1 on link #999 to 02:02:02:02:02:02: No such"),
                "{error}"
            );
        });
    }
}
