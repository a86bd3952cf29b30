//! Flows by request: which, in which order, and away with them. A table of any size passes in slices.

use std::{cmp::Reverse, collections::HashMap, vec};

use futures::{Stream, stream};
use ipnet::IpNet;
use netpath_common::{
    abi::{self, FlowKey, Rewrite},
    logic::flow_state,
};

use super::{Agent, AgentError, blocking, events::protocol_name, lock};
use crate::{
    api::types::{Flow, FlowFilter, FlowSort, FlowState},
    datapath::{FlowPair, FlowTable, Readings, Walk, monotonic_ns},
};

const SECOND: u64 = 1_000_000_000;
/// Rows of a list in order that are described at once.
const ROWS: usize = 1024;

/// Pods' names by number.
pub(super) type Names = HashMap<u32, String>;

impl Agent {
    /// The flows that a filter lets pass, some at a time; `limit` at most, `sort` first.
    ///
    /// # Errors
    /// [`AgentError::NoPod`], or if the table cannot be read.
    pub async fn flows(
        &self,
        filter: &FlowFilter,
    ) -> Result<impl Stream<Item = Result<Vec<Flow>, AgentError>> + Send + use<>, AgentError> {
        if filter.all {
            return Err(AgentError::Filter("'all' is for removing flows; leave it out to list them"));
        }
        let (wanted, names) = (self.wanted(filter)?, self.pod_names());
        let table = self.on_readings(Readings::flow_table).await?;
        let listing = Listing {
            table,
            walk: Walk::new(),
            wanted,
            names,
            now: monotonic_ns(),
            sort: filter.sort,
            order: None,
            left: filter.limit.map_or(usize::MAX, |limit| limit as usize),
        };
        Ok(stream::try_unfold(listing, |mut listing| {
            blocking(move || Ok(listing.next()?.map(|rows| (rows, listing))))
        }))
    }

    /// Removes the flows that a filter lets pass. Returns how many.
    ///
    /// # Errors
    /// [`AgentError::Filter`], [`AgentError::NoPod`], or the kernel's reason.
    pub async fn flush_flows(&self, filter: &FlowFilter) -> Result<u64, AgentError> {
        if filter.sort.is_some() || filter.limit.is_some() {
            return Err(AgentError::Filter("removing flows takes no order and no limit"));
        }
        if filter.is_open() != filter.all {
            return Err(AgentError::Filter("removing flows takes what they have in common, or 'all'"));
        }
        let wanted = self.wanted(filter)?;
        let removed = self.on_flows(move |flows| flows.remove_if(|key, flow| wanted.has(key, flow))).await?;
        tracing::info!(flows = removed, ?filter, "flows removed by request");
        Ok(removed)
    }

    fn wanted(&self, filter: &FlowFilter) -> Result<Wanted, AgentError> {
        let registry = lock(&self.registry);
        let pod =
            filter.pod.as_deref().map(|name| registry.pod(name).map(|entry| entry.pod.id)).transpose()?;
        Ok(Wanted {
            pod,
            protocol: filter.protocol.map(|protocol| protocol.0),
            state: filter.state.map(state),
            source: filter.source.map(|prefix| prefix.0),
            destination: filter.destination.map(|prefix| prefix.0),
            port: filter.port.map(u16::to_be),
            translated: filter.translated,
        })
    }

    /// Names of all pods by number.
    pub(super) fn pod_names(&self) -> Names {
        lock(&self.registry).pods().map(|entry| (entry.pod.id, entry.pod.name.to_string())).collect()
    }
}

/// A filter, in the table's terms.
struct Wanted {
    pod: Option<u32>,
    protocol: Option<u8>,
    state: Option<flow_state::FlowState>,
    source: Option<IpNet>,
    destination: Option<IpNet>,
    /// Network order.
    port: Option<u16>,
    translated: Option<bool>,
}

impl Wanted {
    /// Whether it is a flow's original half; that one tells all there is to ask.
    fn has(&self, key: &FlowKey, original: &abi::Flow) -> bool {
        let translated = original.rewrite == Rewrite::Source as u8;
        let rewritten = original.rewrite != Rewrite::None as u8;
        let is_at = |port| port == key.sport || port == key.dport || rewritten && port == original.port;
        self.pod.is_none_or(|pod| pod == original.pod)
            && self.protocol.is_none_or(|protocol| protocol == key.proto)
            && self.port.is_none_or(is_at)
            && self.translated.is_none_or(|wanted| wanted == translated)
            && self.state.is_none_or(|state| state == flow_state::state(key.proto, original))
            && self.source.is_none_or(|prefix| prefix.contains(&key.src.to_ip()))
            && self.destination.is_none_or(|prefix| prefix.contains(&key.dst.to_ip()))
    }
}

