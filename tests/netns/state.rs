//! What the agent has written down can be damaged or lost: it is made again, or the agent says why it will not start. Live
//! flows notice neither.

use std::{fs, os::unix::fs::chown, path::Path};

use netpath::net::sysctl;
use netpath_tests::{
    for_both_families,
    node::{Node, log, run_in},
    scene::Family,
    side::{Side, dual},
    tidy,
    wait::until,
};

use super::restart::traffic;

for_both_families!(
    a_damaged_state_is_made_again_at_restart,
    a_state_that_is_lost_for_good_is_refused_and_pods_go_on,
);

/// Room for the flows of all short connections of half a minute.
const ROOM: &str = "[flows]\ncapacity = 65536";
const MAIN: &str = "/mnt/state/state.redb";
const COPY: &str = "/mnt/state/state.copy";

/// A way to damage a file, and its name.
type Damage = (&'static str, fn(&Path));

fn length(file: &Path) -> u64 {
    fs::metadata(file).expect("there").len()
}

const DAMAGES: [Damage; 6] = [
    ("missing", |file| fs::remove_file(file).expect("removed")),
    ("empty", |file| fs::write(file, "").expect("emptied")),
    ("truncated", |file| {
        let file = (fs::File::options().write(true).open(file).expect("opened"), length(file) / 2);
        file.0.set_len(file.1).expect("cut");
    }),
    ("random bytes", |file| {
        let bytes: Vec<u8> = (0..length(file)).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 7) as u8).collect();
        fs::write(file, bytes).expect("written");
    }),
    ("another version", |file| {
        let mut bytes = fs::read(file).expect("read");
        // The number of the format: in both slots of redb's header, and in the copy's first line.
        let numbers: &[usize] = if bytes.starts_with(b"redb") { &[64, 192] } else { &[14] };
        numbers.iter().for_each(|at| bytes[*at] = b'9');
        fs::write(file, bytes).expect("written");
    }),
    ("a directory", |file| {
        fs::remove_file(file).expect("removed");
        fs::create_dir(file).expect("made");
    }),
];

fn a_damaged_state_is_made_again_at_restart(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(ROOM);
    let traffic = traffic(&node, &side, &a, &b);
    let told = |node: &Node| {
        let mut pods = node.runtime.block_on(node.client.pods()).expect("pods");
        for pod in &mut pods {
            (pod.rx_packets, pod.rx_bytes, pod.tx_packets, pod.tx_bytes) = Default::default();
        }
        pods
    };
    for (damage, apply) in DAMAGES {
        println!("before {damage}: {:?}", node.runtime.block_on(node.client.drops()).expect("drops"));
        node.pod(&format!("of {damage}").replace(' ', "-"));
        let before = told(&node);
        node.kill();
        apply(Path::new(MAIN));
        node.restart();
        assert_eq!(told(&node), before, "{damage}");
        assert!(log().contains("made again from its copy"), "{damage}");
        traffic.moves(damage);
        tidy::check(&node, &["a", "b"]);
        let _ = fs::remove_dir("/mnt/state/state.redb.damaged");
    }
    let totals = traffic.finish();
    println!("at the end: {:?}", node.runtime.block_on(node.client.drops()).expect("drops"));
    assert_eq!((totals.lost, totals.reset), (0, 0), "{totals:?}");
}

fn a_state_that_is_lost_for_good_is_refused_and_pods_go_on(family: Family) {
    let side = Side::of(&family);
    let (mut node, a, b) = dual(ROOM);
    let traffic = traffic(&node, &side, &a, &b);
    node.kill();
    let sound = [MAIN, COPY].map(|file| fs::read(file).expect("state"));
    let put_back = || {
        for (file, bytes) in [MAIN, COPY].into_iter().zip(&sound) {
            let _ = fs::remove_dir(file);
            fs::write(file, bytes).expect("put back");
        }
    };
    for (damage, apply) in DAMAGES {
        [MAIN, COPY].into_iter().for_each(|file| apply(Path::new(file)));
        let said = node.refused(&[]);
        let words: &[&str] = match damage {
            "missing" => {
                &["knows nothing of the pods whose links are here", MAIN, "backup", "netpath uninstall"]
            }
            _ => &[MAIN, "damaged", COPY, "backup", "uninstall --force"],
        };
        for word in words {
            assert!(said.contains(word), "{damage}: no '{word}' in: {said}");
        }
        traffic.moves(damage);
        put_back();
    }
    // An old backup that lacks a pod is no better.
    node.restart();
    node.pod("late");
    node.kill();
    put_back();
    let said = node.refused(&[]);
    assert!(said.contains("knows nothing of the pods whose links are here"), "{said}");
    traffic.moves("with an old backup");
    let totals = traffic.finish();
    assert_eq!((totals.lost, totals.reset), (0, 0), "{totals:?}");
}

