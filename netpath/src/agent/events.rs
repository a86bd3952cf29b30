//! What the programs tell, with names instead of numbers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use netpath_common::abi::{self, Addr, DropReason, EventKind, EventLoss, Program};
use tokio::time::MissedTickBehavior;

use super::{Agent, AgentError, lock, registry::Entry, view::unix_ms};
use crate::{
    api::types::{Event, Protocol},
    datapath::{Events, Readings, monotonic_ns},
};

/// Pause after a failure to read the ring, so that a lasting one does not burn a core; and between looks at what is
/// missing in it.
const PAUSE: Duration = Duration::from_secs(1);

impl Agent {
    /// Reads the ring until the agent ends.
    pub(super) async fn event_loop(self: Arc<Self>, mut ring: Events) {
        let mut ending = self.ending.subscribe();
        let mut looks = tokio::time::interval(PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost = None;
        loop {
            let event = tokio::select! {
                event = ring.next() => Some(event),
                _ = looks.tick() => None,
                _ = ending.wait_for(|ending| *ending) => return,
            };
            let Some(event) = event else {
                // Whoever listened may have left. If that cannot be told, the next look tells it.
                let _ = self.tell_listeners().await;
                self.tell_losses(&mut lost).await;
                continue;
            };
            self.note("events", &event.as_ref().map(|_| ()));
            match event {
                Ok(event) => {
                    self.metrics.told(kind(&event));
                    // Names cost a look at every pod.
                    if self.events.receiver_count() > 0 {
                        // Fails if nobody listens any more.
                        let _ = self.events.send(Arc::new(self.describe_event(&event)));
                    }
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Tells the programs how many listen.
    pub(super) async fn tell_listeners(&self) -> Result<(), AgentError> {
        let events = self.events.clone();
        Ok(self.on_readings(move |readings| readings.tell_flows(|| events.receiver_count())).await?)
    }

    /// Tells who listens what is missing since the last look; `told` is what was lost by then.
    async fn tell_losses(&self, told: &mut Option<Vec<(EventLoss, u64)>>) {
        if self.events.receiver_count() == 0 {
            *told = None;
            return;
        }
        let Ok(now) = self.on_readings(Readings::event_losses).await else { return };
        for ((why, before), (_, now)) in told.iter().flatten().zip(&now) {
            if now > before {
                let event = Event::of_loss(unix_ms(), why.name(), now - before);
                let _ = self.events.send(Arc::new(event));
            }
        }
        *told = Some(now);
    }

    fn describe_event(&self, event: &abi::Event) -> Event {
        let known = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| addr.to_ip());
        let (source, destination) = (known(event.src), known(event.dst));
        let concerned = self.pod_concerned(event.ifindex, source, destination);
        Event {
            time_ms: wall_clock_ms(event.time),
            kind: kind(event).into(),
            reason: DropReason::from_u8(event.reason).map(|reason| reason.name().into()),
            lost: None,
            interface: concerned
                .as_ref()
                .and_then(|entry| entry.host_of(event.ifindex))
                .map_or_else(|| lock(&self.node).seen.name_of(event.ifindex), str::to_owned),
            pod: concerned.map(|entry| entry.pod.name.to_string()),
            program: Program::from_u8(event.program)
                .map_or_else(|| format!("#{}", event.program), |program| program.name().into()),
            protocol: protocol_name(event.proto),
            source,
            source_port: u16::from_be(event.sport),
            destination,
            destination_port: u16::from_be(event.dport),
            translated_source: known(event.translated),
            translated_port: known(event.translated).map(|_| u16::from_be(event.translated_port)),
            length: event.length,
        }
    }

    /// The pod whose interface it is; on an uplink, the pod whose address it is.
    fn pod_concerned(
        &self,
        ifindex: u32,
        source: Option<IpAddr>,
        destination: Option<IpAddr>,
    ) -> Option<Entry> {
        let registry = lock(&self.registry);
        let has = |address: Option<IpAddr>| {
            let owns = |entry: &&Entry| {
                address.is_some_and(|address| entry.pod.addresses().any(|own| own == address))
            };
            registry.pods().find(owns)
        };
        let by_interface = registry.pods().find(|entry| entry.host_of(ifindex).is_some());
        by_interface.or_else(|| has(source)).or_else(|| has(destination)).cloned()
    }
}

/// Stable name, as in JSON.
fn kind(event: &abi::Event) -> &'static str {
    if event.kind == EventKind::Flow as u8 { "flow" } else { "drop" }
}

/// CLOCK_MONOTONIC ns → milliseconds since 1970.
fn wall_clock_ms(monotonic: u64) -> u64 {
    unix_ms().saturating_sub(monotonic_ns().saturating_sub(monotonic) / 1_000_000)
}

/// Name of an IP protocol; its number if the API has none for it.
pub(super) fn protocol_name(number: u8) -> String {
    Protocol(number).to_string()
}