/// A list on its way out.
struct Listing {
    table: FlowTable,
    walk: Walk,
    wanted: Wanted,
    names: Names,
    now: u64,
    sort: Option<FlowSort>,
    /// What is still to be told, in order, once the table has been looked through.
    order: Option<vec::IntoIter<FlowKey>>,
    left: usize,
}

impl Listing {
    /// The next rows; `None` at the end.
    fn next(&mut self) -> Result<Option<Vec<Flow>>, AgentError> {
        if self.left == 0 {
            return Ok(None);
        }
        let rows = match self.sort {
            Some(sort) => self.next_in_order(sort)?,
            None => self.next_of_walk()?,
        };
        if let Some(rows) = &rows {
            self.left -= rows.len();
        }
        Ok(rows)
    }

    fn next_of_walk(&mut self) -> Result<Option<Vec<Flow>>, AgentError> {
        if !self.table.advance(&mut self.walk)? {
            return Ok(None);
        }
        let wanted = self.walk.originals().filter(|(key, flow)| self.wanted.has(key, flow)).take(self.left);
        let row = |(key, flow): (&FlowKey, &abi::Flow)| {
            Ok(describe(&self.table.pair(*key, *flow)?, &self.names, self.now))
        };
        wanted.map(row).collect::<Result<_, _>>().map(Some)
    }

    fn next_in_order(&mut self, sort: FlowSort) -> Result<Option<Vec<Flow>>, AgentError> {
        if self.order.is_none() {
            self.order = Some(self.keys_in_order(sort)?.into_iter());
        }
        let mut rows = Vec::new();
        let keys: Vec<_> = self.order.iter_mut().flatten().take(ROWS).collect();
        for key in &keys {
            // It may have ended since.
            if let Some(pair) = self.table.find(key)? {
                rows.push(describe(&pair, &self.names, self.now));
            }
        }
        Ok((!keys.is_empty()).then_some(rows))
    }

    /// Looks through the whole table, keeping keys alone, and of those no more than twice as many as are wanted.
    fn keys_in_order(&mut self, sort: FlowSort) -> Result<Vec<FlowKey>, AgentError> {
        let mut found: Vec<(Reverse<u64>, FlowKey)> = Vec::new();
        let most = self.left.max(ROWS);
        while self.table.advance(&mut self.walk)? {
            for (key, original) in self.walk.originals().filter(|(key, flow)| self.wanted.has(key, flow)) {
                found.push((Reverse(self.rank(sort, key, original)?), *key));
            }
            if found.len() / 2 > most {
                found.select_nth_unstable_by_key(most, |(rank, _)| *rank);
                found.truncate(most);
            }
        }
        found.sort_by_key(|(rank, _)| *rank);
        found.truncate(self.left);
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }

    /// The higher the earlier.
    fn rank(&self, sort: FlowSort, key: &FlowKey, original: &abi::Flow) -> Result<u64, AgentError> {
        if sort == FlowSort::Age {
            return Ok(self.now.saturating_sub(original.created));
        }
        let pair = self.table.pair(*key, *original)?;
        Ok(match sort {
            FlowSort::Bytes => original.bytes.saturating_add(pair.reply.map_or(0, |reply| reply.bytes)),
            _ => self.now.saturating_sub(pair.last_seen()),
        })
    }
}

fn state(state: FlowState) -> flow_state::FlowState {
    match state {
        FlowState::Unreplied => flow_state::FlowState::Unreplied,
        FlowState::Established => flow_state::FlowState::Established,
        FlowState::Closing => flow_state::FlowState::Closing,
        FlowState::Reset => flow_state::FlowState::Reset,
    }
}

