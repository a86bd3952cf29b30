//! What the agent measures of itself, and all it can tell as text for Prometheus. docs/METRICS.md lists it.

mod process;
mod scrape;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{lock, reconcile::Extent};
use crate::datapath::Swept;

/// Names and values that tell the rows of a metric apart.
type Labels = Vec<(&'static str, String)>;

/// Bounds of the API's latency, seconds.
const LATENCIES: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What is counted as it happens.
pub(crate) struct Metrics {
    passes: Family<Labels, Histogram, fn() -> Histogram>,
    failures: Family<Labels, Counter>,
    sweeps: Histogram,
    expired: Counter,
    requests: Family<Labels, Histogram, fn() -> Histogram>,
    events: Family<Labels, Counter>,
    lost: Counter,
    pub(super) left_behind: Counter,
    last_pass: Mutex<Option<Instant>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let (failures, events): (Family<Labels, Counter>, Family<Labels, Counter>) = Default::default();
        // From zero on, so that the first one is seen as a rise.
        for kind in ["pod", "network", "uplink", "tables"] {
            let _ = failures.get_or_create(&vec![("kind", kind.into())]);
        }
        for kind in ["drop", "flow"] {
            let _ = events.get_or_create(&vec![("kind", kind.into())]);
        }
        Self {
            passes: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            failures,
            sweeps: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            expired: Counter::default(),
            requests: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            events,
            lost: Counter::default(),
            left_behind: Counter::default(),
            last_pass: Mutex::new(None),
        }
    }

    /// A pass of the reconcile loop is done.
    pub(super) fn passed(&self, extent: Extent, took: Duration) {
        let extent = match extent {
            Extent::Full | Extent::Regular => {
                *lock(&self.last_pass) = Some(Instant::now());
                "full"
            }
            Extent::Announced => "announced",
        };
        self.passes.get_or_create(&vec![("extent", extent.into())]).observe(took.as_secs_f64());
    }

    /// Time since the last full pass was done; `None` before the first.
    pub(crate) fn since_full_pass(&self) -> Option<Duration> {
        lock(&self.last_pass).map(|at| at.elapsed())
    }

    /// Something was wrong with an object when it was looked at.
    pub(super) fn failed(&self, object: &str) {
        self.failures.get_or_create(&vec![("kind", kind_of(object))]).inc();
    }

    pub(super) fn swept(&self, swept: &Swept) {
        self.sweeps.observe(swept.cpu_ns as f64 / 1e9);
        self.expired.inc_by(swept.expired);
    }

    /// An event was read from the ring.
    pub(super) fn told(&self, kind: &str) {
        self.events.get_or_create(&vec![("kind", kind.into())]).inc();
    }

    /// A client was too slow for so many events.
    pub(crate) fn lost_by_reader(&self, events: u64) {
        self.lost.inc_by(events);
    }

    /// An engine's pod was removed unasked, since its namespace was gone.
    pub(super) fn left_behind(&self) {
        self.left_behind.inc();
    }

    /// A request was answered; `route` is its path with names for what varies.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = vec![("method", method.into()), ("route", route.into()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "reconcile_duration_seconds",
            "Time that passes over what should be took, by how much they looked at",
            self.passes.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Times that something was found wrong and could not be made right, by kind of object",
            self.failures.clone(),
        );
        registry.register(
            "sweep_duration_seconds",
            "Time of a core that sweeps of the flow table took",
            self.sweeps.clone(),
        );
        registry.register(
            "pods_left_behind",
            "Pods of container engines that were removed unasked, since their namespace was gone and others wanted what they had or the node was started again",
            self.left_behind.clone(),
        );
        registry.register("flows_expired", "Flows that ended by their timeout", self.expired.clone());
        registry.register(
            "api_request_duration_seconds",
            "Time until the API began its answer, by route and status",
            self.requests.clone(),
        );
        registry.register(
            "events",
            "Events that the programs told, by kind. New flows are told while somebody listens to events",
            self.events.clone(),
        );
    }
}

/// The kind of an object by its name among the problems, such as `pod` for `pod web`: there are few of them.
fn kind_of(object: &str) -> String {
    match object.split_once(' ') {
        Some((kind @ ("pod" | "network" | "uplink" | "metrics" | "bgp"), _)) => kind.to_owned(),
        _ => object.replace([' ', '.'], "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_few_kinds() {
        for (object, kind) in [
            ("pod web", "pod"),
            ("network a b", "network"),
            ("metrics [::1]:9464", "metrics"),
            ("bgp session ::1", "bgp"),
            ("block route", "block-route"),
            ("snat.addresses", "snat-addresses"),
        ] {
            assert_eq!(kind_of(object), kind);
        }
    }
}
