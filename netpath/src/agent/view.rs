//! Answers of the API.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use netpath_common::abi::{DropReason, PodCounter, TrafficClass};

use super::{Agent, AgentError, attachments::to_api, lock, pods::object, registry::Entry};
use crate::{
    api::types::{Bandwidth, Drop, Network, Pod, PodInterface, ProgramStatus, Status, Traffic},
    config::Firewall,
    datapath::{Attachment, DatapathError, Readings},
    model::{self, PodState},
};

impl Agent {
    /// All pods, by name.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn pods(&self) -> Result<Vec<Pod>, AgentError> {
        let entries = lock(&self.registry).pods().cloned().collect();
        self.describe_pods(entries).await
    }

    /// One pod.
    ///
    /// # Errors
    /// [`AgentError::NoPod`].
    pub async fn pod(&self, name: &str) -> Result<Pod, AgentError> {
        let entry = lock(&self.registry).pod(name)?.clone();
        let gone = || AgentError::NoPod(name.to_owned());
        self.describe_pods(vec![entry]).await?.pop().ok_or_else(gone)
    }

    pub(super) async fn describe_pods(&self, entries: Vec<Entry>) -> Result<Vec<Pod>, AgentError> {
        let slots: Vec<u32> = entries.iter().map(|entry| entry.pod.slot).collect();
        let read =
            move |readings: &Readings| slots.into_iter().map(|slot| readings.pod_counter(slot)).collect();
        let counters: Result<Vec<PodCounter>, DatapathError> = self.on_readings(read).await;
        let problems = lock(&self.problems).reasons();
        Ok(entries
            .iter()
            .zip(counters?)
            .map(|(entry, counter)| self.describe_pod(entry, counter, &problems))
            .collect())
    }

    fn describe_pod(&self, entry: &Entry, counter: PodCounter, problems: &BTreeMap<String, String>) -> Pod {
        let pod = &entry.pod;
        let state = match (problems.get(&object(pod)), pod.state) {
            (Some(problem), _) => format!("failed: {problem}"),
            (None, PodState::Ready) => "ready".into(),
            (None, PodState::Creating) => "creating".into(),
            (None, PodState::Removing) => "removing".into(),
        };
        let interfaces: Vec<PodInterface> =
            entry.links().enumerate().map(|(at, link)| self.describe_interface(pod, at, link)).collect();
        let first = interfaces.first().cloned().unwrap_or_else(|| self.describe_unattached(pod));
        Pod {
            name: pod.name.to_string(),
            network: first.network,
            addresses: first.addresses,
            mac: first.mac,
            interface: first.interface,
            ifindex: first.ifindex,
            interfaces,
            allowed_addresses: pod.interfaces.iter().flat_map(|one| one.allowed.clone()).collect(),
            no_masquerade: !pod.masquerade,
            netns: pod.netns.display().to_string(),
            state,
            rx_packets: counter.rx_packets,
            rx_bytes: counter.rx_bytes,
            tx_packets: counter.tx_packets,
            tx_bytes: counter.tx_bytes,
            mtu: pod.interfaces.first().map_or(0, |first| self.mtu(pod, first)),
            mode: self.mode_of(pod).name().into(),
            published: pod.publications.iter().map(ToString::to_string).collect(),
            ingress_bandwidth: pod.ingress.map(limit),
            egress_bandwidth: pod.egress.map(limit),
            labels: pod.labels.clone(),
            attachment: pod.attachment.clone().map(to_api),
        }
    }

    /// What stands in the place of a pod's first interface: the addresses of whose namespace it shares.
    fn describe_unattached(&self, pod: &model::Pod) -> PodInterface {
        let registry = lock(&self.registry);
        let other = pod.shares().and_then(|other| registry.pod(other.as_str()).ok());
        let first = other.and_then(|other| other.pod.interfaces.first());
        PodInterface {
            name: String::new(),
            network: pod.unattached.as_ref().map(ToString::to_string).unwrap_or_default(),
            addresses: first.map(|first| first.addresses.clone()).unwrap_or_default(),
            mac: String::new(),
            interface: String::new(),
            ifindex: 0,
            gateways: Vec::new(),
        }
    }

    fn describe_interface(
        &self,
        pod: &model::Pod,
        at: usize,
        (interface, ifindex): (&model::Interface, u32),
    ) -> PodInterface {
        PodInterface {
            name: interface.name.clone(),
            network: interface.network.clone(),
            addresses: interface.addresses.clone(),
            mac: interface.mac.to_string(),
            interface: interface.host.clone(),
            ifindex,
            gateways: self.pod_link(pod, at).gateways,
        }
    }

    /// All networks.
    pub fn networks(&self) -> Vec<Network> {
        let describe = |network: model::Network| Network {
            pods: lock(&self.registry).pods_in(&network.name) as u32,
            mtu: self.mtu_or(None, Some(&network)),
            scope: if network.pools.is_empty() { "node" } else { "cluster" }.to_owned(),
            pools: network.pools.iter().map(|pool| pool.prefix).collect(),
            backend: self.backend_of(&network).map(|backend| backend.name().to_owned()),
            name: network.name,
            subnets: network.blocks,
            masquerade: network.masquerade,
            no_masquerade: network.no_masquerade,
            inbound: network.inbound.to_string(),
        };
        self.all_networks().into_iter().map(describe).collect()
    }

    /// Drop reasons with packets, or all.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn drops(&self, all: bool) -> Result<Vec<Drop>, AgentError> {
        let read = |readings: &Readings| {
            let row = |&reason: &DropReason| {
                let counter = readings.drops(reason)?;
                Ok(Drop {
                    reason: reason.name().into(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                    meaning: reason.meaning().into(),
                    advice: reason.advice().into(),
                })
            };
            DropReason::ALL.iter().map(row).collect::<Result<Vec<_>, DatapathError>>()
        };
        let mut drops = self.on_readings(read).await?;
        drops.retain(|drop| all || drop.packets > 0);
        Ok(drops)
    }

    /// Everything on one screen. Flows and bindings are those of the last sweep, at most some seconds old.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn status(&self) -> Result<Status, AgentError> {
        let attachments = self.on_datapath(|datapath| datapath.attachments()).await;
        let traffic = self.on_readings(traffic).await?;
        // Whoever looks because the pins are gone is to see that, and the rest.
        self.note("pins", &attachments.as_ref().map(drop));
        let attachments = attachments.unwrap_or_default();
        let snat = self.snat_status().await?;
        let problems = lock(&self.problems).lines();
        let generic = self.generic_xdp(&attachments).await?;
        let settling = attachments.iter().filter(|one| self.is_settling(one)).count() as u32;
        let uplinks = lock(&self.node).seen.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let pods = lock(&self.registry).pods().count() as u32;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.config().node.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            uplinks,
            pin_dir: self.config().paths.pin_dir.display().to_string(),
            programs: self.describe_programs(attachments, &generic),
            settling,
            asks_firewall: self.config().firewall == Firewall::Forward,
            pods,
            flows: lock(&self.swept).kept,
            flow_capacity: u64::from(self.flow_entries / 2),
            snat,
            traffic,
            store: self.state.describe(),
            problems,
        })
    }

    /// Interfaces whose XDP program runs on the kernel's socket buffers, if any program of ours is one.
    async fn generic_xdp(&self, attachments: &[Attachment]) -> Result<Vec<u32>, AgentError> {
        if !attachments.iter().any(|one| one.kind.is_none() && !one.is_socket_hook()) {
            return Ok(Vec::new());
        }
        let states = self.netlink.link_states().await?;
        Ok(states.iter().filter(|state| state.xdp_generic).map(|state| state.link.index).collect())
    }

    fn describe_programs(&self, attachments: Vec<Attachment>, generic: &[u32]) -> Vec<ProgramStatus> {
        let pods: HashMap<u32, String> = lock(&self.registry).pods().flat_map(hosts).collect();
        let node = lock(&self.node);
        let describe = |one: Attachment| {
            let is_hook = one.is_socket_hook();
            let Attachment { program, ifindex, kind, id } = one;
            if is_hook {
                let (interface, attach) = (String::new(), "cgroup".into());
                return Some(ProgramStatus { name: program, interface, id: id?, attach });
            }
            let interface = pods.get(&ifindex).cloned().unwrap_or_else(|| node.seen.name_of(ifindex));
            let attach = match (kind, generic.contains(&ifindex)) {
                (Some(kind), _) => kind.name(),
                (None, false) => "xdp-driver",
                (None, true) => "xdp-generic",
            };
            Some(ProgramStatus { name: program, interface, id: id?, attach: attach.into() })
        };
        attachments.into_iter().filter_map(describe).collect()
    }
}

fn limit(limit: model::Bandwidth) -> Bandwidth {
    Bandwidth { rate: limit.rate(), burst: Some(limit.burst().into()) }
}

/// The host ends of a pod, by index.
fn hosts(entry: &Entry) -> Vec<(u32, String)> {
    entry.links().map(|(interface, ifindex)| (ifindex, interface.host.clone())).collect()
}

fn traffic(readings: &Readings) -> Result<Vec<Traffic>, DatapathError> {
    let row = |&class: &TrafficClass| {
        let counter = readings.traffic(class)?;
        Ok(Traffic { class: class.name().into(), packets: counter.packets, bytes: counter.bytes })
    };
    TrafficClass::ALL.iter().map(row).collect()
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
