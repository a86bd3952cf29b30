//! One answer to a scrape: what is counted as it happens, and what is read from the tables now.

use std::fmt;

use netpath_common::abi::{Addr, Counter, DropReason, EventLoss, PodCounter, TrafficClass};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{Labels, process};
use crate::{
    agent::{Agent, AgentError, events::protocol_name, lock},
    api::types::ExhaustedDestination,
    datapath::{DatapathError, Readings},
};

/// Destinations that are told, those with most: more would be a row a peer, and so without bound.
const DESTINATIONS: usize = 10;

/// A metric with its rows.
#[derive(Debug)]
struct Group {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    rows: Vec<(Labels, f64)>,
}

/// What was read for one scrape.
#[derive(Debug)]
struct Scrape {
    groups: Vec<Group>,
    /// Bindings by how many ports they tried: bound and count.
    tries: Vec<(f64, u64)>,
}

impl Scrape {
    fn add(&mut self, kind: MetricType, name: &'static str, help: &'static str, rows: Vec<(Labels, f64)>) {
        self.groups.push(Group { name, help, kind, rows });
    }

    fn counter(&mut self, name: &'static str, help: &'static str, rows: Vec<(Labels, f64)>) {
        self.add(MetricType::Counter, name, help, rows);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, rows: Vec<(Labels, f64)>) {
        self.add(MetricType::Gauge, name, help, rows);
    }

    fn value(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauge(name, help, vec![(Vec::new(), value)]);
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for group in &self.groups {
            let mut metric = encoder.encode_descriptor(group.name, group.help, None, group.kind)?;
            for (labels, value) in &group.rows {
                if labels.is_empty() {
                    write(&mut metric, group.kind, *value)?;
                } else {
                    write(&mut metric.encode_family(labels)?, group.kind, *value)?;
                }
            }
        }
        let mut tries = encoder.encode_descriptor(
            "snat_port_tries",
            "Ports that bindings tried until one was free; how many that makes in all is not counted.",
            None,
            MetricType::Histogram,
        )?;
        let count = self.tries.iter().map(|(_, bindings)| bindings).sum();
        tries.encode_histogram::<NoLabelSet>(f64::NAN, count, &self.tries, None)
    }
}

fn write(row: &mut MetricEncoder<'_>, kind: MetricType, value: f64) -> fmt::Result {
    match kind {
        MetricType::Counter => row.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => row.encode_gauge(&value),
    }
}

/// What the tables hold.
struct Tables {
    traffic: Vec<(TrafficClass, Counter)>,
    drops: Vec<(DropReason, Counter)>,
    pods: Vec<PodCounter>,
    losses: Vec<(EventLoss, u64)>,
}

impl Tables {
    fn read(readings: &Readings, slots: &[u32]) -> Result<Self, DatapathError> {
        let traffic = TrafficClass::ALL.iter().map(|&class| Ok((class, readings.traffic(class)?)));
        let drops = DropReason::ALL.iter().map(|&reason| Ok((reason, readings.drops(reason)?)));
        Ok(Self {
            traffic: traffic.collect::<Result<_, DatapathError>>()?,
            drops: drops.collect::<Result<_, DatapathError>>()?,
            pods: slots.iter().map(|&slot| readings.pod_counter(slot)).collect::<Result<_, _>>()?,
            losses: readings.event_losses()?,
        })
    }
}

/// A pod as rows are made of it.
struct PodRow {
    name: String,
    id: u32,
    counter: PodCounter,
}

fn one(label: &'static str, value: impl Into<String>, number: u64) -> (Labels, f64) {
    (vec![(label, value.into())], number as f64)
}

