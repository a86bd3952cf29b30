//! Pods whose packets take the short way to others: XDP on their host ends, and offloads inside that fit.
//!
//! In this order a packet never goes where it would be lost or spoilt: first the offloads, then the program, then the mark that
//! lets others send here; back the other way round.

use netpath_common::abi::{ENDPOINT_XDP, Endpoint};

use super::{Agent, AgentError, blocking, lock, registry::Entry};
use crate::{
    compile,
    datapath::Datapath,
    model::{Interface, Mode, Pod},
    net::{Netns, Offload, set_offloads},
};

/// Offloads of a pod's interface that XDP needs otherwise than a veth has them.
const FIT: [Offload; 5] = [
    // A frame is redirected as it is: a checksum that is left to the device would never be written.
    ("tx-checksum-ip-generic", false),
    ("tx-checksum-sctp", false),
    // And a tag that the kernel keeps beside the frame would be lost.
    ("tx-vlan-hw-insert", false),
    ("tx-vlan-stag-hw-insert", false),
    // Without NAPI, which this makes run (5.13, d3256efd8e8b), a veth takes no frames.
    ("rx-gro", true),
];

impl Agent {
    /// Which way a pod's packets take.
    pub(super) fn mode_of(&self, pod: &Pod) -> Mode {
        let node = || if pod.unattached.is_some() { Mode::Tc } else { self.config().mode };
        pod.mode.unwrap_or_else(node)
    }

    /// What the tables should tell of one of a pod's interfaces.
    pub(super) fn endpoint_of(
        &self,
        pod: &Pod,
        interface: &Interface,
        ifindex: u32,
    ) -> Result<Endpoint, AgentError> {
        let registry = lock(&self.registry);
        let network = registry.network(&interface.network)?;
        let frames =
            registry.pod(pod.name.as_str()).is_ok_and(|entry| entry.pod.id == pod.id && entry.frames);
        drop(registry);
        let mut endpoint = compile::endpoint(&network, pod, interface, ifindex, self.mtu(pod, interface));
        endpoint.flags |= if frames { ENDPOINT_XDP } else { 0 };
        Ok(endpoint)
    }

    /// Makes a pod's packets take the way that its mode says. Idempotent; the caller holds the pod's gate, and its interfaces
    /// are there.
    pub(super) async fn ensure_mode(&self, pod: &Pod) -> Result<(), AgentError> {
        let entry = lock(&self.registry).pod(pod.name.as_str())?.clone();
        match self.mode_of(&entry.pod) {
            Mode::Xdp => self.enter_xdp(&entry).await,
            // Nothing was ever changed.
            Mode::Tc if !entry.pod.offloads => Ok(()),
            Mode::Tc => self.leave_xdp(&entry).await,
        }
    }

    async fn enter_xdp(&self, entry: &Entry) -> Result<(), AgentError> {
        if !entry.pod.offloads {
            self.note_offloads(&entry.pod, true).await?;
        }
        set_all(&entry.pod, &FIT).await?;
        let ends = ends(entry);
        let attach = move |datapath: &mut Datapath| {
            ends.iter().try_for_each(|(name, ifindex)| datapath.attach_frames(name, *ifindex))
        };
        self.on_datapath(attach).await?;
        self.mark_frames(entry, true).await
    }

    async fn leave_xdp(&self, entry: &Entry) -> Result<(), AgentError> {
        self.mark_frames(entry, false).await?;
        let ends = ends(entry);
        let detach = move |datapath: &mut Datapath| {
            ends.iter().try_for_each(|(_, ifindex)| datapath.detach_frames(*ifindex))
        };
        self.on_datapath(detach).await?;
        set_all(&entry.pod, &FIT.map(|(name, on)| (name, !on))).await?;
        self.note_offloads(&entry.pod, false).await
    }

    /// Tells other pods' programs whether frames may be sent to a pod.
    async fn mark_frames(&self, entry: &Entry, frames: bool) -> Result<(), AgentError> {
        lock(&self.registry).set_frames(&entry.pod, frames);
        let mut records = Vec::new();
        for (interface, ifindex) in entry.links() {
            let endpoint = self.endpoint_of(&entry.pod, interface, ifindex)?;
            records.extend(interface.all_addresses().map(|address| (address, endpoint)));
        }
        let write = move |datapath: &mut Datapath| {
            records.into_iter().try_for_each(|(address, endpoint)| datapath.set_endpoint(address, endpoint))
        };
        Ok(self.on_datapath(write).await?)
    }

    async fn note_offloads(&self, pod: &Pod, offloads: bool) -> Result<(), AgentError> {
        let pod = Pod { offloads, ..pod.clone() };
        self.state.save(&pod).await?;
        lock(&self.registry).set_settings(&pod);
        Ok(())
    }
}

/// Names and indexes of a pod's host ends.
fn ends(entry: &Entry) -> Vec<(String, u32)> {
    entry.links().map(|(interface, ifindex)| (interface.host.clone(), ifindex)).collect()
}

/// Sets offloads of all interfaces of a pod.
async fn set_all(pod: &Pod, offloads: &[Offload]) -> Result<(), AgentError> {
    let (pod, offloads) = (pod.clone(), offloads.to_vec());
    let set = move || {
        let netns = Netns::open(&pod.netns)?;
        pod.interfaces.iter().try_for_each(|interface| set_offloads(&netns, &interface.name, &offloads))
    };
    Ok(blocking(set).await?)
}
