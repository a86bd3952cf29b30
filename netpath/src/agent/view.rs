//! Answers of the API.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use netpath_common::abi::{DropReason, PodCounter, TrafficClass};

use super::{Agent, AgentError, events::protocol_name, lock, pods::object, registry::Entry};
use crate::{
    api::types::{Drop, Flow, Network, Pod, ProgramStatus, SnatStatus, Status, Traffic},
    datapath::{Attachment, Datapath, DatapathError, FlowPair, monotonic_ns},
    model::{self, PodState},
};

const SECOND: u64 = 1_000_000_000;

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

    async fn describe_pods(&self, entries: Vec<Entry>) -> Result<Vec<Pod>, AgentError> {
        let slots: Vec<u32> = entries.iter().map(|entry| entry.pod.slot).collect();
        let read =
            move |datapath: &mut Datapath| slots.into_iter().map(|slot| datapath.pod_counter(slot)).collect();
        let counters: Result<Vec<PodCounter>, DatapathError> = self.on_datapath(read).await;
        let problems = lock(&self.problems).clone();
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
        Pod {
            name: pod.name.to_string(),
            network: pod.network.clone(),
            addresses: pod.addresses.clone(),
            mac: pod.mac.to_string(),
            interface: pod.interface.clone(),
            ifindex: entry.ifindex,
            netns: pod.netns.display().to_string(),
            state,
            rx_packets: counter.rx_packets,
            rx_bytes: counter.rx_bytes,
            tx_packets: counter.tx_packets,
            tx_bytes: counter.tx_bytes,
            mtu: self.mtu(pod.mtu),
            labels: pod.labels.clone(),
        }
    }

    /// All networks.
    pub fn networks(&self) -> Vec<Network> {
        let mtu = self.mtu(None);
        let registry = lock(&self.registry);
        let describe = |network: model::Network| Network {
            pods: registry.pods().filter(|entry| entry.pod.network == network.name).count() as u32,
            name: network.name,
            subnets: network.blocks,
            masquerade: network.masquerade,
            inbound: network.inbound.to_string(),
            mtu,
        };
        registry.networks().into_iter().map(describe).collect()
    }

    /// All flows, or those of one pod.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], or if the table cannot be read.
    pub async fn flows(&self, pod: Option<&str>) -> Result<Vec<Flow>, AgentError> {
        let (names, only) = {
            let registry = lock(&self.registry);
            let only = pod.map(|name| registry.pod(name).map(|entry| entry.pod.id)).transpose()?;
            let names: HashMap<u32, String> =
                registry.pods().map(|entry| (entry.pod.id, entry.pod.name.to_string())).collect();
            (names, only)
        };
        let list = move |flows: &mut crate::datapath::FlowTable| {
            let now = monotonic_ns();
            let wanted = |pair: &&FlowPair| only.is_none_or(|id| pair.original.pod == id);
            Ok(flows.pairs()?.iter().filter(wanted).map(|pair| describe_flow(pair, &names, now)).collect())
        };
        self.on_flows(list).await
    }

    /// Drop reasons with packets.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn drops(&self) -> Result<Vec<Drop>, AgentError> {
        let read = |datapath: &mut Datapath| {
            let row = |&reason: &DropReason| {
                let counter = datapath.drops(reason)?;
                let (reason, advice) = (reason.name().into(), reason.advice().into());
                Ok(Drop { reason, packets: counter.packets, bytes: counter.bytes, advice })
            };
            DropReason::ALL.iter().map(row).collect::<Result<Vec<_>, DatapathError>>()
        };
        let mut drops = self.on_datapath(read).await?;
        drops.retain(|drop| drop.packets > 0);
        Ok(drops)
    }

    /// Everything on one screen. Flows and bindings are those of the last sweep, at most some seconds old.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn status(&self) -> Result<Status, AgentError> {
        let read = |datapath: &mut Datapath| {
            Ok::<_, DatapathError>((
                datapath.attachments()?,
                datapath.drops(DropReason::SnatExhausted)?.packets,
                traffic(datapath)?,
            ))
        };
        let (attachments, exhausted, traffic) = self.on_datapath(read).await?;
        let swept = lock(&self.swept).clone();
        let config = self.config();
        let range = &config.snat_ports;
        let problems =
            lock(&self.problems).iter().map(|(object, problem)| format!("{object}: {problem}")).collect();
        let uplinks = lock(&self.node).seen.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let pods = lock(&self.registry).pods().count() as u32;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: config.node.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            uplinks,
            programs: self.describe_programs(attachments),
            pods,
            flows: swept.kept,
            flow_capacity: u64::from(self.flow_entries / 2),
            snat: SnatStatus {
                range: format!("{}-{}", range.start(), range.end()),
                in_use: swept.translated,
                exhausted,
            },
            traffic,
            store: self.state.describe(),
            problems,
        })
    }

    fn describe_programs(&self, attachments: Vec<Attachment>) -> Vec<ProgramStatus> {
        let pods: HashMap<u32, String> =
            lock(&self.registry).pods().map(|entry| (entry.ifindex, entry.pod.interface.clone())).collect();
        let node = lock(&self.node);
        let describe = |attachment: Attachment| ProgramStatus {
            name: attachment.program,
            interface: pods
                .get(&attachment.ifindex)
                .cloned()
                .unwrap_or_else(|| node.seen.name_of(attachment.ifindex)),
            id: attachment.id,
            attach: self.attach.name().into(),
        };
        attachments.into_iter().map(describe).collect()
    }
}

