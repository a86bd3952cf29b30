//! `host`: pods without a namespace of their own, as with `--network host`. They talk over loopback.

use std::{net::Ipv4Addr, sync::Arc};

use futures::FutureExt;

use super::{Built, ONE_NODE, bridge::before};
use crate::{
    bench::{Mode, Pair, Path, Site},
    lab::topology::{OUTSIDE, Space, Topology, net},
};

const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 2);

struct Host {
    node: Space,
    topology: Arc<Topology>,
}

pub(super) fn build(site: &Site) -> Built<'_> {
    async {
        let topology = Arc::clone(&site.topology);
        let node = topology.spec.space("host-node").await?;
        topology.connect(&node, "to-host", &[(net(UPLINK, 30), before(UPLINK).into())]).await?;
        Ok(Box::new(Host { node, topology }) as Box<dyn Mode>)
    }
    .boxed()
}

impl Mode for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn made_of(&self) -> String {
        "everybody in the node's own namespace: loopback, and its uplink".into()
    }

    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str> {
        let (client, topology) = (&self.node.netns, &self.topology);
        Ok(match path {
            Path::PodPod | Path::NodePod => Pair { client, server: client, address: UPLINK.into() },
            Path::PodOnlink => {
                Pair { client, server: &topology.router.netns, address: before(UPLINK).into() }
            }
            Path::PodOutside => Pair { client, server: &topology.outside.netns, address: OUTSIDE.into() },
            Path::PodPodRemote => return Err(ONE_NODE),
        })
    }
}
