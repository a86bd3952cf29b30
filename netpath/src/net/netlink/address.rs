//! Addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    },
};

use super::{Netlink, already};
use crate::net::NetError;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub ifindex: u32,
    /// The address, with its prefix length.
    pub net: IpNet,
    /// Not to begin anything with, if there is another: a privacy address that will go (RFC 8981), a deprecated one, or
    /// a secondary one of its subnet.
    pub fading: bool,
    /// Nothing can be sent from it: duplicate address detection has not ended, or has found another.
    pub tentative: bool,
}

impl Netlink {
    /// All addresses.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        self.addresses_of(0).await
    }

    /// Addresses of one interface, or of all for index 0.
    pub(in crate::net) async fn addresses_of(&self, ifindex: u32) -> Result<Vec<Address>, NetError> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let answers = self.dump("list addresses", RouteNetlinkMessage::GetAddress(message)).await?;
        Ok(answers.into_iter().filter_map(parse).collect())
    }

    /// Adds an address; no error if it is there. An IPv6 address can be sent from at once: netpath hands each out once,
    /// so the second of duplicate address detection (RFC 4862, 5.4) would only delay the pod. What is sent to it arrives
    /// a moment later.
    pub async fn add_address(&self, ifindex: u32, address: IpNet) -> Result<(), NetError> {
        let doing = format!("add address {address} to link #{ifindex}");
        let mut message = describe(ifindex, address);
        if let IpNet::V6(_) = address {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let added =
            self.request(&doing, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await;
        already(added, &[Errno::EEXIST]).map(drop)
    }

    /// Removes an address; no error if it, or the interface, is gone.
    pub async fn delete_address(&self, ifindex: u32, address: IpNet) -> Result<(), NetError> {
        let doing = format!("remove address {address} from link #{ifindex}");
        let message = describe(ifindex, address);
        let removed = self.request(&doing, RouteNetlinkMessage::DelAddress(message), 0).await;
        already(removed, &[Errno::EADDRNOTAVAIL, Errno::ENODEV, Errno::ENXIO]).map(drop)
    }
}

fn describe(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = ifindex;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    if let IpNet::V4(v4) = address
        && v4.prefix_len() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
    }
    message
}

/// The family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn parse(answer: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // On a point-to-point link the local address is the interface's, and the other one the peer's.
    let (mut local, mut other, mut flags) = (None, None, AddressFlags::empty());
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => other = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let net = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    // The kernel calls privacy addresses secondary.
    let fading = flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated);
    let tentative = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    Some(Address { ifindex: message.header.index, net, fading, tentative })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{VethEnd, testing};

    #[test]
    fn addresses_of_both_families() {
        testing::with_pair(|pair| async move {
            let b = VethEnd { name: "b", mac: None, netns: Some(&pair.pod_ns) };
            pair.node.add_veth(&VethEnd { name: "a", mac: None, netns: None }, &b, None).await.unwrap();
            let index = pair.node.link("a").await.unwrap().unwrap().index;
            pair.node.set_up(index).await.unwrap();
            let nets = ["10.0.0.1/24", "10.0.0.9/32", "fd00::1/64", "fd00::9/128"]
                .map(|net| net.parse::<IpNet>().unwrap());
            for net in nets {
                pair.node.add_address(index, net).await.unwrap();
                pair.node.add_address(index, net).await.unwrap();
            }
            let all = pair.node.addresses().await.unwrap();
            for net in nets {
                let here = |one: &&Address| (one.ifindex, one.net) == (index, net) && !one.tentative;
                assert_eq!(all.iter().filter(here).count(), 1, "{net}: {all:?}");
            }
            assert!(pair.node.addresses_of(1).await.unwrap().is_empty());
            // Usable at once, without waiting for duplicate address detection.
            std::net::UdpSocket::bind("[fd00::1]:0").unwrap();
            for net in nets {
                pair.node.delete_address(index, net).await.unwrap();
                pair.node.delete_address(index, net).await.unwrap();
            }
            assert!(!pair.node.addresses().await.unwrap().iter().any(|one| nets.contains(&one.net)));
        });
    }

    #[test]
    fn errors_name_address_and_link() {
        testing::with_pair(|pair| async move {
            let error = pair.node.add_address(999, "10.0.0.1/32".parse().unwrap()).await.unwrap_err();
            assert!(error.is(Errno::ENODEV));
            assert!(
                error.to_string().starts_with("add address 10.0.0.1/32 to link #999: No such device"),
                "{error}"
            );
        });
    }
}
