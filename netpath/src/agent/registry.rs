//! Which pods there are and who has which address, in memory. No I/O: the callers write it down.

mod addresses;
mod publications;
mod sharing;

use addresses::of_engine;
pub(super) use publications::container;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    AgentError,
    namespace::Site,
    networks::{Networks, Usage},
    wanted::Wanted,
};
use crate::{
    datapath::POD_SLOTS,
    model::{
        Attachment, DEFAULT_NETWORK, Family, Interface, MIN_MTU_V6, Mac, Network, Pod, PodState,
        interface_name, overlap,
    },
};

/// Held by whoever changes a pod in the kernel.
pub(super) type Gate = Arc<Mutex<()>>;

/// A pod with what guards its changes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pod: Pod,
    /// Index of each interface's host end; 0 while it does not exist.
    pub(super) ifindexes: Vec<u32>,
    /// Whether its interfaces are known to take frames by XDP.
    pub(super) frames: bool,
    pub(super) gate: Gate,
}

impl Entry {
    fn new(pod: Pod) -> Self {
        Self { ifindexes: vec![0; pod.interfaces.len()], frames: false, gate: Gate::default(), pod }
    }

    /// Its interfaces, each with the index of its host end.
    pub(super) fn links(&self) -> impl Iterator<Item = (&Interface, u32)> {
        self.pod.interfaces.iter().zip(self.ifindexes.iter().copied())
    }

    /// Name of the host end with this index, if it is one of the pod's.
    pub(super) fn host_of(&self, ifindex: u32) -> Option<&str> {
        self.links().find(|(_, own)| *own == ifindex).map(|(interface, _)| interface.host.as_str())
    }
}

/// The pods of this node, and its networks.
pub(super) struct Registry {
    pods: BTreeMap<String, Entry>,
    networks: Networks,
}

impl Registry {
    /// The pods of an earlier agent.
    pub(super) fn new(networks: Vec<Network>, pods: Vec<Pod>) -> Self {
        let mut networks = Networks::new(networks);
        pods.iter().for_each(|pod| networks.keep(pod));
        // The last one made had the last addresses, unless it asked for some.
        if let Some(pod) = pods.iter().max_by_key(|pod| pod.id) {
            networks.continue_after(pod);
        }
        let entry = |pod: Pod| (pod.name.to_string(), Entry::new(pod));
        Self { pods: pods.into_iter().map(entry).collect(), networks }
    }

    /// Changes a network's settings and blocks; pods keep their addresses.
    pub(super) fn update_network(&mut self, network: Network) {
        let has = |usage: &[Usage], block: &IpNet| usage.iter().any(|one| one.block == *block);
        let before = self.usage(&network.name);
        let new: Vec<_> = network.blocks.iter().copied().filter(|block| !has(&before, block)).collect();
        self.networks.update(network);
        let addresses = self.pods.values().flat_map(|entry| entry.pod.addresses());
        for address in addresses.filter(|address| new.iter().any(|block| block.contains(address))) {
            // One that a pod was allowed, or kept, before the node had the block.
            let _ = self.networks.claim(address);
        }
    }

    /// Takes a block away from a network, if nobody has an address of it. Returns whether it is gone.
    pub(super) fn remove_block(&mut self, network: &str, block: IpNet) -> bool {
        let unused = self.usage(network).iter().any(|one| one.block == block && one.unused);
        let Some(mut network) = self.network(network).ok().filter(|_| unused) else { return false };
        network.blocks.retain(|one| *one != block);
        self.update_network(network);
        true
    }

    /// How much of a network's blocks is used.
    pub(super) fn usage(&self, network: &str) -> Vec<Usage> {
        self.networks.usage(network)
    }

    /// All networks, by name.
    pub(super) fn networks(&self) -> Vec<Network> {
        self.networks.all().cloned().collect()
    }

    /// One network.
    pub(super) fn network(&self, name: &str) -> Result<Network, AgentError> {
        self.networks.get(name).cloned()
    }

