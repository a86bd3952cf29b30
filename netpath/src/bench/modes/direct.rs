//! `direct`: one veth pair between two namespaces, the limit for any packet path between them.

use std::net::Ipv4Addr;

use futures::FutureExt;

use super::Built;
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::topology::{End, Space, Spec, net, wire},
    net::NetError,
};

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
            End { space: &client, link: "eth0", addresses: &[net(CLIENT, 30)] },
            End { space: &server, link: "eth0", addresses: &[net(SERVER, 30)] },
            spec.uplink_mtu,
        )
        .await?;
        Ok(Self { client, server })
    }
}

impl Mode for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn made_of(&self) -> String {
        "one veth pair between two namespaces, nothing else".into()
    }

    /// A node and its pod could have no less between them than two pods.
    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        match path {
            Path::PodPod | Path::NodePod => {
                Ok(Pair { client: &self.client.netns, server: &self.server.netns, address: SERVER })
            }
            Path::PodOutside => Err("one wire leads to nobody else"),
        }
    }
}
