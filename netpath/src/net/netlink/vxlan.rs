//! The device for tunnels.

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo},
    },
};

use super::{Netlink, VethEnd, link::end};
use crate::net::NetError;

impl Netlink {
    /// Makes a VXLAN device (RFC 7348) in collect-metadata mode, down: which tunnel a packet takes, programs say. It learns
    /// nothing and asks for no neighbours. Fails if the name is taken.
    pub async fn add_vxlan(&self, name: &str, mac: [u8; 6], port: u16, mtu: u32) -> Result<(), NetError> {
        let doing = format!("make VXLAN device {name}");
        let mut message = end(&VethEnd { name, mac: Some(mac), netns: None }, Some(mtu), &doing)?;
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(port),
            ])),
        ]));
        self.request(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }
}
