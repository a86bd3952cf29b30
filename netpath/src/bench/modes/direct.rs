//! `direct`: one veth pair between two namespaces, the limit for any packet path between them.

use std::net::Ipv4Addr;

use crate::{
    bench::{Mode, Pair, Path},
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

    fn pair(&self, path: Path) -> Option<Pair<'_>> {
        match path {
            Path::PodPod => {
                Some(Pair { client: &self.client.netns, server: &self.server.netns, address: SERVER })
            }
            Path::PodOutside => None,
        }
    }
}
