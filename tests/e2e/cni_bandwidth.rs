//! Capability `bandwidth`, as engines give it.

use std::path::Path;

use netpath::{api::types::Bandwidth, net::Netns};
use netpath_tests::{
    cni::{Container, ask, install},
    node::{Node, run_in},
    tidy,
};
use serde_json::json;

use crate::cni::{namespace, pods};

#[test]
fn cni_limits_what_a_container_gets_and_sends() {
    let node = Node::start("");
    let mut config = install(&node, "default");
    assert_eq!(config["capabilities"]["bandwidth"], true);
    let netns = namespace("c1");
    let container = Container::new("c1");
    config["runtimeConfig"] = json!({"bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 4_294_967_295_u64,
    }});
    ask(&node, "ADD", &config, &container).expect("added");
    let pod = pods(&node).remove(0);
    assert_eq!(pod.ingress_bandwidth, Some(Bandwidth { rate: 8_000_000, burst: Some(100_000) }));
    assert_eq!(pod.egress_bandwidth, Some(Bandwidth { rate: 4_000_000, burst: Some(98_304) }));
    let queue = |netns: &Netns, interface: &str| run_in(netns, "tc", &["qdisc", "show", "dev", interface]);
    let (inside, outside) = (queue(&netns, "eth0"), queue(&node.topology.node.netns, &pod.interface));
    assert!(inside.contains("qdisc tbf 6e70: root") && inside.contains("rate 4Mbit"), "{inside}");
    assert!(outside.contains("qdisc tbf 6e70: root") && outside.contains("rate 8Mbit"), "{outside}");
    assert_eq!(ask(&node, "DEL", &config, &container), Ok(serde_json::Value::Null));
    assert_eq!(pods(&node), []);
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    tidy::check(&node, &[]);
}
