//! Two nodes on one link: what every mode across nodes is built on.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{
    lab::topology::{End, Space, Spec, UPLINK, net, wire},
    net::NetError,
};

/// Two nodes whose uplinks are the ends of one veth pair, as those of mode `direct` are.
#[derive(Debug)]
pub(super) struct Nodes {
    /// The client's node first.
    pub(super) both: [Space; 2],
    /// Of the link, among the links of all modes.
    link: u8,
}

impl Nodes {
    /// Builds them; `name` is what their names begin with.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn build(spec: &Spec, name: &str, link: u8) -> Result<Self, NetError> {
        let both = [spec.space(&format!("{name}-east")).await?, spec.space(&format!("{name}-west")).await?];
        let nodes = Self { both, link };
        let [east, west] = [0, 1].map(|at| nodes.nets(at));
        wire(
            End { space: &nodes.both[0], link: UPLINK, addresses: &east },
            End { space: &nodes.both[1], link: UPLINK, addresses: &west },
            spec.uplink_mtu,
        )
        .await?;
        Ok(nodes)
    }

    /// IPv4 address of the node at a place.
    pub(super) const fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.link, at as u8 + 1)
    }

    fn nets(&self, at: usize) -> [IpNet; 2] {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x18, self.link.into(), 0, 0, 0, at as u16 + 1);
        [net(self.address(at), 30), net(v6, 64)]
    }
}
