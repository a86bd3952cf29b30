//! The kernel's side of a pod: namespace, links, programs, endpoints.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Agent, AgentError, blocking, lock,
    namespace::{another, identify, is_same, netns_at, open_netns},
    pods::gate_of,
    registry::Entry,
    sweep::limit_new_pod,
};
use crate::{
    compile,
    datapath::Datapath,
    model::{Bandwidth, Family, GATEWAY_MAC, Interface, MAX_INTERFACES, Pod, Unattached},
    net::{Netlink, Netns, PodLink, Shape, Sourced, Undo},
};

/// Table of a namespace for the second interface of its first pod, less one; each later one has the next table, and each
/// later pod the next [`MAX_INTERFACES`] of them.
const TABLE: u8 = 0x6e;

impl Agent {
    /// Makes a new pod's namespace and links.
    pub(super) async fn build(self: &Arc<Self>, pod: &Pod, undo: &mut Undo) -> Result<(), AgentError> {
        if let Some(unattached) = &pod.unattached {
            let netns = self.unattached_netns(pod, unattached).await?;
            let path = pod.netns.clone();
            undo.push(format!("delete namespace {}", path.display()), move || async move {
                blocking(move || Netns::delete(&path)).await
            });
            return self.finish_unattached(pod, unattached, &netns).await;
        }
        let netns = if pod.owns_netns {
            let path = pod.netns.clone();
            let netns = blocking(move || Netns::create(&path)).await?;
            let path = pod.netns.clone();
            undo.push(format!("delete namespace {}", path.display()), move || async move {
                blocking(move || Netns::delete(&path)).await
            });
            netns
        } else {
            open_netns(&pod.name, &pod.netns).await?
        };
        let (slot, limit) = (pod.slot, self.flows_per_pod());
        let prepare = move |datapath: &mut Datapath| {
            datapath.clear_pod_counter(slot)?;
            limit_new_pod(datapath, slot, limit)
        };
        self.on_datapath(prepare).await?;
        for at in 0..pod.interfaces.len() {
            self.build_interface(pod, at, &netns, undo).await?;
        }
        self.ensure_mode(pod).await
    }

    /// The namespace of a pod that is in no network, at its file. Idempotent.
    async fn unattached_netns(&self, pod: &Pod, unattached: &Unattached) -> Result<Netns, AgentError> {
        let other = match unattached {
            Unattached::None => return netns_at(pod, None).await,
            Unattached::Host => return netns_at(pod, Some(self.netns.clone())).await,
            Unattached::Pod(other) => lock(&self.registry).pod(other.as_str())?.clone(),
        };
        // Whoever removes that pod has looked for others in its namespace by then.
        let _held = gate_of(&other).await?;
        let name = || other.pod.name.to_string();
        let other = lock(&self.registry).same(&other).cloned().ok_or_else(|| AgentError::NoPod(name()))?;
        let shared = open_netns(&pod.name, &other.pod.netns).await?;
        if is_same(&other.pod, &shared).await? {
            netns_at(pod, Some(shared)).await
        } else {
            Err(another(&other.pod))
        }
    }

    /// Makes the inside of such a namespace right, and writes down which one it is if it is another's: it is told from what
    /// somebody puts in its place.
    async fn finish_unattached(
        &self,
        pod: &Pod,
        unattached: &Unattached,
        netns: &Netns,
    ) -> Result<(), AgentError> {
        if *unattached == Unattached::None {
            let inside = Netlink::connect(netns).await?;
            if let Some(loopback) = inside.link("lo").await? {
                inside.set_up(loopback.index).await?;
            }
            return Ok(());
        }
        let now = lock(&self.registry).pod(pod.name.as_str())?.pod.clone();
        let netns_id = Some(identify(netns).await?);
        if now.netns_id == netns_id {
            return Ok(());
        }
        let pod = Pod { netns_id, ..now };
        self.state.save(&pod).await?;
        lock(&self.registry).set_netns(&pod);
        Ok(())
    }

    async fn build_interface(
        self: &Arc<Self>,
        pod: &Pod,
        at: usize,
        netns: &Netns,
        undo: &mut Undo,
    ) -> Result<(), AgentError> {
        let interface = &pod.interfaces[at];
        let link = self.pod_link(pod, at);
        let (agent, gone) = (Arc::clone(self), pod.clone());
        undo.push(format!("detach programs from {}", interface.host), move || async move {
            agent.forget_interface(&gone, at).await
        });
        self.ensure_interface(pod, at, netns).await?;
        let (netlink, inside) = (self.netlink.clone(), netns.clone());
        undo.push(format!("remove link {}", interface.host), move || async move {
            link.remove_rules(&inside).await?;
            link.remove(&netlink).await
        });
        Ok(())
    }

