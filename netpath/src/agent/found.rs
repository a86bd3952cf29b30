//! What can be found of an instance whose state nobody can read, and what cannot.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    AgentError, advertisements, blocking, node::block_route, reserved::ports_of, state::HostChanges,
};
use crate::{
    config::{Instance, Paths},
    datapath::{Told, told},
    model::{GATEWAY_MAC, is_interface_of},
    net::{LinkDetail, Netlink, Netns, RouteKind, Survey},
};

/// What is known without a state.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What the pinned tables and the kernel tell of changes on the host.
    pub(super) host: HostChanges,
    /// What may be this instance's and is left alone, since it may be somebody else's as well: each in words, with how to
    /// remove it.
    pub(super) left: Vec<String>,
}

impl Found {
    /// Looks. The pinned tables tell the blocks, the uplinks and the range of ports; without them routes and ports stay.
    pub(super) async fn look(
        instance: &Instance,
        paths: &Paths,
        netlink: &Netlink,
    ) -> Result<Self, AgentError> {
        let survey = netlink.survey().await?;
        let mut found = Self::default();
        let pin_dir = paths.pin_dir.clone();
        let tables = blocking(move || told(&pin_dir)).await;
        let own =
            netlink.own_routes().await?.into_iter().filter(|route| route.kind == RouteKind::Unreachable);
        for route in own {
            // Another instance's is marked as well.
            match &tables {
                Ok(told) if told.prefixes.contains(&route.prefix) && block_route(route.prefix) == route => {
                    found.host.routes.push(route.prefix);
                }
                _ => found
                    .left
                    .push(format!("route {route}, this instance's or another's: ip route del {route}")),
            }
        }
        match &tables {
            Ok(told) => {
                found.host.reserved_ports = ports_of(told);
                found.advertisements(told, &survey).await;
            }
            Err(error) => found.left.push(format!(
                "the SNAT range in net.ipv4.ip_local_reserved_ports, and accept_ra=2 of uplinks: {error}"
            )),
        }
        let is_pod = |end: &&LinkDetail| {
            end.link.mac == GATEWAY_MAC.0 && is_interface_of(instance.name(), &end.link.name)
        };
        let numbers: Vec<i32> = survey.links().filter(is_pod).filter_map(|end| end.peer_netns).collect();
        let namespaces = namespaces(paths.netns_dir.clone(), &numbers, netlink).await;
        found.left.extend(namespaces.into_iter().map(|path| {
            format!(
                "namespace {path}, made for a pod or given to it: ip netns delete NAME, or umount and rm it",
                path = path.display()
            )
        }));
        Ok(found)
    }

    /// Uplinks whose `accept_ra` may have been raised. It is not lowered: if it was 2 before, and the uplink forwards, it would
    /// lose what it lives from, while 2 harms nothing.
    async fn advertisements(&mut self, told: &Told, survey: &Survey) {
        for uplink in told.node.uplinks.iter().filter_map(|uplink| survey.link(uplink.ifindex)) {
            let name = &uplink.link.name;
            if advertisements::is_raised(name).await {
                self.left.push(format!(
                    "accept_ra=2 of {name}: sysctl -w net/ipv6/conf/{name}/accept_ra=1 if it was 1 before"
                ));
            }
        }
    }
}

/// The files in a directory that are namespaces of these numbers.
async fn namespaces(dir: PathBuf, numbers: &[i32], netlink: &Netlink) -> Vec<PathBuf> {
    let open = move || {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| Netns::open(&entry.path()).ok()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for netns in blocking(open).await {
        if netlink.number_of(&netns).await.is_ok_and(|own| own.is_some_and(|own| numbers.contains(&own))) {
            found.extend(netns.path().map(Path::to_owned));
        }
    }
    found.sort();
    found
}