    /// How many pods a network has.
    pub(super) fn pods_in(&self, network: &str) -> usize {
        let inside = |entry: &&Entry| entry.pod.interfaces.iter().any(|one| one.network == network);
        self.pods.values().filter(inside).count()
    }

    /// Whether a network can be added: a name of its own, and blocks that nobody else uses.
    pub(super) fn check_network(&self, wanted: &Network) -> Result<(), AgentError> {
        let name = || wanted.name.clone();
        if self.networks.get(&wanted.name).is_ok() {
            return Err(AgentError::NetworkExists(name()));
        }
        let taken = |reason| AgentError::SubnetTaken { network: name(), reason };
        for block in &wanted.subnets() {
            for other in self.networks.all() {
                let theirs = other.subnets().into_iter().chain(other.blocks.clone());
                if let Some(theirs) = theirs.into_iter().find(|theirs| overlap(*theirs, *block)) {
                    return Err(taken(format!("{block} overlaps {theirs} of the network '{}'", other.name)));
                }
            }
            let mut addresses = self
                .pods
                .values()
                .flat_map(|entry| entry.pod.addresses().map(|address| (address, entry.pod.name.as_str())));
            if let Some((address, pod)) = addresses.find(|(address, _)| block.contains(address)) {
                return Err(taken(format!("{block} holds {address}, an address of the pod '{pod}'")));
            }
        }
        Ok(())
    }

    /// The smallest number that no network has.
    pub(super) fn free_network_number(&self) -> u32 {
        let used: Vec<u32> = self.networks.all().map(|network| network.number).collect();
        (1..).find(|number| !used.contains(number)).unwrap_or(u32::MAX)
    }

    /// Adds a network that [`check_network`](Self::check_network) has passed.
    pub(super) fn insert_network(&mut self, network: Network) {
        self.networks.insert(network);
    }

    /// Takes a network away from new pods, unless it has some.
    pub(super) fn remove_network(&mut self, name: &str) -> Result<Network, AgentError> {
        let network = self.network(name)?;
        self.check_removable(name)?;
        self.networks.remove(name);
        Ok(network)
    }

    /// Whether a network may go, as far as this node's pods tell.
    pub(super) fn check_removable(&self, name: &str) -> Result<(), AgentError> {
        match self.pods_in(name) {
            _ if name == DEFAULT_NETWORK => Err(AgentError::NetworkStays),
            0 => Ok(()),
            pods => Err(AgentError::NetworkInUse { network: name.to_owned(), pods }),
        }
    }