    /// Makes one of a pod's links right, with its programs and endpoints. Idempotent.
    async fn ensure_interface(&self, pod: &Pod, at: usize, netns: &Netns) -> Result<(), AgentError> {
        let guard = async |ifindex| {
            lock(&self.registry).set_ifindex(pod, at, ifindex);
            self.ensure_datapath(pod, at, ifindex).await
        };
        self.pod_link(pod, at).ensure_guarded(&self.netlink, &self.netns, netns, guard).await?;
        Ok(())
    }

    /// Takes one of a pod's interfaces, which may be gone, out of the tables, and our programs off it.
    async fn forget_interface(&self, pod: &Pod, at: usize) -> Result<(), AgentError> {
        self.forget_endpoints(&pod.interfaces[at]).await?;
        let ifindex = lock(&self.registry).ifindex(pod, at);
        lock(&self.registry).set_ifindex(pod, at, 0);
        if ifindex == 0 { Ok(()) } else { self.detach(ifindex).await }
    }

    /// Programs on one of a pod's interfaces and its endpoints. Idempotent.
    pub(super) async fn ensure_datapath(&self, pod: &Pod, at: usize, ifindex: u32) -> Result<(), AgentError> {
        let interface = pod.interfaces[at].clone();
        let endpoint = self.endpoint_of(pod, &interface, ifindex)?;
        let link = compile::link(pod, &interface);
        let write = move |datapath: &mut Datapath| {
            // The endpoint first: programs without it take the pod for a stranger.
            datapath.set_link(ifindex, link)?;
            interface.all_addresses().try_for_each(|address| datapath.set_endpoint(address, endpoint))?;
            datapath.attach_pod(&interface.host, ifindex)
        };
        Ok(self.on_datapath(write).await?)
    }

    async fn forget_endpoints(&self, interface: &Interface) -> Result<(), AgentError> {
        let addresses: Vec<_> = interface.all_addresses().collect();
        let forget = move |datapath: &mut Datapath| {
            addresses.into_iter().try_for_each(|address| datapath.remove_endpoint(address))
        };
        Ok(self.on_datapath(forget).await?)
    }

    /// Takes our programs off an interface, which may be gone.
    pub(super) async fn detach(&self, ifindex: u32) -> Result<(), AgentError> {
        let detach = move |datapath: &mut Datapath| {
            datapath.remove_link(ifindex)?;
            datapath.detach(ifindex)
        };
        Ok(self.on_datapath(detach).await?)
    }

    /// The link of one of a pod's interfaces as it should be.
    pub(super) fn pod_link(&self, pod: &Pod, at: usize) -> PodLink {
        let mut link = pod_link(pod, at, self.mtu(pod, &pod.interfaces[at]));
        if pod.place > 0 {
            let before = lock(&self.registry).families_before(pod);
            link.gateways.retain(|gateway| !before.contains(&Family::of(*gateway)));
        }
        link
    }

    /// Makes a pod's links, programs and endpoints right. An interface that fails does not stop the others.
    pub(super) async fn repair_pod(&self, entry: &Entry) -> Result<(), AgentError> {
        let pod = &entry.pod;
        if let Some(unattached) = &pod.unattached {
            let netns = self.unattached_netns(pod, unattached).await?;
            return self.finish_unattached(pod, unattached, &netns).await;
        }
        let (path, owned) = (pod.netns.clone(), pod.owns_netns);
        let open = move || match Netns::open(&path) {
            // Namespaces go with a reboot, and ours are ours to make again.
            Err(_) if owned && path.symlink_metadata().is_err() => Netns::create(&path),
            opened => opened,
        };
        let netns = blocking(open).await;
        let is_own = match &netns {
            Ok(netns) => is_same(pod, netns).await?,
            Err(_) => false,
        };
        let mut outcome = Ok(());
        for at in 0..pod.interfaces.len() {
            let repaired = match &netns {
                Ok(netns) if is_own => self.ensure_interface(pod, at, netns).await,
                Ok(_) => Err(another(pod)),
                Err(error) => Err(error.clone().into()),
            };
            if repaired.is_err() {
                let left = self.leave_interface(entry, at).await;
                outcome = outcome.and(repaired).and(left);
            }
        }
        outcome?;
        self.ensure_mode(pod).await?;
        if pod.stale_queues { self.note_queues_gone(pod).await } else { Ok(()) }
    }

    async fn note_queues_gone(&self, pod: &Pod) -> Result<(), AgentError> {
        let now = lock(&self.registry).pod(pod.name.as_str())?.pod.clone();
        let pod = Pod { stale_queues: false, ..now };
        self.state.save(&pod).await?;
        lock(&self.registry).set_settings(&pod);
        Ok(())
    }