impl Agent {
    /// Everything there is to measure, in the OpenMetrics text format.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub async fn metrics(&self) -> Result<String, AgentError> {
        let entries: Vec<(String, u32, u32)> = lock(&self.registry)
            .pods()
            .map(|entry| (entry.pod.name.to_string(), entry.pod.id, entry.pod.slot))
            .collect();
        let slots: Vec<u32> = entries.iter().map(|(_, _, slot)| *slot).collect();
        let mut tables = self.on_readings(move |readings| Tables::read(readings, &slots)).await?;
        let pods: Vec<PodRow> = entries
            .into_iter()
            .zip(std::mem::take(&mut tables.pods))
            .map(|((name, id, _), counter)| PodRow { name, id, counter })
            .collect();
        let mut scrape = Scrape { groups: Vec::new(), tries: Vec::new() };
        self.scrape_agent(&mut scrape);
        scrape_traffic(&mut scrape, &tables, &pods);
        self.scrape_flows(&mut scrape, &pods);
        self.scrape_snat(&mut scrape).await?;
        self.scrape_losses(&mut scrape, &tables.losses);
        let mut registry = Registry::with_prefix("netpath");
        registry.register_collector(Box::new(scrape));
        self.metrics.register(&mut registry);
        let mut written = String::new();
        text::encode(&mut written, &registry)
            .map_err(|error| AgentError::io("writing metrics")(std::io::Error::other(error)))?;
        Ok(written)
    }

    fn scrape_agent(&self, scrape: &mut Scrape) {
        let info = vec![("version", env!("CARGO_PKG_VERSION").into()), ("node", self.config().node.clone())];
        scrape.gauge("agent_info", "The agent: its version and its node.", vec![(info, 1.0)]);
        let uptime = self.started.elapsed().as_secs_f64();
        scrape.value("agent_uptime_seconds", "Time since the agent started.", uptime);
        let memory = process::resident_bytes() as f64;
        scrape.value("agent_resident_memory_bytes", "Memory of the agent, its tables aside.", memory);
        let cpu = vec![(Vec::new(), process::cpu_seconds())];
        scrape.counter("agent_cpu_seconds", "Time of a core that the agent has taken.", cpu);
        scrape.value("agent_open_fds", "Descriptors that the agent has open.", process::descriptors() as f64);
        let pods = lock(&self.registry).pods().count() as f64;
        scrape.value("pods", "Pods of the node.", pods);
        let problems = lock(&self.problems).count() as f64;
        scrape.value("problems", "What is wrong now; 'netpath status' names it.", problems);
    }

    fn scrape_flows(&self, scrape: &mut Scrape, pods: &[PodRow]) {
        let swept = lock(&self.swept);
        scrape.value("flows", "Flows tracked at the last sweep; both directions are one.", swept.kept as f64);
        let capacity = f64::from(self.flow_entries / 2);
        scrape.value("flows_capacity", "Flows that the table has room for.", capacity);
        let of = |pod: &PodRow| one("pod", &pod.name, swept.of_pods.get(&pod.id).copied().unwrap_or(0));
        scrape.gauge("pod_flows", "Flows of a pod at the last sweep.", pods.iter().map(of).collect());
        let limit = self.flows_per_pod() as f64;
        scrape.value("pod_flows_limit", "Flows that one pod may have.", limit);
    }

    async fn scrape_snat(&self, scrape: &mut Scrape) -> Result<(), AgentError> {
        let snat = self.snat_status().await?;
        let range = self.config().snat_ports.clone();
        let ports = f64::from(range.end() - range.start()) + 1.0;
        scrape.value("snat_ports", "Source ports that an address has towards one destination.", ports);
        let of = |family: &str, v6: bool| {
            let count = snat.addresses.iter().filter(|address| address.is_ipv6() == v6).count();
            one("family", family, count as u64)
        };
        let addresses = vec![of("ipv4", false), of("ipv6", true)];
        scrape.gauge("snat_addresses", "Addresses that flows are translated to, by family.", addresses);
        let in_use = "Source ports in use at the last sweep, over all destinations.";
        scrape.value("snat_bindings", in_use, snat.in_use as f64);
        let busiest = busiest(&lock(&self.swept).destinations);
        scrape.gauge(
            "snat_destination_bindings",
            "Source ports in use towards the ten destinations with most of them at the last sweep.",
            busiest,
        );
        scrape.counter(
            "snat_exhausted_packets",
            "Packets dropped because no port was free, of the ten destinations with most of them.",
            snat.exhausted_destinations.iter().map(exhausted).collect(),
        );
        scrape.tries = snat.tries.iter().map(|row| (f64::from(row.up_to), row.bindings)).collect();
        // A histogram ends with no bound.
        if let Some((bound, _)) = scrape.tries.last_mut() {
            *bound = f64::INFINITY;
        }
        Ok(())
    }

    fn scrape_losses(&self, scrape: &mut Scrape, losses: &[(EventLoss, u64)]) {
        let mut rows: Vec<_> = losses.iter().map(|(why, count)| one("why", why.name(), *count)).collect();
        rows.push(one("why", "slow-reader", self.metrics.lost.get()));
        scrape.counter("events_lost", "Events that nobody or not everybody was told of, and why.", rows);
    }
}

