//! Whether all that netpath has on a node belongs to a pod of its list, and every pod of the list has all it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use aya::{
    Pod as Bytes,
    maps::{Array, HashMap, Map, MapData},
    programs::{ProgramInfo, SchedClassifier, TcAttachType},
};
use netpath::{
    api::types::{Pod, Status},
    net::Netns,
};
use netpath_common::{
    abi::{Addr, CACHE_SEATS, CachedEndpoint, Endpoint, Flow, FlowKey, Link, PIN_SCHEME},
    logic::seat,
};

use crate::{
    node::{Node, binary, run_in},
    wait::{until, within},
};

/// Where the agent of [`Node`] pins.
pub const PINS: &str = "/sys/fs/bpf/netpath/default";

/// Waits until pods that engines were told are gone have gone: their links do so a little later.
///
/// # Panics
/// If they do not.
pub fn let_go(node: &Node) {
    until("what is let go is gone", || {
        let pods = node.runtime.block_on(node.client.pods()).expect("pods");
        pods.iter().all(|pod| pod.state != "removing")
    });
}

/// Waits until all programs are attached as they are to stay.
///
/// # Panics
/// If they do not become so.
pub fn settled(node: &Node) -> Status {
    let status = || node.runtime.block_on(node.client.status()).expect("status");
    until("programs have settled", || status().settling == 0);
    status()
}

/// Checks all of it. `pods` are those that must be there; the list may have others.
///
/// # Panics
/// If something is left over, or missing.
pub fn check(node: &Node, pods: &[&str]) {
    let_go(node);
    let status = || node.runtime.block_on(node.client.status()).expect("status");
    // A kernel that was slow is told of until the next look; what is broken stays until a full pass, every 7 s.
    within(Duration::from_secs(5), "nothing is wrong", || status().problems.is_empty());
    let status = settled(node);
    let listed = node.runtime.block_on(node.client.pods()).expect("pods");
    for name in pods {
        assert!(listed.iter().any(|pod| pod.name == *name), "pod {name} is gone: {listed:?}");
    }
    for pod in &listed {
        assert_eq!(pod.state, "ready", "pod {} is half-made", pod.name);
    }
    let ends = ends_of(&listed);
    namespaces(&listed);
    links(node, &ends);
    programs(node, &listed, &status, &ends);
    tables(Path::new(PINS), &listed);
    addresses(node, &listed, &ends);
    every_pod_works(node, &listed);
}

/// Host ends of pods, by name.
fn ends_of(listed: &[Pod]) -> BTreeMap<String, u32> {
    let own = |pod: &Pod| pod.interfaces.clone().into_iter().map(|one| (one.interface, one.ifindex));
    listed.iter().flat_map(own).collect()
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

/// On every interface one program a hook, on uplinks that of a later build besides, and everywhere the same loading; each on all
/// interfaces of one kind, with pins only where it is tcx, and those of pods in mode xdp; and all of it told by `status`.
fn programs(node: &Node, listed: &[Pod], status: &Status, ends: &BTreeMap<String, u32>) {
    let netns = &node.topology.node.netns;
    let uplink = node.runtime.block_on(node.topology.node.netlink.link("up0")).expect("up0").expect("up0");
    let (hooks, attached_programs): (Vec<_>, Vec<_>) =
        status.programs.iter().partition(|one| one.attach == "cgroup");
    let (xdp, tc): (Vec<_>, Vec<_>) =
        attached_programs.into_iter().partition(|one| one.attach.starts_with("xdp"));
    let by_xdp = listed.iter().filter(|pod| pod.mode == "xdp").flat_map(|pod| &pod.interfaces);
    let by_xdp: BTreeSet<_> = by_xdp.map(|one| format!("{}-xdp_pod", one.ifindex)).collect();
    assert_eq!(xdp.len(), by_xdp.len(), "{xdp:?}");
    let kind_of = |program: &str| {
        let kinds: BTreeSet<&str> =
            tc.iter().filter(|one| one.name == program).map(|one| one.attach.as_str()).collect();
        assert!(kinds.len() <= 1, "not of one kind: {tc:?}");
        kinds.into_iter().next().unwrap_or("none")
    };
    let later: &[&str] = if node.binary == binary() { &[] } else { &["later"] };
    let (mut wanted, mut found, mut pins, mut indexes) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut ids: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (name, ifindex) in
        ends.iter().map(|(name, ifindex)| (name.as_str(), *ifindex)).chain([("up0", uplink.index)])
    {
        let own: &[&str] =
            if name == "up0" { &["from_uplink", "to_uplink"] } else { &["from_pod", "to_pod"] };
        for program in own.iter().chain(later.iter().filter(|_| name == "up0")) {
            let kind = kind_of(program);
            wanted.insert(format!("{program} on {name} by {kind}"));
            pins.extend((kind == "tcx").then(|| format!("{ifindex}-{program}")));
        }
        for (kind, program, id) in attached(netns, name) {
            assert!(found.insert(format!("{program} on {name} by {kind}")), "{program} twice on {name}");
            assert!(
                status
                    .programs
                    .iter()
                    .any(|one| (&one.name, &*one.interface, one.id) == (&program, name, id)),
                "status lacks {program} on {name}, id {id}: {:?}",
                status.programs
            );
            ids.entry(program).or_default().insert(id);
        }
        indexes.insert(ifindex.to_string());
    }
    assert_eq!(found, wanted, "programs");
    assert_eq!(tc.len(), found.len(), "{tc:?}");
    for (program, ids) in ids {
        assert_eq!(ids.len(), 1, "{program} of several loadings: {ids:?}");
    }
    let directory = Path::new(PINS).join(format!("v{PIN_SCHEME}"));
    pins.extend(by_xdp);
    pins.extend(hooks.iter().map(|hook| format!("0-{}", hook.name)));
    assert_eq!(files(&directory.join("links")), pins, "pinned links");
    let qdiscs = directory.join("qdiscs");
    let marks = if qdiscs.exists() { files(&qdiscs) } else { BTreeSet::new() };
    assert!(marks.is_subset(&indexes), "marks of qdiscs {marks:?}, but the interfaces are {indexes:?}");
}

/// What is attached to an interface, as (kind, program, its id).
pub fn attached(netns: &Netns, interface: &str) -> Vec<(&'static str, String, u32)> {
    let mut all = Vec::new();
    for (way, hook) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        let query = || SchedClassifier::query_tcx(interface, hook);
        // A kernel without tcx refuses.
        if let Ok((_, programs)) = netns.enter(query).expect("namespace") {
            let told = |one: &ProgramInfo| ("tcx", one.name_as_str().unwrap_or("?").to_owned(), one.id());
            all.extend(programs.iter().map(told));
        }
        let filters = run_in(netns, "tc", &["filter", "show", "dev", interface, way]);
        for line in filters.lines() {
            let after = |word| line.split(' ').skip_while(move |one| *one != word).skip(1);
            if let Some(id) = after("id").next() {
                let name = after("handle").nth(1).unwrap_or("?").to_owned();
                all.push(("clsact", name, id.parse().unwrap_or_else(|_| panic!("{line}"))));
            }
        }
    }
    all
}