    /// What becomes of an interface that cannot be put right: programs and endpoints stay on a link that is there, as it
    /// may well still work. Without one the pod is no more to be reached, and who talks to it is told so.
    async fn leave_interface(&self, entry: &Entry, at: usize) -> Result<(), AgentError> {
        let (pod, interface) = (&entry.pod, &entry.pod.interfaces[at]);
        let known = self.netlink.link_at(entry.ifindexes[at]).await?.map(|found| found.link);
        let link = match known.filter(|link| link.kind.as_deref() == Some("veth")) {
            None => self.netlink.link(&interface.host).await?,
            known => known,
        };
        lock(&self.registry).set_ifindex(pod, at, link.as_ref().map_or(0, |link| link.index));
        if link.is_none() { self.forget_endpoints(interface).await } else { Ok(()) }
    }

    /// Takes a pod out of the tables: nothing reaches it from now on, nothing it sends gets anywhere, and its flows end.
    pub(super) async fn isolate(&self, entry: &Entry) -> Result<(), AgentError> {
        let addresses: Vec<_> = entry.pod.interfaces.iter().flat_map(Interface::all_addresses).collect();
        let ifindexes = entry.ifindexes.clone();
        let forget = move |datapath: &mut Datapath| {
            addresses.into_iter().try_for_each(|address| datapath.remove_endpoint(address))?;
            ifindexes.into_iter().try_for_each(|ifindex| datapath.remove_link(ifindex))
        };
        self.on_datapath(forget).await?;
        let id = entry.pod.id;
        self.on_flows(move |flows| flows.remove_of(id)).await.map(drop)
    }

    /// Takes the rest of an isolated pod away: its links, and then what is left of their programs, which went with them; the
    /// namespace last.
    pub(super) async fn dismantle(&self, entry: &Entry) -> Result<(), AgentError> {
        let pod = &entry.pod;
        for (at, (interface, ifindex)) in entry.links().enumerate() {
            let found = self.netlink.link(&interface.host).await?.map_or(0, |link| link.index);
            self.pod_link(pod, at).remove(&self.netlink).await?;
            for ifindex in BTreeSet::from([found, ifindex]).into_iter().filter(|ifindex| *ifindex != 0) {
                self.detach(ifindex).await?;
            }
            lock(&self.registry).set_ifindex(pod, at, 0);
        }
        leave_netns(pod).await
    }
}

/// Removes a pod's namespace, or from one that is not ours what no link has taken with it. What somebody has put in its place
/// stays.
pub(super) async fn leave_netns(pod: &Pod) -> Result<(), AgentError> {
    let path = pod.netns.clone();
    let delete = move || Netns::delete(&path);
    if pod.owns_netns && pod.netns_id.is_none() {
        return Ok(blocking(delete).await?);
    }
    if !pod.owns_netns && pod.interfaces.len() == 1 && pod.place == 0 {
        return Ok(());
    }
    let path = pod.netns.clone();
    let found = blocking(move || Netns::open(&path)).await;
    let netns = match found {
        Ok(netns) if !is_same(pod, &netns).await? => return Ok(()),
        _ if pod.owns_netns => return Ok(blocking(delete).await?),
        Ok(netns) => netns,
        // Gone: nothing of ours is left there.
        Err(_) => return Ok(()),
    };
    for at in 0..pod.interfaces.len() {
        pod_link(pod, at, ANY_MTU).remove_rules(&netns).await?;
    }
    Ok(())
}

/// Bytes of an Ethernet header with a tag.
const ETHERNET: u32 = 18;

/// Any MTU: the link is only to be removed.
pub(super) const ANY_MTU: u32 = 1500;

/// The link of one of a pod's interfaces as it should be.
pub(super) fn pod_link(pod: &Pod, at: usize, mtu: u32) -> PodLink {
    let interface = &pod.interfaces[at];
    let families =
        |one: &Interface| one.addresses.iter().map(|address| Family::of(*address)).collect::<Vec<_>>();
    let gateways = |families: Vec<Family>| families.into_iter().map(Family::gateway).collect::<Vec<_>>();
    let number = usize::from(pod.place) * MAX_INTERFACES + at;
    let earlier: Vec<Family> = pod.interfaces[..at].iter().flat_map(families).collect();
    let mut first = families(interface);
    first.retain(|family| !earlier.contains(family));
    PodLink {
        host_name: interface.host.clone(),
        host_mac: GATEWAY_MAC.0,
        pod_name: interface.name.clone(),
        pod_mac: interface.mac.0,
        mtu,
        addresses: interface.addresses.clone(),
        // The pod's own default route of a family is by the first interface that has it.
        gateways: gateways(first),
        allowed: interface.allowed.clone(),
        to_pod: pod.ingress.map(|limit| shape(&limit, mtu)),
        from_pod: pod.egress.map(|limit| shape(&limit, mtu)),
        sourced: (number > 0)
            .then(|| Sourced { table: TABLE + number as u8, gateways: gateways(families(interface)) }),
    }
}

/// The queue that keeps a limit. A packet that its bucket cannot hold would be lost, whatever was asked for.
fn shape(limit: &Bandwidth, mtu: u32) -> Shape {
    let packet = mtu + ETHERNET;
    Shape { rate: limit.bytes(), burst: limit.burst().max(packet), queue: limit.queue().max(packet) }
}
