//! Names for what the programs know by number and address.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use super::super::registry::Entry;
use crate::{
    compile::Uplink,
    model::{Mac, Peers},
    net::Link,
};

/// The node and its pods as they are now.
pub(super) struct View {
    pub(super) links: Vec<Link>,
    pub(super) pods: Vec<Entry>,
    pub(super) uplinks: Vec<Uplink>,
    /// Every address of the node.
    pub(super) addresses: Vec<IpAddr>,
    /// The other nodes of its cluster.
    pub(super) peers: Arc<Peers>,
    /// Where the ports of new bindings come from.
    pub(super) ports: RangeInclusive<u16>,
    /// Whether anybody is denied.
    pub(super) denying: bool,
}

impl View {
    /// The pod with an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Entry> {
        self.pods.iter().find(|entry| entry.pod.addresses().any(|own| own == address))
    }

    /// The name of the pod with an address.
    pub(super) fn pod_at(&self, address: IpAddr) -> Option<String> {
        self.owner(address).map(|entry| entry.pod.name.to_string())
    }

    /// Name of the pod with a number.
    pub(super) fn pod_of(&self, number: u32) -> Option<String> {
        let entry = self.pods.iter().find(|entry| entry.pod.id == number)?;
        Some(entry.pod.name.to_string())
    }

    /// Name of the pod behind an interface.
    pub(super) fn pod_behind(&self, ifindex: u32) -> Option<String> {
        let entry = self.pods.iter().find(|entry| entry.host_of(ifindex).is_some())?;
        Some(entry.pod.name.to_string())
    }

    /// The interface that leads to an address of a pod: index of its host end, and MAC inside.
    pub(super) fn way_to(&self, address: IpAddr) -> Option<(u32, Mac)> {
        let mut links = self.owner(address)?.links();
        let (interface, ifindex) = links.find(|(one, _)| one.all_addresses().any(|own| own == address))?;
        Some((ifindex, interface.mac))
    }

    /// Name of an interface; `#INDEX` if it is gone.
    pub(super) fn interface_name(&self, ifindex: u32) -> String {
        let link = self.links.iter().find(|link| link.index == ifindex);
        link.map_or_else(|| format!("#{ifindex}"), |link| link.name.clone())
    }

    /// MTU of an interface; 0 if it is gone.
    pub(super) fn mtu_of(&self, ifindex: u32) -> u32 {
        self.links.iter().find(|link| link.index == ifindex).map_or(0, |link| link.mtu)
    }

    /// MAC of an interface; zero if it has none.
    pub(super) fn mac_of(&self, ifindex: u32) -> Mac {
        Mac(self.links.iter().find(|link| link.index == ifindex).map_or([0; 6], |link| link.mac))
    }

    /// Whether an interface is an uplink.
    pub(super) fn is_uplink(&self, ifindex: u32) -> bool {
        self.uplinks.iter().any(|uplink| uplink.ifindex == ifindex)
    }
}