fn describe(pair: &FlowPair, names: &HashMap<u32, String>, now: u64) -> Flow {
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
        translated_destination: pair.is_published().then(|| original.addr.to_ip()),
        translated_destination_port: pair.is_published().then(|| u16::from_be(original.port)),
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::datapath::flow_tests::{NOW, POD, pair, table};

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
            rewrite: Rewrite::Source as u8,
            addr: addr(9),
            port: 40_000_u16.to_be(),
            peer_seen: abi::PEER_SEEN,
            pod: 7,
            ..abi::Flow::default()
        };
        let reply = abi::Flow { last_seen: 4 * SECOND, packets: 1, bytes: 60, ..abi::Flow::default() };
        let pair = FlowPair { key, original, reply: Some(reply) };
        let names = HashMap::from([(7, "web".to_owned())]);
        let flow = describe(&pair, &names, 11 * SECOND);
        assert_eq!(
            (flow.protocol.as_str(), flow.state.as_str(), flow.pod.as_str()),
            ("udp", "established", "web")
        );
        assert_eq!((flow.source_port, flow.destination_port, flow.translated_port), (1000, 80, Some(40_000)));
        assert_eq!(flow.translated_source, Some(Ipv4Addr::new(192, 0, 2, 9).into()));
        assert_eq!((flow.age_s, flow.idle_s, flow.packets, flow.reply_bytes), (10, 7, 2, 60));
        let unseen = abi::Flow { peer_seen: 0, ..original };
        let alone = describe(&FlowPair { original: unseen, reply: None, ..pair }, &HashMap::new(), 0);
        assert_eq!((alone.state.as_str(), alone.pod.as_str(), alone.age_s), ("unreplied", "7", 0));
    }

    const OPEN: Wanted = Wanted {
        pod: None,
        protocol: None,
        state: None,
        source: None,
        destination: None,
        port: None,
        translated: None,
    };

    /// Source ports of a list, as it comes.
    fn listed(sort: Option<FlowSort>, limit: Option<usize>) -> Vec<u16> {
        let mut table = table(8192);
        for n in 1..=3000_u32 {
            let mut pair = pair(17, n);
            let reply = pair.reply.as_mut().unwrap();
            // Each order is another one: bytes go up, age goes down, idle time is in the reply of odd ones.
            (pair.original.bytes, reply.bytes) = (1, u64::from(n));
            pair.original.created = u64::from(n);
            let seen = NOW - u64::from(n * 7 % 3001) * SECOND;
            (pair.original.last_seen, reply.last_seen) =
                if n % 2 == 0 { (seen, 0) } else { (NOW - 100_000 * SECOND, seen) };
            table.add(&pair);
        }
        let (left, names) = (limit.unwrap_or(usize::MAX), Names::new());
        let (walk, wanted) = (Walk::new(), OPEN);
        let mut listing = Listing { table, walk, wanted, names, now: NOW, sort, order: None, left };
        let mut ports = Vec::new();
        while let Some(rows) = listing.next().unwrap() {
            ports.extend(rows.iter().map(|row| row.source_port));
        }
        ports
    }

    #[test]
    fn lists_come_whole_limited_and_in_order() {
        let mut all = listed(None, None);
        all.sort_unstable();
        assert_eq!(all, (1..=3000).collect::<Vec<_>>());
        assert_eq!(listed(None, Some(7)).len(), 7);
        assert_eq!(listed(None, Some(0)).len(), 0);
        let down: Vec<u16> = (1..=3000).rev().collect();
        assert_eq!(listed(Some(FlowSort::Bytes), None), down);
        assert_eq!(listed(Some(FlowSort::Bytes), Some(5)), down[..5]);
        assert_eq!(listed(Some(FlowSort::Age), Some(4)), [1, 2, 3, 4]);
        let mut idle: Vec<u16> = (1..=3000).collect();
        idle.sort_by_key(|n| Reverse(u32::from(*n) * 7 % 3001));
        assert_eq!(listed(Some(FlowSort::Idle), Some(2000)), idle[..2000]);
    }

    #[test]
    fn every_part_of_a_filter_decides() {
        let flow = pair(6, 40_000);
        let has = |wanted: &Wanted| wanted.has(&flow.key, &flow.original);
        let net = |text: &str| Some(text.parse().unwrap());
        let port = |port: u16| Some(port.to_be());
        for wanted in [
            OPEN,
            Wanted { pod: Some(POD), ..OPEN },
            Wanted { protocol: Some(6), ..OPEN },
            Wanted { state: Some(flow_state::FlowState::Established), ..OPEN },
            Wanted { source: net("10.61.0.0/24"), ..OPEN },
            Wanted { destination: net("203.0.113.0/32"), ..OPEN },
            Wanted { port: port(443), ..OPEN },
            Wanted { port: port(40_000), ..OPEN },
            Wanted { translated: Some(true), ..OPEN },
        ] {
            assert!(has(&wanted));
        }
        for wanted in [
            Wanted { pod: Some(POD + 1), ..OPEN },
            Wanted { protocol: Some(17), ..OPEN },
            Wanted { state: Some(flow_state::FlowState::Closing), ..OPEN },
            Wanted { source: net("10.62.0.0/16"), ..OPEN },
            Wanted { destination: net("::/0"), ..OPEN },
            Wanted { port: port(40_001), ..OPEN },
            Wanted { translated: Some(false), ..OPEN },
            Wanted { protocol: Some(6), pod: Some(POD + 1), ..OPEN },
        ] {
            assert!(!has(&wanted));
        }
    }
}