/// Checks that what an instance has pinned tells of its pods, and of nobody else.
///
/// # Panics
/// If not.
pub fn tables(pins: &Path, listed: &[Pod]) {
    let ends = ends_of(listed);
    let wanted: BTreeSet<IpAddr> = listed.iter().flat_map(own_addresses).collect();
    let Some(endpoints) = table::<Addr, Endpoint>(pins, "ENDPOINTS") else { return };
    let found: BTreeSet<IpAddr> = endpoints.iter().map(|(address, _)| address.to_ip()).collect();
    assert_eq!(found, wanted, "endpoints");
    cached(pins, &endpoints);
    if let Some(links) = table::<u32, Link>(pins, "LINKS") {
        let found: BTreeSet<u32> = links.iter().map(|(index, _)| *index).collect();
        assert_eq!(found, ends.values().copied().collect(), "links' records");
    }
    let known: BTreeSet<u32> = endpoints.iter().map(|(_, endpoint)| endpoint.pod).collect();
    for (key, flow) in table::<FlowKey, Flow>(pins, "FLOWS").unwrap_or_default() {
        assert!(flow.pod == 0 || known.contains(&flow.pod), "a flow of no pod: {key:?} {flow:?}");
    }
}

/// The cache says what ENDPOINTS does: each endpoint sits or is counted among the others, and nobody else does.
fn cached(pins: &Path, endpoints: &[(Addr, Endpoint)]) {
    let pin = pins.join(format!("v{PIN_SCHEME}/maps/ENDPOINT_CACHE"));
    // An earlier build's agent has none.
    let Ok(data) = MapData::from_pin(&pin) else { return };
    let cache = Array::<_, CachedEndpoint>::try_from(Map::Array(data)).expect("ENDPOINT_CACHE");
    let seats: Vec<CachedEndpoint> =
        cache.iter().take(CACHE_SEATS as usize).map(|seat| seat.expect("seat")).collect();
    for (at, seat) in seats.iter().enumerate() {
        let here: Vec<_> = endpoints.iter().filter(|(addr, _)| seat::of(addr) as usize == at).collect();
        let sits = usize::from(seat.endpoint.pod != 0);
        assert_eq!(sits + seat.others as usize, here.len(), "seat {at}: {seat:?}, but {here:?}");
        let whole = here.iter().any(|(addr, endpoint)| (*addr, *endpoint) == (seat.addr, seat.endpoint));
        assert!(sits == 0 || whole, "seat {at}: {seat:?}, but {here:?}");
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
fn table<K: Bytes, V: Bytes>(pins: &Path, name: &str) -> Option<Vec<(K, V)>> {
    let pin = pins.join(format!("v{PIN_SCHEME}/maps/{name}"));
    let data = MapData::from_pin(&pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
    let map = HashMap::<_, K, V>::try_from(Map::HashMap(data)).ok()?;
    Some(map.iter().map(|entry| entry.expect("entry")).collect())
}

fn files(directory: &Path) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}