#[test]
fn a_state_that_may_not_be_read_is_refused_and_not_replaced() {
    let (mut node, ..) = dual(ROOM);
    node.kill();
    let before = fs::read(MAIN).expect("state");
    chown(MAIN, Some(1000), Some(1000)).expect("chown");
    // Root reads everything, unless a unit takes that from it.
    let without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner,-chown", "--"];
    node.launcher = without.map(str::to_owned).to_vec();
    let said = node.refused(&[]);
    assert!(
        said.contains(MAIN) && said.contains("Permission denied") && said.contains("chown root"),
        "{said}"
    );
    assert_eq!(fs::read(MAIN).expect("state"), before);
    chown(MAIN, Some(0), Some(0)).expect("chown");
    node.restart();
    tidy::check(&node, &["a", "b"]);
}

/// Also where another instance has a block and a pod, which stay.
#[test]
fn without_any_state_uninstall_removes_all_that_it_finds() {
    let (topology, runtime) = Node::without_agent();
    let netns = topology.node.netns.clone();
    let routes =
        || ["-4", "-6"].map(|flag| run_in(&netns, "ip", &[flag, "route", "show", "type", "unreachable"]));
    let reserved = || netns.enter(|| sysctl::read("net/ipv4/ip_local_reserved_ports")).unwrap().unwrap();
    netns.enter(|| sysctl::write("net/ipv4/ip_local_reserved_ports", "8080")).unwrap().unwrap();
    let mut node = Node::with_agent(topology, runtime, &format!("{ROOM}\n[snat]\nports = \"41000-41999\""));
    node.wait_ready();
    let pods = ["a", "b"].map(|name| node.pod(name));
    node.reconfigure(&format!("{ROOM}\n[snat]\nports = \"42000-42999\""));
    until("other ports", || reserved() == "8080,42000-42999");
    let stranger = ["route", "add", "unreachable", "10.99.0.0/24", "proto", "110"];
    assert_eq!(run_in(&netns, "ip", &stranger), "");
    assert_eq!(routes().map(|text| text.matches("proto 110").count()), [2, 1], "{:?}", routes());
    drop(pods);
    node.kill();
    for file in [MAIN, COPY] {
        fs::write(file, "damaged").expect("written");
    }
    let refused = node.netpath(&["uninstall"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("uninstall --force"), "{refused:?}");
    let forced = node.netpath(&["uninstall", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    let links = node.runtime.block_on(node.topology.node.netlink.links()).expect("links");
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "up0"]);
    let said = String::from_utf8_lossy(&forced.stderr);
    assert_eq!(reserved(), "8080");
    let [v4, v6] = routes();
    assert!(v4.trim().starts_with("unreachable 10.99.0.0/24") && v4.lines().count() == 1, "{v4}");
    assert!(!v6.contains("proto 110"), "{v6}");
    // What may be somebody else's is told, and nothing else.
    let left: Vec<_> =
        said.lines().filter_map(|line| line.split_once("left: ")).map(|(_, what)| what).collect();
    for (what, words) in left.iter().zip([
        "route unreachable 10.99.0.0/24, ",
        "accept_ra=2 of up0: ",
        "namespace /run/netns/a, ",
        "namespace /run/netns/b, ",
    ]) {
        assert!(what.contains(words), "{words}: {said}");
    }
    assert_eq!(left.len(), 4, "{said}");
    assert!(String::from_utf8_lossy(&forced.stdout).contains("but for what is listed"), "{forced:?}");
    for name in ["a", "b"] {
        assert_eq!(run_in(&netns, "ip", &["netns", "delete", name]), "");
    }
    assert!(!Path::new(tidy::PINS).exists() && !Path::new(MAIN).exists() && !Path::new(COPY).exists());
    node.restart();
}
