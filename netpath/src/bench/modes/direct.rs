//! `direct`: one veth pair between two namespaces, the limit for any packet path between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::FutureExt;

use super::Built;
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::topology::{End, Space, Spec, net, wire},
    net::NetError,
};

const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 3, 0, 0, 0, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 3, 0, 0, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);

/// Two namespaces on one wire.
#[derive(Debug)]
pub struct Direct {
    client: Space,
    server: Space,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Direct::build(&site.topology.spec).await?) as Box<dyn Mode>) }.boxed()
}

impl Direct {
    /// Builds it, with the MTU of `spec`.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn build(spec: &Spec) -> Result<Self, NetError> {
        let client = spec.space("direct-a").await?;
        let server = spec.space("direct-b").await?;
        wire(
            End { space: &client, link: "eth0", addresses: &[net(CLIENT, 30), net(CLIENT_V6, 64)] },
            End { space: &server, link: "eth0", addresses: &[net(SERVER, 30), net(SERVER_V6, 64)] },
            spec.uplink_mtu,
        )
        .await?;
        Ok(Self { client, server })
    }

    fn to(&self, path: Path, address: IpAddr) -> Result<Pair<'_>, &'static str> {
        match path {
            Path::PodPod | Path::NodePod | Path::PodPodRemote => {
                Ok(Pair { client: &self.client.netns, server: &self.server.netns, address })
            }
            Path::PodOnlink | Path::PodOutside => Err("one wire leads to nobody else"),
        }
    }
}

impl Mode for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn made_of(&self) -> String {
        "one veth pair between two namespaces, nothing else".into()
    }

    /// A node and its pod could have no less between them than two pods, and two nodes have no less than their uplinks.
    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        self.to(path, SERVER.into())
    }

    fn pair_v6(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        self.to(path, SERVER_V6.into())
    }
}