fn scrape_traffic(scrape: &mut Scrape, tables: &Tables, pods: &[PodRow]) {
    let pod = |number: fn(&PodCounter) -> u64| {
        pods.iter().map(|pod| one("pod", &pod.name, number(&pod.counter))).collect()
    };
    scrape.counter("pod_received_packets", "Packets delivered to a pod.", pod(|pod| pod.rx_packets));
    scrape.counter("pod_received_bytes", "Bytes delivered to a pod.", pod(|pod| pod.rx_bytes));
    scrape.counter("pod_sent_packets", "Packets that a pod sent.", pod(|pod| pod.tx_packets));
    scrape.counter("pod_sent_bytes", "Bytes that a pod sent.", pod(|pod| pod.tx_bytes));
    let class = |number: fn(&Counter) -> u64| {
        let row = |(class, counter): &(TrafficClass, Counter)| one("class", class.name(), number(counter));
        tables.traffic.iter().map(row).collect()
    };
    scrape.counter("traffic_packets", "Packets by what became of them.", class(|count| count.packets));
    scrape.counter("traffic_bytes", "Bytes by what became of them.", class(|count| count.bytes));
    let reason = |number: fn(&Counter) -> u64| {
        let row = |(reason, counter): &(DropReason, Counter)| one("reason", reason.name(), number(counter));
        tables.drops.iter().map(row).collect()
    };
    scrape.counter("dropped_packets", "Packets dropped, by reason.", reason(|count| count.packets));
    scrape.counter("dropped_bytes", "Bytes dropped, by reason.", reason(|count| count.bytes));
}

fn destination(address: String, port: u16, protocol: String) -> Labels {
    vec![("destination", address), ("port", port.to_string()), ("protocol", protocol)]
}

fn exhausted(to: &ExhaustedDestination) -> (Labels, f64) {
    (destination(to.destination.to_string(), to.port, to.protocol.clone()), to.packets as f64)
}

/// The destinations with most bindings.
fn busiest(all: &std::collections::HashMap<(Addr, u16, u8), u64>) -> Vec<(Labels, f64)> {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_unstable_by_key(|(to, bindings)| (std::cmp::Reverse(**bindings), **to));
    all.truncate(DESTINATIONS);
    let row = |(&(address, port, protocol), &bindings): (&(Addr, u16, u8), &u64)| {
        let labels = destination(address.to_ip().to_string(), u16::from_be(port), protocol_name(protocol));
        (labels, bindings as f64)
    };
    all.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_the_busiest_destinations_are_rows() {
        let to = |last: u8| (Addr::from(Ipv4Addr::new(192, 0, 2, last)), 443_u16.to_be(), 6);
        let all = (1..=30).map(|last| (to(last), u64::from(last))).collect();
        let rows = busiest(&all);
        assert_eq!(rows.len(), DESTINATIONS);
        assert_eq!(rows[0].1, 30.0);
        let words: Vec<_> = rows[0].0.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(words, ["192.0.2.30", "443", "tcp"]);
    }
}
