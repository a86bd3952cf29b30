//! Devices for tunnels.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo},
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use super::{Netlink, VethEnd, link::end, neighbour::parameter};
use crate::net::{NetError, error::mac_text};

/// Where a tunnel device of one network begins.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Number of the network.
    pub vni: u32,
    /// The node's address.
    pub local: Ipv4Addr,
    /// Index of the link that packets leave by.
    pub uplink: u32,
    /// UDP port of the other ends.
    pub port: u16,
}

impl Netlink {
    /// Makes a VXLAN device (RFC 7348) in collect-metadata mode, down: which tunnel a packet takes, programs say. It learns
    /// nothing and asks for no neighbours. Fails if the name is taken.
    pub async fn add_vxlan(&self, name: &str, mac: [u8; 6], port: u16, mtu: u32) -> Result<(), NetError> {
        let kind = [InfoVxlan::CollectMetadata(true), InfoVxlan::Learning(false), InfoVxlan::Port(port)];
        self.vxlan(name, mac, mtu, LinkFlags::Noarp, kind.into()).await
    }

    /// Makes a VXLAN device of one network, down, which learns nothing: who is where, neighbours and
    /// [`replace_forwarding`](Self::replace_forwarding) say. Fails if the name is taken.
    pub async fn add_tunnel(
        &self,
        name: &str,
        mac: [u8; 6],
        tunnel: Tunnel,
        mtu: u32,
    ) -> Result<(), NetError> {
        let kind = [
            InfoVxlan::Id(tunnel.vni),
            InfoVxlan::Link(tunnel.uplink),
            InfoVxlan::Local(tunnel.local),
            InfoVxlan::Learning(false),
            InfoVxlan::Port(tunnel.port),
        ];
        self.vxlan(name, mac, mtu, LinkFlags::empty(), kind.into()).await
    }

    async fn vxlan(
        &self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
        flags: LinkFlags,
        kind: Vec<InfoVxlan>,
    ) -> Result<(), NetError> {
        let doing = format!("make VXLAN device {name}");
        let mut message = end(&VethEnd { name, mac: Some(mac), netns: None }, Some(mtu), &doing)?;
        message.header.flags = flags;
        message.header.change_mask = flags;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(kind)),
        ]));
        self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Says behind which node a tunnel device finds an Ethernet address, for ever.
    pub async fn replace_forwarding(&self, ifindex: u32, mac: [u8; 6], node: IpAddr) -> Result<(), NetError> {
        let doing = format!("set {} to be behind {node} on link #{ifindex}", mac_text(mac));
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec()), parameter(node)];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&doing, RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }
}
