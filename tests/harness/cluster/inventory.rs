//! All that netpath has on nodes and in etcd, in words: to be compared with what it had before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{
    Map, MapData,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;
use netpath_common::abi::{NODE_ROUTES, PIN_SCHEME, ROUTE_PEER, Route, RouteKey};

use super::{Cluster, ClusterMember, DIR};
use crate::tidy;

/// What `ip` is asked.
const ASKED: [&[&str]; 6] = [
    &["-4", "route", "show", "table", "all"],
    &["-6", "route", "show", "table", "all"],
    &["-4", "neigh", "show", "nud", "permanent"],
    &["-6", "neigh", "show", "nud", "permanent"],
    &["-4", "rule"],
    &["-6", "rule"],
];

impl Cluster {
    /// Routes, neighbours, rules, links, pins, entries of tables, namespaces, keys and how many leases there are; without
    /// what a reboot numbers otherwise.
    pub fn inventory(&self) -> BTreeSet<String> {
        let of_node = |node: &ClusterMember| {
            let told: Vec<_> = node.has().into_iter().map(|line| format!("{}: {line}", node.name)).collect();
            told
        };
        let mut all: BTreeSet<String> = self.nodes.iter().flat_map(of_node).collect();
        all.extend(names(Path::new("/run/netns")).into_iter().map(|name| format!("namespace {name}")));
        let keys = self.etcd.ctl(&["get", "--prefix", "--keys-only", "/netpath/"]);
        all.extend(keys.lines().filter(|key| !key.is_empty()).map(str::to_owned));
        all.insert(format!("{} leases", self.leases()));
        all
    }

    /// How many leases etcd has.
    pub fn leases(&self) -> usize {
        let listed = self.etcd.ctl(&["lease", "list"]);
        listed.lines().filter(|line| !line.contains("found")).count()
    }
}

impl ClusterMember {
    /// Where its agent pins.
    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/netpath").join(&self.name)
    }

    /// What its agent has logged so far, of all its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(format!("{DIR}/{}/agent.log", self.name)).unwrap_or_default()
    }

    /// Checks that its tables tell of its pods and nobody else's.
    ///
    /// # Panics
    /// If not.
    pub fn check_tables(&self) {
        let pods = self.runtime.block_on(self.client.pods()).expect("pods");
        tidy::tables(&self.pins(), &pods);
    }

    /// How many entries of its programs' table are of other nodes.
    pub fn peer_routes(&self) -> usize {
        // One that goes while it is read is none.
        self.routes().iter().flatten().filter(|(_, route)| route.flags & ROUTE_PEER != 0).count()
    }

    /// Whether its programs' table knows a block for another node's.
    pub fn has_peer_route(&self, block: IpNet) -> bool {
        let key = RouteKey { network: NODE_ROUTES, addr: block.network().into() };
        let length = 128 - u32::from(block.max_prefix_len() - block.prefix_len());
        let found = self.routes().get(&Key::new(32 + length, key), 0);
        found.is_ok_and(|route| route.flags & ROUTE_PEER != 0)
    }

    /// The table by which its programs find ways.
    fn routes(&self) -> LpmTrie<MapData, RouteKey, Route> {
        let pin = self.pins().join(format!("v{PIN_SCHEME}/maps/ROUTES"));
        let routes = MapData::from_pin(pin).expect("ROUTES");
        Map::LpmTrie(routes).try_into().expect("ROUTES")
    }

    fn has(&self) -> Vec<String> {
        let said: Vec<_> = ASKED.iter().map(|asked| self.run("ip", asked)).collect();
        // A link-local address comes from a MAC, which is another one after a reboot; anycast addresses are for the kernel, which
        // makes none with an address that comes late.
        let kept = |line: &&str| !line.contains("fe80:") && !line.starts_with("anycast");
        let lines = said.iter().flat_map(|said| said.lines()).filter(kept);
        let mut all: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
        let links = self.links();
        all.extend(links.values().map(|name| format!("link {name}")));
        let pins = self.pins().join(format!("v{PIN_SCHEME}"));
        for name in names(&pins.join("links")) {
            let (index, program) = name.split_once('-').expect("INDEX-PROGRAM");
            let link = index.parse().ok().and_then(|index: u32| links.get(&index));
            all.push(format!("pin of {program} on {link:?}"));
        }
        all.extend(names(&pins.join("maps")).into_iter().map(|name| format!("pin of {name}")));
        for key in self.routes().keys().map(|key| key.expect("key")) {
            // Of packed records.
            let (length, RouteKey { network, addr }) = (key.prefix_len(), key.data());
            all.push(format!("ROUTES {network} {} {length}", addr.to_ip()));
        }
        all
    }

    /// Names of its links, by index.
    fn links(&self) -> BTreeMap<u32, String> {
        let told = self.run("ip", &["-o", "link"]);
        let link = |line: &str| {
            let mut parts = line.split(": ");
            let index = parts.next()?.trim().parse().ok()?;
            Some((index, parts.next()?.split('@').next()?.to_owned()))
        };
        told.lines().filter_map(link).collect()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}