    /// All pods, by name.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Entry> {
        self.pods.values()
    }

    /// One pod.
    pub(super) fn pod(&self, name: &str) -> Result<&Entry, AgentError> {
        self.pods.get(name).ok_or_else(|| AgentError::NoPod(name.to_owned()))
    }

    /// The pod that an engine knows as this.
    pub(super) fn attached(&self, attachment: &Attachment) -> Option<&Entry> {
        self.pods.values().find(|entry| entry.pod.attachment.as_ref() == Some(attachment))
    }

    /// Families that an earlier pod of the same namespace has a default route of.
    pub(super) fn families_before(&self, pod: &Pod) -> Vec<Family> {
        let is_earlier = |entry: &&Entry| entry.pod.id < pod.id && Site::from(&entry.pod).is(Site::from(pod));
        let earlier = self.pods.values().filter(is_earlier);
        earlier
            .flat_map(|entry| entry.pod.interfaces.iter().flat_map(|one| &one.addresses))
            .map(|one| Family::of(*one))
            .collect()
    }

    /// The entry as it is now, unless the pod is gone or another has taken its name.
    pub(super) fn same(&self, earlier: &Entry) -> Option<&Entry> {
        self.pods.get(earlier.pod.name.as_str()).filter(|entry| entry.pod.id == earlier.pod.id)
    }

    /// Takes addresses and a slot for a new pod. Returns it with its gate held, so that nobody takes it for one that a
    /// crash left half-made. On failure nothing is taken.
    pub(super) fn reserve(
        &mut self,
        wanted: Wanted,
        id: u32,
        instance: &str,
    ) -> Result<(Entry, OwnedMutexGuard<()>), AgentError> {
        self.check_free(&wanted)?;
        let unattached = self.resolve(&wanted)?;
        let place = self.free_place(&wanted)?;
        let slot = self.free_slot()?;
        let interfaces = self.interfaces(&wanted, id, instance)?;
        let name = wanted.name.to_string();
        let entry = Entry::new(Pod {
            id,
            interfaces,
            unattached,
            slot,
            netns: wanted.netns,
            owns_netns: wanted.owns_netns,
            mtu: wanted.mtu,
            masquerade: wanted.masquerade,
            mode: wanted.mode,
            offloads: wanted.offloads,
            publications: wanted.publications,
            ingress: wanted.ingress,
            egress: wanted.egress,
            stale_queues: false,
            labels: wanted.labels,
            attachment: wanted.attachment,
            netns_inode: wanted.netns_inode.filter(|_| wanted.stays),
            netns_id: wanted.netns_id.filter(|_| wanted.stays),
            place,
            state: PodState::Creating,
            name: wanted.name,
        });
        if let Err(error) = self.check_publications(&entry.pod) {
            self.networks.release(entry.pod.addresses());
            return Err(error);
        }
        let held = entry.gate.clone().try_lock_owned().map_err(|_| AgentError::PodBusy(name.clone()))?;
        self.pods.insert(name, entry.clone());
        Ok((entry, held))
    }

    /// Whether nobody has the pod's name or namespace, and its networks can have its MTU.
    fn check_free(&self, wanted: &Wanted) -> Result<(), AgentError> {
        let name = wanted.name.to_string();
        if let Some(present) = self.pods.get(&name) {
            let ready = present.pod.state == PodState::Ready;
            return Err(if ready { AgentError::PodExists(name) } else { AgentError::PodBusy(name) });
        }
        for network in &wanted.networks {
            let v6 = self.networks.get(network)?.has(Family::V6);
            if let Some(mtu) = wanted.mtu.filter(|mtu| v6 && *mtu < MIN_MTU_V6) {
                let reason = format!("MTU {mtu} is less than the {MIN_MTU_V6} that IPv6 needs (RFC 8200)");
                return Err(AgentError::Invalid { pod: name, reason });
            }
        }
        Ok(())
    }

    /// The pod's interfaces, with addresses that are now taken.
    fn interfaces(&mut self, wanted: &Wanted, id: u32, instance: &str) -> Result<Vec<Interface>, AgentError> {
        if wanted.unattached.is_some() {
            return Ok(Vec::new());
        }
        // First what was asked for, so that it is not chosen.
        self.claim_allowed(&wanted.networks[0], &wanted.allowed)?;
        let taken = self.networks.take(&wanted.networks, &wanted.addresses, wanted.exact);
        if taken.is_err() {
            self.networks.release(wanted.allowed.iter().copied());
        }
        let addresses = taken.map_err(|error| self.tell_holder(error))?;
        let interface = |(at, (network, addresses)): (usize, (&String, Vec<IpAddr>))| Interface {
            name: wanted.attachment.as_ref().map_or_else(|| format!("eth{at}"), |own| own.interface.clone()),
            network: network.clone(),
            // A network has a block, so an interface has an address.
            mac: wanted.mac.filter(|_| at == 0).unwrap_or_else(|| Mac::of_address(addresses[0])),
            addresses,
            allowed: if at == 0 { wanted.allowed.clone() } else { Vec::new() },
            host: interface_name(instance, id, at),
        };
        Ok(wanted.networks.iter().zip(addresses).enumerate().map(interface).collect())
    }

    fn free_slot(&self) -> Result<u32, AgentError> {
        let mut used: Vec<u32> = self.pods.values().map(|entry| entry.pod.slot).collect();
        used.sort_unstable();
        let free = used
            .iter()
            .zip(0..)
            .find(|(used, slot)| *used != slot)
            .map_or(used.len() as u32, |(_, slot)| slot);
        if free < POD_SLOTS { Ok(free) } else { Err(AgentError::TooManyPods(POD_SLOTS)) }
    }

    /// The entry of a pod, unless it is gone.
    fn present(&mut self, pod: &Pod) -> Option<&mut Entry> {
        self.pods.get_mut(pod.name.as_str()).filter(|entry| entry.pod.id == pod.id)
    }

    /// Notes how far a pod is; nothing happens if it is gone.
    pub(super) fn set_state(&mut self, pod: &Pod, state: PodState) {
        if let Some(entry) = self.present(pod) {
            entry.pod.state = state;
        }
    }

    /// Takes over a pod's settings that can change while it runs.
    pub(super) fn set_settings(&mut self, pod: &Pod) {
        if let Some(entry) = self.present(pod) {
            (entry.pod.masquerade, entry.pod.mode, entry.pod.offloads) =
                (pod.masquerade, pod.mode, pod.offloads);
            (entry.pod.ingress, entry.pod.egress, entry.pod.stale_queues) =
                (pod.ingress, pod.egress, pod.stale_queues);
            entry.pod.publications.clone_from(&pod.publications);
        }
    }

    /// Notes which namespace a pod's file is.
    pub(super) fn set_netns(&mut self, pod: &Pod) {
        if let Some(entry) = self.present(pod) {
            entry.pod.netns_id.clone_from(&pod.netns_id);
        }
    }

    /// Notes whether a pod's interfaces take frames by XDP.
    pub(super) fn set_frames(&mut self, pod: &Pod, frames: bool) {
        if let Some(entry) = self.present(pod) {
            entry.frames = frames;
        }
    }

    /// Notes the index of the host end of a pod's interface, before programs are attached to it: what is attached to an
    /// interface of no pod is taken off. On another link than before frames would be lost, until it is made fit for them.
    pub(super) fn set_ifindex(&mut self, pod: &Pod, interface: usize, ifindex: u32) {
        let entry = self.present(pod);
        let Some(entry) = entry else { return };
        let Some(noted) = entry.ifindexes.get_mut(interface) else { return };
        entry.frames &= *noted == ifindex;
        *noted = ifindex;
    }

    /// Index of the host end of a pod's interface; 0 while it does not exist.
    pub(super) fn ifindex(&self, pod: &Pod, interface: usize) -> u32 {
        let entry = self.pods.get(pod.name.as_str()).filter(|entry| entry.pod.id == pod.id);
        entry.and_then(|entry| entry.ifindexes.get(interface)).copied().unwrap_or(0)
    }

    /// The gates of pods that somebody is just removing; if something is `wanted`, only of those that have any of it.
    pub(super) fn leaving(&self, wanted: Option<&Wanted>) -> Vec<Gate> {
        let has = |pod: &Pod, wanted: &Wanted| {
            let mut addresses = wanted.addresses.iter().chain(&wanted.allowed);
            pod.name == wanted.name
                || Site::from(pod).is(Site::from(wanted))
                || addresses.any(|address| pod.addresses().any(|own| own == *address))
                || wanted.publications.iter().any(|one| pod.publications.iter().any(|own| own.overlaps(one)))
        };
        let leaving = self.pods.values().filter(|entry| {
            entry.pod.state == PodState::Removing
                && entry.gate.try_lock().is_err()
                && wanted.is_none_or(|wanted| has(&entry.pod, wanted))
        });
        leaving.map(|entry| Arc::clone(&entry.gate)).collect()
    }

    /// Forgets a pod and releases its addresses.
    pub(super) fn forget(&mut self, pod: &Pod) {
        if self.pods.get(pod.name.as_str()).is_some_and(|entry| entry.pod.id == pod.id) {
            self.pods.remove(pod.name.as_str());
            self.networks.release(pod.addresses());
        }
    }
}

#[cfg(test)]
mod tests;
