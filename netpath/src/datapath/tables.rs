//! Tables the agent writes: links, routes, the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
    util::nr_cpus,
};
use ipnet::IpNet;
use netpath_common::abi::{
    Addr, Link, NODE_ROUTES, Node, PIN_SCHEME, PodCounter, Published, PublishedKey, Route, RouteKey,
};

use super::{
    bpf::Table,
    endpoints::Endpoints,
    error::{DatapathError, kernel},
    flows::gone,
};

/// Typed handles of the configuration and counter tables.
pub(super) struct Tables {
    pub(super) endpoints: Endpoints,
    links: HashMap<MapData, u32, Link>,
    all_links: Table<u32, Link>,
    routes: LpmTrie<MapData, RouteKey, Route>,
    node: Array<MapData, Node>,
    pub(super) pod_counters: PerCpuArray<MapData, PodCounter>,
}

macro_rules! take {
    ($ebpf:expr, $name:literal) => {
        $ebpf
            .take_map($name)
            .ok_or(aya::maps::MapError::InvalidName { name: $name.to_owned() })
            .and_then(TryInto::try_into)
            .map_err(kernel(concat!("opening the table ", $name)))?
    };
}
pub(super) use take;

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let links: HashMap<_, u32, Link> = take!(ebpf, "LINKS");
        Ok(Self {
            all_links: Table::new(links.map()).map_err(kernel("opening the table LINKS"))?,
            endpoints: Endpoints::take(ebpf)?,
            links,
            routes: take!(ebpf, "ROUTES"),
            node: take!(ebpf, "NODE"),
            pod_counters: take!(ebpf, "POD_COUNTERS"),
        })
    }

    pub(super) fn set_link(&mut self, ifindex: u32, link: Link) -> Result<(), DatapathError> {
        self.links.insert(ifindex, link, 0).map_err(kernel(format!("writing the link {ifindex}")))
    }

    pub(super) fn remove_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        match self.links.remove(&ifindex) {
            Err(error) if !gone(&error) => Err(kernel(format!("removing the link {ifindex}"))(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn links(&self) -> Result<Vec<(u32, Link)>, DatapathError> {
        self.all_links.all().map_err(kernel("reading the links"))
    }

    pub(super) fn set_routes(&mut self, routes: &[(u32, IpNet, Route)]) -> Result<(), DatapathError> {
        let wanted: BTreeMap<_, _> =
            routes.iter().map(|(network, prefix, route)| (prefix_key(*network, prefix), *route)).collect();
        let place = |key: &Key<RouteKey>| (key.prefix_len(), key.data().network, key.data().addr);
        replace_all(&mut self.routes, &wanted, trie_key, place, "the routes")
    }

    pub(super) fn set_node(&mut self, node: &Node) -> Result<(), DatapathError> {
        self.node.set(0, *node, 0).map_err(kernel("writing the node's record"))
    }

    pub(super) fn node(&self) -> Result<Node, DatapathError> {
        self.node.get(&0, 0).map_err(kernel("reading the node's record"))
    }

    pub(super) fn clear_pod_counter(&mut self, slot: u32) -> Result<(), DatapathError> {
        let doing = || format!("clearing the pod counter {slot}");
        let cpus = nr_cpus().map_err(|(_, error)| kernel(doing())(error))?;
        let zeros = PerCpuValues::try_from(vec![PodCounter::default(); cpus]).map_err(kernel(doing()))?;
        self.pod_counters.set(slot, zeros, 0).map_err(kernel(doing()))
    }
}

/// Makes a trie hold exactly these entries: writes what differs, then removes what is left over.
pub(super) fn replace_all<K, V, P>(
    trie: &mut LpmTrie<MapData, K, V>,
    wanted: &BTreeMap<P, V>,
    key: fn(P) -> Key<K>,
    place: impl Fn(&Key<K>) -> P,
    what: &str,
) -> Result<(), DatapathError>
where
    K: Pod,
    V: Pod + PartialEq,
    P: Ord + Copy,
{
    let mut present = BTreeSet::new();
    for key in trie.keys() {
        present.insert(place(&key.map_err(kernel(format!("reading {what}")))?));
    }
    for (at, value) in wanted {
        // A lookup alone also finds shorter prefixes.
        if present.contains(at) && trie.get(&key(*at), 0).is_ok_and(|there| there == *value) {
            continue;
        }
        trie.insert(&key(*at), *value, 0).map_err(kernel(format!("writing to {what}")))?;
    }
    for at in present.into_iter().filter(|at| !wanted.contains_key(at)) {
        trie.remove(&key(at)).map_err(kernel(format!("removing from {what}")))?;
    }
    Ok(())
}

/// A prefix of ROUTES: its length with the network's 32 bits, the network, the address.
type Place = (u32, u32, Addr);

/// A prefix over [`Addr`]: IPv4 lies below ::ffff:0:0/96.
pub(super) fn place_of(prefix: &IpNet) -> (u32, Addr) {
    let length = u32::from(prefix.prefix_len()) + if prefix.addr().is_ipv4() { 96 } else { 0 };
    (length, Addr::from(prefix.network()))
}

fn prefix_key(network: u32, prefix: &IpNet) -> Place {
    let (length, addr) = place_of(prefix);
    (32 + length, network, addr)
}

/// The prefix that a key stands for, and its network.
fn prefix_of(key: &Key<RouteKey>) -> Option<(u32, IpNet)> {
    let (address, length) = (key.data().addr.to_ip(), key.prefix_len().checked_sub(32)?);
    let length = if address.is_ipv4() { length.checked_sub(96)? } else { length };
    Some((key.data().network, IpNet::new(address, u8::try_from(length).ok()?).ok()?))
}

/// What an instance's pinned tables tell of its node, read without its programs.
#[derive(Clone, Debug)]
pub struct Told {
    /// Prefixes that the node's stack is left to: the blocks, and addresses of the node.
    pub prefixes: Vec<IpNet>,
    /// The node's record.
    pub node: Node,
    /// Published ports.
    pub published: Vec<u16>,
}

/// Reads it.
///
/// # Errors
/// The kernel's reason; or the tables are not there, or those of a build that has them otherwise.
pub fn told(pin_dir: &Path) -> Result<Told, DatapathError> {
    let maps = pin_dir.join(format!("v{PIN_SCHEME}/maps"));
    let open = |name: &str| MapData::from_pin(maps.join(name));
    let (routes, node) = ("reading the pinned table ROUTES", "reading the pinned table NODE");
    let table = open("ROUTES").map(Map::LpmTrie).and_then(LpmTrie::<_, RouteKey, Route>::try_from);
    let keys = table.map_err(kernel(routes))?.keys().collect::<Result<Vec<_>, _>>();
    let prefixes = keys.map_err(kernel(routes))?.iter().filter_map(prefix_of).collect::<Vec<_>>();
    let published =
        open("PUBLISHED").map(Map::HashMap).and_then(HashMap::<_, PublishedKey, Published>::try_from);
    // Earlier builds have no such table.
    let ports = published.iter().flat_map(HashMap::keys).flatten().map(|key| u16::from_be(key.port));
    let record = open("NODE").map(Map::Array).and_then(Array::<_, Node>::try_from);
    Ok(Told {
        prefixes: prefixes
            .into_iter()
            .filter(|(network, _)| *network == NODE_ROUTES)
            .map(|(_, one)| one)
            .collect(),
        published: ports.collect(),
        node: record.and_then(|record| record.get(&0, 0)).map_err(kernel(node))?,
    })
}

fn trie_key((length, network, addr): Place) -> Key<RouteKey> {
    Key::new(length, RouteKey { network, addr })
}
