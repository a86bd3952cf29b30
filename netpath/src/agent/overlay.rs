//! The device that tunnels to other nodes: there while the node is in a cluster that may need it.

use std::net::IpAddr;

use netpath_common::abi::TUNNEL_MAC;
use nix::errno::Errno;

use super::{Agent, AgentError, blocking, node::Seen};
use crate::{
    config::ClusterConfig,
    datapath::Datapath,
    model::{Backend, Network, tunnel_name},
    net::{Link, LinkDetail, NetError, sysctl},
};

/// What a tunnel over IPv4 takes of each packet, bytes: the outer IP header (20), UDP (8), VXLAN (8) and the inner Ethernet
/// header (14).
const OVER_V4: u32 = 50;
/// The same over IPv6, whose header has 40 bytes.
const OVER_V6: u32 = 70;

/// The largest IP packets that go through tunnels, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Over IPv4.
    pub(super) v4: u32,
    /// Over IPv6.
    pub(super) v6: u32,
}

impl Agent {
    /// The cluster's settings, if the node is in one.
    pub(super) fn clustered(&self) -> Option<ClusterConfig> {
        self.membership.as_ref().filter(|member| !member.has_left())?;
        self.config().cluster.clone()
    }

    /// The same, if tunnels may be needed.
    pub(super) fn tunnelling(&self) -> Option<ClusterConfig> {
        let other =
            || self.all_networks().iter().any(|one| one.backend.is_some_and(|own| own != Backend::Direct));
        self.clustered().filter(|cluster| cluster.backend != Backend::Direct || other())
    }

    /// Whether packets of a network's pods may go through tunnels.
    pub(super) fn tunnels(&self, network: &Network) -> bool {
        self.clustered().is_some_and(|cluster| network.backend.unwrap_or(cluster.backend) != Backend::Direct)
    }

    /// How a network's pods on other nodes are reached, if all nodes have it.
    pub(super) fn backend_of(&self, network: &Network) -> Option<Backend> {
        let usual = self.clustered().filter(|_| !network.pools.is_empty())?.backend;
        Some(network.backend.unwrap_or(usual))
    }

    /// The tunnels' device as it was last seen, once it can be sent by.
    pub(super) fn tunnel(&self, seen: &Seen) -> Option<LinkDetail> {
        self.tunnelling()?;
        self.device(seen).filter(|device| device.link.up && is_tunnel(&device.link)).cloned()
    }

    pub(super) fn device<'a>(&self, seen: &'a Seen) -> Option<&'a LinkDetail> {
        let name = tunnel_name(self.config().instance.name());
        seen.survey.links().find(|found| found.link.name == name)
    }

    /// Makes the device, or makes it right, or removes it where none is to be. Returns whether it is another one now than was seen.
    pub(super) async fn ensure_tunnel(&self, seen: &Seen) -> Result<bool, AgentError> {
        let (there, name) = (self.device(seen), tunnel_name(self.config().instance.name()));
        let Some(cluster) = self.tunnelling() else {
            let Some(old) = there.filter(|old| is_tunnel(&old.link)) else { return Ok(false) };
            self.netlink.delete_link(old.link.index).await?;
            return Ok(true);
        };
        if let Some(other) = there.filter(|there| !is_tunnel(&there.link)) {
            return Err(AgentError::unfit(
                format!("there is a link '{name}' (#{}) that is not netpath's", other.link.index),
                "give it another name, or remove it: netpath's tunnels need the name",
            ));
        }
        let mtu = room(seen).v4;
        let fits = there.filter(|there| there.vxlan_port == Some(cluster.vxlan_port));
        if let Some(there) = fits {
            if there.link.mtu != mtu {
                self.netlink.set_mtu(there.link.index, mtu).await?;
            }
            self.open_tunnel(&name, there.link.index).await?;
            return Ok(!there.link.up);
        }
        if let Some(old) = there {
            self.netlink.delete_link(old.link.index).await?;
        }
        self.netlink.add_vxlan(&name, TUNNEL_MAC, cluster.vxlan_port, mtu).await?;
        let Some(made) = self.netlink.link(&name).await? else { return Ok(true) };
        self.open_tunnel(&name, made.index).await?;
        tracing::info!(device = name, port = cluster.vxlan_port, "made for tunnels to other nodes");
        Ok(true)
    }

    /// Nothing passes before its programs are there.
    async fn open_tunnel(&self, name: &str, ifindex: u32) -> Result<(), AgentError> {
        let device = name.to_owned();
        self.on_datapath(move |datapath: &mut Datapath| datapath.attach_overlay(&device, ifindex)).await?;
        let device = name.to_owned();
        blocking(move || settings(&device)).await?;
        self.netlink.set_up(ifindex).await?;
        Ok(())
    }
}

/// What the stack has to do for what comes by the device: answer, as routers do, and take what its programs have judged.
fn settings(name: &str) -> Result<(), NetError> {
    for (key, value) in [
        (format!("net/ipv4/conf/{name}/forwarding"), "1"),
        (format!("net/ipv4/conf/{name}/rp_filter"), "0"),
        // No address of its own (IN6_ADDR_GEN_MODE_NONE).
        (format!("net/ipv6/conf/{name}/addr_gen_mode"), "1"),
        // Since 6.17; before, all.forwarding is the node's to set.
        (format!("net/ipv6/conf/{name}/force_forwarding"), "1"),
    ] {
        match sysctl::write(&key, value) {
            Err(error) if error.is(Errno::ENOENT) => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

/// Whether a link is netpath's device for tunnels, whichever instance's.
pub(super) fn is_tunnel(link: &Link) -> bool {
    link.kind.as_deref() == Some("vxlan") && link.mac == TUNNEL_MAC
}

/// What of the uplinks' MTU tunnels leave.
pub(super) fn room(seen: &Seen) -> Room {
    let mtu = seen.uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(super::node::DEFAULT_MTU);
    Room { v4: mtu.saturating_sub(OVER_V4), v6: mtu.saturating_sub(OVER_V6) }
}

/// MTU of pods whose packets may go through tunnels.
pub(super) fn mtu_of_pods(seen: &Seen) -> u32 {
    let own = || seen.uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let room = room(seen);
    if own().any(IpAddr::is_ipv4) || own().next().is_none() { room.v4 } else { room.v6 }
}
