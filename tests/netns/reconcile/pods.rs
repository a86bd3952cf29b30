//! A pod's link on both sides, its neighbours, routes, addresses, rules and programs.

use netpath::{
    api::types::{NetworkAdd, PodAdd},
    net::Netns,
};
use netpath_tests::{for_both_families, kernel::older, node::Node, scene::Family, side::Side, tidy::settled};

use super::{ANNOUNCED, Breakage, Live, PASS, Scene, programs_on, read, shell};

for_both_families!(
    the_nodes_side_of_a_pod_comes_back,
    the_inside_of_a_pod_comes_back,
    programs_of_a_pod_come_back,
    what_is_not_ours_stays_as_it_was_set,
    the_rules_of_a_second_interface_come_back,
);

/// Name of a breakage, what breaks, what shows it, the words of what is whole, and whether live flows may lose packets.
type Row = (&'static str, String, String, String, bool);

fn rows_outside(scene: &Scene) -> Vec<Row> {
    let (host, own, flag) = (&scene.a.pod.interface, scene.side.address(&scene.a), scene.side.flag());
    // Kernels before 6.2 rename only what is down.
    let rename = format!(
        "ip link set {host} name moved 2>/dev/null || {{ ip link set {host} down; ip link set {host} name moved; }}"
    );
    let (link, version) = (format!("ip link show {host}"), if scene.side.v6 { "ipv6" } else { "ipv4" });
    let forwarding = format!("net/{version}/conf/{host}/forwarding");
    vec![
        (
            "host route deleted",
            format!("ip {flag} route del {own} dev {host}"),
            format!("ip {flag} route show {own}"),
            format!("dev {host}"),
            false,
        ),
        (
            "host route in other hands",
            format!(
                "ip {flag} route del {own} dev {host}; ip {flag} route add unreachable {own} metric 4000"
            ),
            format!("ip {flag} route show {own}"),
            format!("dev {host}"),
            false,
        ),
        ("host end down", format!("ip link set {host} down"), link.clone(), "state UP".into(), true),
        ("host end renamed", rename, link.clone(), format!("{host}@"), older((6, 2))),
        ("MTU changed", format!("ip link set {host} mtu 1300"), link.clone(), "mtu 1500".into(), false),
        (
            "MAC changed",
            format!("ip link set {host} address 02:00:00:00:00:99"),
            link,
            "02:6e:70:00:00:01".into(),
            false,
        ),
        (
            "neighbour of the host end deleted",
            format!("ip neigh del {own} dev {host}"),
            format!("ip neigh show {own} dev {host}"),
            "PERMANENT".into(),
            false,
        ),
        (
            "forwarding off",
            format!("echo 0 >/proc/sys/{forwarding}"),
            format!("cat /proc/sys/{forwarding}"),
            "1".into(),
            true,
        ),
        (
            "addresses flushed",
            format!("ip addr flush dev {host}"),
            format!("ip {flag} route show {own}"),
            format!("dev {host}"),
            false,
        ),
    ]
}

fn the_nodes_side_of_a_pod_comes_back(family: Family) {
    let scene = Scene::new(&family, "");
    for (name, breaks, shows, words, disturbs) in rows_outside(&scene) {
        let breakage = Breakage { name, netns: scene.netns(), breaks, disturbs, within: ANNOUNCED };
        scene.comes_back(&breakage, &shows, &words);
    }
    scene.wait_well();
}

fn rows_inside(scene: &Scene) -> Vec<Row> {
    let (own, flag) = (scene.side.address(&scene.a), scene.side.flag());
    let (gateway, length) = if scene.side.v6 { ("fe80::1", 128) } else { ("169.254.1.1", 32) };
    let rename =
        "ip link set eth0 name other 2>/dev/null || { ip link set eth0 down; ip link set eth0 name other; }";
    let old = older((6, 2));
    vec![
        (
            "gateway's neighbour flushed",
            format!("ip neigh del {gateway} dev eth0"),
            format!("ip neigh show {gateway} dev eth0"),
            "PERMANENT".into(),
            false,
        ),
        (
            "default route deleted",
            format!("ip {flag} route del default"),
            format!("ip {flag} route show default"),
            gateway.to_owned(),
            true,
        ),
        (
            "address deleted",
            format!("ip addr del {own}/{length} dev eth0"),
            format!("ip {flag} addr show dev eth0"),
            format!("{own}/"),
            true,
        ),
        ("peer renamed", rename.into(), "ip link show eth0".into(), "eth0@".into(), old),
        (
            "peer down",
            "ip link set eth0 down".into(),
            format!("ip {flag} route show default"),
            gateway.into(),
            true,
        ),
        (
            "loopback down",
            "ip link set lo down".into(),
            "ip link show lo".into(),
            "LOOPBACK,UP".into(),
            false,
        ),
    ]
}

fn the_inside_of_a_pod_comes_back(family: Family) {
    let scene = Scene::new(&family, "");
    for (name, breaks, shows, words, disturbs) in rows_inside(&scene) {
        let breakage = Breakage { name, netns: &scene.a.netns, breaks, disturbs, within: ANNOUNCED };
        scene.comes_back(&breakage, &shows, &words);
    }
    if scene.side.v6 {
        let disable = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        let breakage = Breakage {
            name: "IPv6 off in the pod",
            netns: &scene.a.netns,
            breaks: format!("echo 1 >{disable}"),
            disturbs: true,
            within: ANNOUNCED,
        };
        scene.comes_back(&breakage, &format!("cat {disable}"), "0");
    }
    scene.wait_well();
}

fn programs_of_a_pod_come_back(family: Family) {
    let all = ["clsact", "auto", "tcx"];
    // Without tcx all are the first.
    for attach in if older((6, 6)) { &all[..1] } else { &all } {
        std::thread::scope(|threads| {
            threads.spawn(move || programs(&family, attach)).join().expect("they come back");
        });
    }
}

fn programs(family: &Family, attach: &str) {
    let clsact = attach == "clsact";
    let scene = Scene::new(family, &format!("[datapath]\nattach = \"{attach}\""));
    let (host, ifindex) = (&scene.a.pod.interface, scene.a.pod.ifindex);
    let pin = format!("$(find /sys/fs/bpf/netpath/default -name '{ifindex}-from_pod')");
    let rows: &[(&str, String)] = if clsact {
        &[
            ("filter deleted", format!("tc filter del dev {host} ingress")),
            ("qdisc deleted", format!("tc qdisc del dev {host} clsact")),
        ]
    } else {
        let id = format!("bpftool link show pinned {pin} | sed -n 's/^\\([0-9]*\\):.*/\\1/p'");
        &[
            ("pin of the link removed", format!("rm {pin}")),
            ("link detached", format!("bpftool link detach id $({id})")),
        ]
    };
    for (name, breaks) in rows {
        let breakage = Breakage {
            name,
            netns: scene.netns(),
            breaks: breaks.clone(),
            disturbs: true,
            within: if clsact { ANNOUNCED } else { PASS },
        };
        settled(&scene.node);
        scene.is_repaired(&breakage, || {
            let said = programs_on(scene.netns(), host);
            // By a filter it comes back sooner, which has none.
            let filters = shell(scene.netns(), &format!("tc filter show dev {host} ingress"));
            let pinned = filters.contains("from_pod")
                || shell(scene.netns(), &format!("ls {pin}")).ends_with("from_pod\n");
            (!said.contains("from_pod") || !said.contains("to_pod") || !pinned).then_some(said)
        });
    }
    scene.wait_well();
}

/// Sysctls that netpath does not need are whoever's set them, and flows go on whatever they say.
fn what_is_not_ours_stays_as_it_was_set(family: Family) {
    let scene = Scene::new(&family, "");
    let host = &scene.a.pod.interface;
    for (key, value) in
        [("rp_filter", "1"), ("accept_local", "1"), ("arp_ignore", "2"), ("send_redirects", "0")]
    {
        let file = format!("net/ipv4/conf/{host}/{key}");
        let breakage = Breakage {
            name: key,
            netns: scene.netns(),
            breaks: format!("echo {value} >/proc/sys/{file}"),
            disturbs: false,
            within: ANNOUNCED,
        };
        scene.is_repaired(&breakage, || None);
        // A repair that follows leaves it alone.
        let route = Breakage {
            name: "host route deleted",
            netns: scene.netns(),
            breaks: format!("ip route del {} dev {host}", scene.a.address),
            disturbs: false,
            within: ANNOUNCED,
        };
        scene.comes_back(&route, &format!("ip route show {}", scene.a.address), host);
        assert_eq!(read(scene.netns(), &file), value, "{key}");
    }
}

fn the_rules_of_a_second_interface_come_back(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let back = NetworkAdd {
        name: "back".into(),
        subnets: ["10.62.0.0/24", "fd00:62::/64"].map(|subnet| subnet.parse().expect("subnet")).into(),
        ..NetworkAdd::default()
    };
    node.runtime.block_on(node.client.network_add(&back)).expect("network");
    let networks = vec!["default".to_owned(), "back".to_owned()];
    let pod = node.add(&PodAdd { name: "two".into(), networks, ..PodAdd::default() });
    let netns = Netns::open(pod.netns.as_ref()).expect("namespace");
    let own = pod.interfaces[1].addresses.iter().find(|own| own.is_ipv6() == side.v6).expect("an address");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let live = Live::start(&node, &side, &a, &b);
    let scene = Scene { live, side, a, node };
    let flag = side.flag();
    for (name, breaks, shows, words) in [
        (
            "rule deleted",
            format!("ip {flag} rule del from {own}"),
            format!("ip {flag} rule"),
            own.to_string(),
        ),
        (
            "route of the second table deleted",
            format!("ip {flag} route flush table 111"),
            format!("ip {flag} route show table 111"),
            "default".to_owned(),
        ),
    ] {
        let breakage = Breakage { name, netns: &netns, breaks, disturbs: false, within: ANNOUNCED };
        scene.comes_back(&breakage, &shows, &words);
    }
}
