use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use serde_json::{Value, json};

use super::*;
use crate::api::types::{Event, Pod, Status};

mod lines;
mod tables;
mod unreachable;

/// A drop event to vary.
pub(super) fn event() -> Event {
    sample(json!({
        "time_ms": 86_400_000_u64 * 20_000 + 50_709_003, "kind": "drop", "reason": "SpoofedSource", "pod": "web",
        "interface": "np1", "program": "from_pod", "protocol": "tcp", "source": "10.0.0.1", "source_port": 4000,
        "destination": "192.0.2.9", "destination_port": 443, "translated_source": null, "translated_port": null,
        "length": 60,
    }))
}

fn sample<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn web() -> Pod {
    sample(json!({
        "name": "web", "network": "default", "addresses": ["10.244.0.2", "fd00::2"], "mac": "0a:58:0a:f4:00:02",
        "interface": "np1", "ifindex": 7, "netns": "/run/netns/web", "state": "ready", "rx_packets": 3,
        "rx_bytes": 2048, "tx_packets": 4, "tx_bytes": 999, "mtu": 1500, "mode": "xdp",
        "ingress_bandwidth": {"rate": 20000000, "burst": 98304}, "egress_bandwidth": {"rate": 1500000000}, "labels": {"app": "web", "tier": "front"},
    }))
}

fn status() -> Status {
    sample(json!({
        "version": "0.1.0", "node": "n1", "pid": 42, "uptime_s": 192, "uplinks": ["eth0"],
        "programs": [{"name": "from_pod", "interface": "np1", "id": 9, "attach": "tcx"}],
        "pods": 1, "flows": 5, "flow_capacity": 262_144,
        "snat": {"range": "32768-49151", "in_use": 2, "exhausted": 0},
        "traffic": [{"class": "pod_to_pod", "packets": 10, "bytes": 1024}],
        "store": "redb /var/lib/netpath/default/state.redb", "problems": [],
    }))
}
