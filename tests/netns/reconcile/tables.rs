//! Entries of tables, pins and what else nothing announces.

use std::path::PathBuf;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use netpath_common::{
    abi::{Addr, CachedEndpoint, Endpoint, Link, Node as Record, Route, RouteKey},
    logic::seat,
};
use netpath_tests::{for_both_families, node::run_in, scene::Family};

use super::{ANNOUNCED, Breakage, PASS, Scene, shell};

#[test]
fn an_unmounted_bpffs_is_told() {
    let scene = Scene::new(&Family::V4, "");
    let said = shell(scene.netns(), "umount -l /sys/fs/bpf");
    assert_eq!(said, "", "not unmounted");
    scene.wait("bpffs unmounted", PASS, || {
        let problems = scene.problems();
        let told = |object: &str| {
            problems
                .iter()
                .any(|problem| problem.starts_with(object) && problem.contains("/sys/fs/bpf/netpath"))
        };
        (!told("pins: ") || !told("leftovers: ")).then(|| format!("{problems:?}"))
    });
}

for_both_families!(
    entries_removed_by_hand_come_back,
    an_emptied_seat_of_the_cache_is_taken_again,
    the_blocks_route_and_the_reserved_ports_come_back,
);

/// The table that the agent and its programs use.
fn table(scene: &Scene, name: &str) -> MapData {
    let found = run_in(scene.netns(), "find", &["/sys/fs/bpf/netpath/default", "-name", name]);
    MapData::from_pin(PathBuf::from(found.trim())).unwrap_or_else(|error| panic!("{name}: {found}: {error}"))
}

fn nothing<'a>(scene: &'a Scene, name: &'a str) -> Breakage<'a> {
    Breakage { name, netns: scene.netns(), breaks: "true".into(), disturbs: true, within: PASS }
}

fn entries_removed_by_hand_come_back(family: Family) {
    let scene = Scene::new(&family, "");
    let (own, ifindex) = (Addr::from(scene.side.address(&scene.a)), scene.a.pod.ifindex);

    let mut endpoints: HashMap<_, Addr, Endpoint> =
        Map::HashMap(table(&scene, "ENDPOINTS")).try_into().expect("table");
    let whole = endpoints.get(&own, 0).expect("an endpoint");
    endpoints.remove(&own).expect("removed");
    let is = |wanted: Endpoint| {
        let found = endpoints.get(&own, 0);
        (!found.as_ref().is_ok_and(|found| *found == wanted)).then(|| format!("{found:?}"))
    };
    scene.is_repaired(&nothing(&scene, "endpoint removed"), || is(whole));
    let mut endpoints: HashMap<_, Addr, Endpoint> =
        Map::HashMap(table(&scene, "ENDPOINTS")).try_into().expect("table");
    endpoints.insert(own, Endpoint { mac: [2; 6], ..whole }, 0).expect("changed");
    scene.is_repaired(&nothing(&scene, "endpoint changed"), || is(whole));

    let mut links: HashMap<_, u32, Link> = Map::HashMap(table(&scene, "LINKS")).try_into().expect("table");
    let whole = links.get(&ifindex, 0).expect("a link");
    links.remove(&ifindex).expect("removed");
    scene.is_repaired(&nothing(&scene, "link removed"), || {
        let found = links.get(&ifindex, 0);
        (!found.as_ref().is_ok_and(|found| *found == whole)).then(|| format!("{found:?}"))
    });

    let mut routes: LpmTrie<_, RouteKey, Route> =
        Map::LpmTrie(table(&scene, "ROUTES")).try_into().expect("table");
    let keys = || routes.keys().map(|key| key.expect("a key")).map(|key| (key.prefix_len(), key.data()));
    let all: Vec<(u32, RouteKey)> = keys().collect();
    assert!(all.len() > 4, "{}", all.len());
    for (length, key) in &all {
        let mut routes: LpmTrie<_, RouteKey, Route> =
            Map::LpmTrie(table(&scene, "ROUTES")).try_into().expect("table");
        routes.remove(&Key::new(*length, *key)).expect("removed");
    }
    scene.is_repaired(&nothing(&scene, "routes removed"), || {
        let left = keys().count();
        (left != all.len()).then(|| format!("{left} of {}", all.len()))
    });
    routes.insert(&Key::new(0, RouteKey::default()), Route::default(), 0).expect("a stranger's route");
    scene.is_repaired(&nothing(&scene, "route added"), || {
        let left = routes.keys().count();
        (left != all.len()).then(|| format!("{left} of {}", all.len()))
    });

    let mut node: Array<_, Record> = Map::Array(table(&scene, "NODE")).try_into().expect("table");
    let whole = node.get(&0, 0).expect("the record");
    node.set(0, Record::default(), 0).expect("emptied");
    scene.is_repaired(&nothing(&scene, "node's record emptied"), || {
        let found = node.get(&0, 0).expect("the record");
        (found != whole).then(|| format!("{found:?}"))
    });
    scene.wait_well();
}

fn an_emptied_seat_of_the_cache_is_taken_again(family: Family) {
    let scene = Scene::new(&family, "");
    let own = Addr::from(scene.side.address(&scene.a));
    let seat = seat::of(&own);
    let mut cache: Array<_, CachedEndpoint> =
        Map::Array(table(&scene, "ENDPOINT_CACHE")).try_into().expect("table");
    let whole = cache.get(&seat, 0).expect("a seat");
    assert_eq!(whole.addr, own);
    cache.set(seat, CachedEndpoint::default(), 0).expect("emptied");
    scene.is_repaired(&nothing(&scene, "seat of the cache emptied"), || {
        let found = cache.get(&seat, 0).expect("a seat");
        (found != whole).then(|| format!("{found:?}"))
    });
    scene.wait_well();
}

fn the_blocks_route_and_the_reserved_ports_come_back(family: Family) {
    let scene = Scene::new(&family, "");
    let (flag, block) = (scene.side.flag(), if scene.side.v6 { "fd00:61::/64" } else { "10.61.0.0/24" });
    let route = Breakage {
        name: "the block's route deleted",
        netns: scene.netns(),
        breaks: format!("ip {flag} route del unreachable {block}"),
        disturbs: false,
        within: ANNOUNCED,
    };
    scene.comes_back(&route, &format!("ip {flag} route show {block}"), "unreachable");
    let ports = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let reserved = Breakage {
        name: "reserved ports cleared",
        netns: scene.netns(),
        breaks: format!("echo >{ports}"),
        disturbs: false,
        within: PASS,
    };
    scene.comes_back(&reserved, &format!("cat {ports}"), "32768-49151");
}
