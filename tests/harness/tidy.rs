//! Whether all that netpath has on a node belongs to a pod of its list, and every pod of the list has all it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use aya::{
    Pod as Bytes,
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use netpath::api::types::Pod;
use netpath_common::abi::{Addr, Endpoint, Flow, FlowKey, Link, PIN_SCHEME};

use crate::node::{Node, run_in};

/// Where the agent of [`Node`] pins.
pub const PINS: &str = "/sys/fs/bpf/netpath/default";

/// Checks all of it. `pods` are those that must be there; the list may have others.
///
/// # Panics
/// If something is left over, or missing.
pub fn check(node: &Node, pods: &[&str]) {
    let listed = node.runtime.block_on(node.client.pods()).expect("pods");
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert_eq!(status.problems, [""; 0]);
    for name in pods {
        assert!(listed.iter().any(|pod| pod.name == *name), "pod {name} is gone: {listed:?}");
    }
    for pod in &listed {
        assert_eq!(pod.state, "ready", "pod {} is half-made", pod.name);
    }
    let ends: BTreeMap<String, u32> = listed
        .iter()
        .flat_map(|pod| pod.interfaces.iter().map(|one| (one.interface.clone(), one.ifindex)))
        .collect();
    namespaces(&listed);
    links(node, &ends);
    programs(node, &ends);
    tables(&listed, &ends);
    addresses(node, &listed, &ends);
    every_pod_works(node, &listed);
}

fn namespaces(listed: &[Pod]) {
    let mut wanted: BTreeSet<String> = ["node", "router", "outside"].map(str::to_owned).into();
    wanted.extend(listed.iter().filter_map(|pod| pod.netns.strip_prefix("/run/netns/")).map(str::to_owned));
    let found: BTreeSet<String> = files(Path::new("/run/netns"));
    assert_eq!(found, wanted, "namespaces");
}

fn links(node: &Node, ends: &BTreeMap<String, u32>) {
    let found = node.runtime.block_on(node.topology.node.netlink.links()).expect("links");
    let found: BTreeMap<_, _> = found.into_iter().map(|link| (link.name, link.index)).collect();
    let mut wanted = ends.clone();
    for own in ["lo", "up0"] {
        wanted.insert(own.to_owned(), found[own]);
    }
    assert_eq!(found, wanted, "links");
}

/// On every interface one program a hook, the one of its pin, and everywhere of the same loading.
fn programs(node: &Node, ends: &BTreeMap<String, u32>) {
    let uplink = node.runtime.block_on(node.topology.node.netlink.link("up0")).expect("up0").expect("up0");
    let hooks = |name: &str, ifindex: u32| {
        let (inward, outward) =
            if name == "up0" { ("from_uplink", "to_uplink") } else { ("from_pod", "to_pod") };
        [(ifindex, inward, TcAttachType::Ingress), (ifindex, outward, TcAttachType::Egress)]
    };
    let mut pins = BTreeSet::new();
    let mut ids: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let uplink = ("up0".to_owned(), uplink.index);
    for (name, ifindex) in ends.iter().chain([(&uplink.0, &uplink.1)]) {
        for (ifindex, program, hook) in hooks(name, *ifindex) {
            pins.insert(format!("{ifindex}-{program}"));
            let query = || SchedClassifier::query_tcx(name.as_str(), hook);
            // No tcx on this kernel: the filters are the agent's to find.
            let Ok((_, attached)) = node.topology.node.netns.enter(query).expect("namespace") else { return };
            let attached: Vec<u32> = attached.iter().map(|one| one.id()).collect();
            assert_eq!(attached.len(), 1, "{program} on {name}: {attached:?}");
            ids.entry(program).or_default().extend(attached);
        }
    }
    for (program, ids) in ids {
        assert_eq!(ids.len(), 1, "{program} of several loadings: {ids:?}");
    }
    let pinned = files(&Path::new(PINS).join(format!("v{PIN_SCHEME}/links")));
    assert_eq!(pinned, pins, "pinned links");
}

fn tables(listed: &[Pod], ends: &BTreeMap<String, u32>) {
    let wanted: BTreeSet<IpAddr> = listed.iter().flat_map(own_addresses).collect();
    let Some(endpoints) = table::<Addr, Endpoint>("ENDPOINTS") else { return };
    let found: BTreeSet<IpAddr> = endpoints.iter().map(|(address, _)| address.to_ip()).collect();
    assert_eq!(found, wanted, "endpoints");
    if let Some(links) = table::<u32, Link>("LINKS") {
        let found: BTreeSet<u32> = links.iter().map(|(index, _)| *index).collect();
        assert_eq!(found, ends.values().copied().collect(), "links' records");
    }
    let known: BTreeSet<u32> = endpoints.iter().map(|(_, endpoint)| endpoint.pod).collect();
    for (key, flow) in table::<FlowKey, Flow>("FLOWS").unwrap_or_default() {
        assert!(flow.pod == 0 || known.contains(&flow.pod), "a flow of no pod: {key:?} {flow:?}");
    }
}

/// Routes, neighbours and rules of the node.
fn addresses(node: &Node, listed: &[Pod], ends: &BTreeMap<String, u32>) {
    let show = |arguments: &[&str]| run_in(&node.topology.node.netns, "ip", arguments);
    for (family, v6) in [("-4", false), ("-6", true)] {
        let wanted: BTreeSet<String> = listed
            .iter()
            .flat_map(own_addresses)
            .filter(|address| address.is_ipv6() == v6)
            .map(|address| address.to_string())
            .collect();
        let of_ends = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter(|line| {
                let mut words = line.split(' ').skip_while(|word| *word != "dev");
                words.nth(1).is_some_and(|device| ends.contains_key(device))
            });
            lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        let routes = show(&[family, "route", "show", "table", "main"]);
        let mut found = of_ends(&routes);
        found.remove("fe80::/64");
        assert_eq!(found, wanted, "routes:\n{routes}");
        let neighbours = show(&[family, "neigh", "show", "nud", "permanent"]);
        assert_eq!(of_ends(&neighbours), wanted, "neighbours:\n{neighbours}");
        let rules = show(&[family, "rule"]);
        assert_eq!(rules.lines().count(), if v6 { 2 } else { 3 }, "rules:\n{rules}");
    }
}

fn every_pod_works(node: &Node, listed: &[Pod]) {
    for pod in listed {
        for address in own_addresses(pod) {
            let answer =
                run_in(&node.topology.node.netns, "ping", &["-c1", "-W5", "-q", &address.to_string()]);
            assert!(answer.contains(" 0% packet loss"), "pod {} at {address}: {answer}", pod.name);
        }
    }
}

fn own_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.interfaces.iter().flat_map(|interface| &interface.addresses).copied()
}

/// What a pinned table holds; nothing of one of another layout than this build's.
fn table<K: Bytes, V: Bytes>(name: &str) -> Option<Vec<(K, V)>> {
    let pin = Path::new(PINS).join(format!("v{PIN_SCHEME}/maps/{name}"));
    let data = MapData::from_pin(&pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
    let map = HashMap::<_, K, V>::try_from(Map::HashMap(data)).ok()?;
    Some(map.iter().map(|entry| entry.expect("entry")).collect())
}

fn files(directory: &Path) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}
