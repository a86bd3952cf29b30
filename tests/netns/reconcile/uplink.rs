//! The uplink under live flows.

use netpath::api::types::FlowFilter;
use netpath_tests::{for_both_families, node::Node, scene::Family, tidy, wait::until};

use super::{
    ANNOUNCED, Breakage, Live, Scene,
    live::{connection, exchange},
    programs_on, shell,
};

for_both_families!(the_uplink_comes_and_goes);

const BACK: &str =
    "ip -4 route add default via 198.18.0.1 dev up0; ip -6 route add default via 2001:db8:18::1 dev up0";

fn the_uplink_comes_and_goes(family: Family) {
    let mut scene = Scene::new(&family, "");
    let flag = scene.side.flag();
    let with_v6 = "ip addr show dev up0 | grep -q 2001: || ip addr add 2001:db8:18::2/64 dev up0 nodad";
    let rows = [
        ("default route gone and back", format!("ip {flag} route del default; {}", default(&scene)), true),
        ("down and up", format!("ip link set up0 down; ip link set up0 up; {with_v6}; {BACK}"), true),
        (
            "an address more",
            "ip addr add 198.18.0.9/32 dev up0; ip addr add 2001:db8:18::9/128 dev up0".into(),
            false,
        ),
        (
            "an address less",
            "ip addr del 198.18.0.9/32 dev up0; ip addr del 2001:db8:18::9/128 dev up0".into(),
            false,
        ),
        ("renamed and back", "ip link set up0 name wan0; ip link set wan0 name up0".into(), false),
    ];
    let old = netpath_tests::kernel::lacks((6, 2), "renaming an interface that is up");
    for (name, breaks, disturbs) in rows {
        if old && name.starts_with("renamed") {
            continue;
        }
        let breakage = Breakage { name, netns: scene.netns(), breaks, disturbs, within: ANNOUNCED };
        scene.is_repaired(&breakage, || {
            let said = programs_on(scene.netns(), "up0");
            (!said.contains("from_uplink") || !said.contains("to_uplink")).then_some(said)
        });
    }
    if !old {
        renamed(&scene);
    }
    recreated(&mut scene);
    until("no problem is left", || scene.problems().is_empty());
}

/// While its programs are gone the node's own stack resets what arrives of connections through SNAT; one that is silent goes on
/// with its port.
fn recreated(scene: &mut Scene) {
    let addresses = "ip addr add 198.18.0.2/30 dev up0; ip addr add 2001:db8:18::2/64 dev up0 nodad";
    let recreated = format!(
        "ip link add up0 type veth peer name to-node netns router; {addresses}; \
         ip link set up0 up; ip -n router addr add 198.18.0.1/30 dev to-node; \
         ip -n router addr add 2001:db8:18::1/64 dev to-node nodad; ip -n router link set to-node up; {BACK}"
    );
    let outside = (&scene.node.topology.outside.netns, scene.side.outside);
    let (mut stream, mut peer) =
        connection((&scene.a.netns, scene.side.address(&scene.a)), (outside.0, outside.1));
    exchange(&mut stream, &mut peer).expect("before");
    let port = peer.peer_addr().expect("translated");
    assert_eq!(shell(scene.netns(), "ip link del up0"), "");
    // The agent has seen that its address is gone, not only that it is another link's.
    scene.wait("gone", ANNOUNCED, || {
        let status = scene.node.runtime.block_on(scene.node.client.status()).expect("status");
        (!status.uplinks.is_empty()).then(|| format!("{:?}", status.uplinks))
    });
    let said = shell(scene.netns(), &recreated);
    assert_eq!(said, "", "not recreated");
    scene.wait("recreated", ANNOUNCED, || {
        let said = programs_on(scene.netns(), "up0");
        (!said.contains("from_uplink") || !said.contains("to_uplink")).then_some(said)
    });
    // From outside: to a packet of the pod it would be given the same port, if that is free.
    exchange(&mut peer, &mut stream).expect("it goes on");
    let flows = scene
        .node
        .runtime
        .block_on(
            scene.node.client.flows_by(&FlowFilter { port: Some(port.port()), ..FlowFilter::default() }),
        )
        .expect("flows");
    assert!(flows.iter().any(|flow| flow.translated_source == Some(port.ip())), "{flows:?}");
    let c = scene.node.pod("c");
    scene.live = Live::start(&scene.node, &scene.side, &scene.a, &c);
}

/// A configured uplink that is not there is told, while the interface goes on under its other name.
fn renamed(scene: &Scene) {
    let breakage = Breakage {
        name: "renamed",
        netns: scene.netns(),
        breaks: "ip link set up0 name wan0".into(),
        disturbs: false,
        within: ANNOUNCED,
    };
    let told = |problems: Vec<String>| problems.iter().any(|problem| problem.starts_with("uplink up0: "));
    scene.is_repaired(&breakage, || (!told(scene.problems())).then(|| "no problem is told".to_owned()));
    let breakage =
        Breakage { name: "its name is back", breaks: "ip link set wan0 name up0".into(), ..breakage };
    scene.is_repaired(&breakage, || told(scene.problems()).then(|| "the problem stays".to_owned()));
}

fn default(scene: &Scene) -> String {
    format!("ip {} route add default via {} dev up0", scene.side.flag(), scene.side.router)
}

#[test]
fn an_interface_that_is_no_uplink_any_more_has_no_programs() {
    for attach in ["auto", "clsact"] {
        let test = move || no_uplink_any_more(&format!("[datapath]\nattach = \"{attach}\""));
        std::thread::scope(|threads| threads.spawn(test).join().expect("none"));
    }
}

fn no_uplink_any_more(configuration: &str) {
    let (topology, runtime) = Node::without_agent();
    let netns = topology.node.netns.clone();
    assert_eq!(shell(&netns, "ip link add up1 type veth peer name other && ip link set up1 up"), "");
    // The default routes name the uplinks, one a family.
    let mut node = Node::with_agent(topology, runtime, &format!("uplinks = []\n{configuration}"));
    node.wait_ready();
    node.pod("a");
    let programs = || programs_on(&netns, "up1");
    assert_eq!(shell(&netns, "ip -4 route replace default dev up1"), "");
    until("up1 has programs", || programs().contains("from_uplink") && programs().contains("to_uplink"));
    assert_eq!(shell(&netns, "ip -4 route replace default via 198.18.0.1 dev up0"), "");
    until("up1 has no programs", || programs().is_empty());
    until("up1 has no qdisc of ours", || !shell(&netns, "tc qdisc show dev up1").contains("clsact"));
    assert_eq!(shell(&netns, "ip link del up1"), "");
    tidy::check(&node, &["a"]);
}