fn traffic(datapath: &Datapath) -> Result<Vec<Traffic>, DatapathError> {
    let row = |&class: &TrafficClass| {
        let counter = datapath.traffic(class)?;
        Ok(Traffic { class: class.name().into(), packets: counter.packets, bytes: counter.bytes })
    };
    TrafficClass::ALL.iter().map(row).collect()
}

fn describe_flow(pair: &FlowPair, names: &HashMap<u32, String>, now: u64) -> Flow {
    let (key, original) = (&pair.key, &pair.original);
    let reply = pair.reply.unwrap_or_default();
    let pod = names.get(&original.pod).cloned().unwrap_or_else(|| original.pod.to_string());
    Flow {
        protocol: protocol_name(key.proto),
        source: key.src.to_ip(),
        source_port: u16::from_be(key.sport),
        destination: key.dst.to_ip(),
        destination_port: u16::from_be(key.dport),
        translated_source: pair.is_translated().then(|| original.addr.to_ip()),
        translated_port: pair.is_translated().then(|| u16::from_be(original.port)),
        state: pair.state().name().into(),
        pod,
        age_s: now.saturating_sub(original.created) / SECOND,
        idle_s: now.saturating_sub(pair.last_seen()) / SECOND,
        packets: original.packets,
        bytes: original.bytes,
        reply_packets: reply.packets,
        reply_bytes: reply.bytes,
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netpath_common::abi::{self, FlowKey, Rewrite};

    use super::*;

    #[test]
    fn a_translated_flow() {
        let addr = |last| Ipv4Addr::new(192, 0, 2, last).into();
        let key = FlowKey {
            src: addr(1),
            dst: addr(2),
            sport: 1000_u16.to_be(),
            dport: 80_u16.to_be(),
            proto: 17,
            pad: [0; 3],
        };
        let original = abi::Flow {
            created: SECOND,
            last_seen: 3 * SECOND,
            packets: 2,
            peer_seen: abi::PEER_SEEN,
            rewrite: Rewrite::Source as u8,
            addr: addr(9),
            port: 40_000_u16.to_be(),
            pod: 7,
            ..abi::Flow::default()
        };
        let reply = abi::Flow { last_seen: 4 * SECOND, packets: 1, bytes: 60, ..abi::Flow::default() };
        let pair = FlowPair { key, original, reply: Some(reply) };
        let names = HashMap::from([(7, "web".to_owned())]);
        let flow = describe_flow(&pair, &names, 11 * SECOND);
        assert_eq!(
            (flow.protocol.as_str(), flow.state.as_str(), flow.pod.as_str()),
            ("udp", "established", "web")
        );
        assert_eq!((flow.source_port, flow.destination_port, flow.translated_port), (1000, 80, Some(40_000)));
        assert_eq!(flow.translated_source, Some(Ipv4Addr::new(192, 0, 2, 9).into()));
        assert_eq!((flow.age_s, flow.idle_s, flow.packets, flow.reply_bytes), (10, 7, 2, 60));
        let alone = describe_flow(&FlowPair { reply: None, ..pair }, &HashMap::new(), 0);
        assert_eq!(
            (alone.state.as_str(), alone.pod.as_str(), alone.age_s),
            ("established", "7", 0),
            "one half tells"
        );
    }
}
