//! Ports of nodes that pods do not reach, with real nodes and connections.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use netpath::{api::types::NetworkSet, lab::checks::LabPod, net::Netns};
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    scene::Family,
    wait,
};

use super::direct::{on_link, ping};

for_both_families!(
    etcd_protected_ports_are_refused_to_pods_on_every_node,
    etcd_protected_ports_are_refused_to_pods_of_other_nodes,
    etcd_protected_ports_are_refused_to_pods_of_other_nodes_by_vxlan,
    etcd_the_agents_own_port_is_refused_to_pods,
);

const PROTECTED: u16 = 2379;
const OPEN: u16 = 2381;
/// Long enough for an answer on this machine; what is refused gets none.
const ANSWERED: Duration = Duration::from_millis(700);

/// Has somebody listen on a node, on any of its addresses, who sends back what comes; he ends with the test's process.
fn listen(node: &ClusterMember, port: u16) {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = node.space.netns.enter(|| TcpListener::bind(any)).expect("namespace").expect("listener");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
}

fn connect(from: &Netns, to: (IpAddr, u16)) -> Option<TcpStream> {
    let connect = || TcpStream::connect_timeout(&to.into(), ANSWERED);
    from.enter(connect).expect("namespace").ok()
}

/// Whether something said on a connection comes back.
fn answers(mut stream: &TcpStream) -> bool {
    let mut said = [0];
    stream.set_read_timeout(Some(ANSWERED)).expect("time-out");
    stream.write_all(b"x").and_then(|()| stream.read_exact(&mut said)).is_ok()
}

/// Addresses of a node: on its uplink, and another of its own.
fn addresses(node: &ClusterMember, family: &Family) -> [IpAddr; 2] {
    let other: IpAddr = if family.is_v4() {
        Ipv4Addr::new(192, 0, 2, 200).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0xaa, 0, 0, 0, 0, 200).into()
    };
    [on_link(node, family), other]
}

fn refused(node: &ClusterMember) -> u64 {
    node.drops("ProtectedPort")
}

/// Waits until a pod reaches a port, or reaches it no more.
fn wait_reached(what: &str, pod: &LabPod, to: (IpAddr, u16), reached: bool) {
    wait::until(&format!("{what}: {to:?} is reached: {reached}"), || {
        connect(&pod.netns, to).is_some() == reached
    });
}

pub(super) fn etcd_protected_ports_are_refused_to_pods_on_every_node(family: Family) {
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let pod = one.named("a");
    let own = addresses(one, &family);
    let prefix = if family.is_v4() { 32 } else { 128 };
    assert_eq!(one.run("ip", &["address", "add", &format!("{}/{prefix}", own[1]), "dev", "lo"]), "");
    for node in [one, two] {
        [PROTECTED, OPEN].into_iter().for_each(|port| listen(node, port));
    }
    let all = [own[0], own[1], on_link(two, &family)];
    let before: Vec<_> = all
        .iter()
        .map(|to| {
            wait_reached("without the setting", &pod, (*to, PROTECTED), true);
            connect(&pod.netns, (*to, PROTECTED)).expect("connected")
        })
        .collect();
    assert!(before.iter().all(answers));
    one.reconfigure(&format!("protect = [\"udp:9\", \"tcp:{PROTECTED}\"]"));
    for (to, old) in all.iter().zip(&before) {
        wait_reached("with the setting", &pod, (*to, PROTECTED), false);
        wait::until("what is older than the setting is refused as well", || !answers(old));
        wait_reached("another port", &pod, (*to, OPEN), true);
        assert!(ping(&pod.netns, &[], *to).contains("1 received"), "{to}");
        assert!(connect(&one.space.netns, (*to, PROTECTED)).is_some(), "the node itself reaches {to}");
    }
    assert!(refused(one) >= 6, "told: {}", refused(one));
    assert_eq!(refused(two), 0, "the pod's own node refuses it, in whose name it would have spoken");
    assert!(connect(&pod.netns, (on_link(two, &family), OPEN)).is_some());
    one.reconfigure("");
    for to in all {
        wait_reached("without the setting again", &pod, (to, PROTECTED), true);
    }
    for node in &cluster.nodes {
        node.wait_well();
    }
}

/// With their own addresses: a network that does not masquerade.
fn refused_to_pods_of_others(family: Family, line: &str) {
    let cluster = Cluster::start_with(2, line);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let plain = NetworkSet { masquerade: Some(false), ..NetworkSet::default() };
    cluster.runtime.block_on(one.client.network_set("default", &plain)).expect("network");
    let pod = one.named("a");
    [PROTECTED, OPEN].into_iter().for_each(|port| listen(two, port));
    let to = on_link(two, &family);
    wait_reached("without the setting", &pod, (to, PROTECTED), true);
    let old = connect(&pod.netns, (to, PROTECTED)).expect("connected");
    assert!(answers(&old));
    two.reconfigure(&format!("protect = [\"tcp:{PROTECTED}\"]"));
    wait_reached("refused by the node that is asked", &pod, (to, PROTECTED), false);
    assert!(!answers(&old), "also what is older");
    wait_reached("another port", &pod, (to, OPEN), true);
    assert!(refused(two) > 0 && refused(one) == 0, "{} {}", refused(one), refused(two));
}

pub(super) fn etcd_protected_ports_are_refused_to_pods_of_other_nodes(family: Family) {
    refused_to_pods_of_others(family, "");
}

pub(super) fn etcd_protected_ports_are_refused_to_pods_of_other_nodes_by_vxlan(family: Family) {
    refused_to_pods_of_others(family, "backend = \"vxlan\"");
}

pub(super) fn etcd_the_agents_own_port_is_refused_to_pods(family: Family) {
    const METRICS: u16 = 9464;
    let cluster = Cluster::start(2);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let pod = one.named("a");
    let listen = format!("metrics.listen = [\"0.0.0.0:{METRICS}\", \"[::]:{METRICS}\"]\n");
    let both = [one, two].map(|node| (on_link(node, &family), METRICS));
    for (pods, reached) in [(false, false), (true, true)] {
        for node in [one, two] {
            node.reconfigure(&format!("{listen}metrics.pods = {pods}\n"));
        }
        for to in both {
            wait::until("metrics are served", || connect(&one.space.netns, to).is_some());
            wait_reached("metrics", &pod, to, reached);
        }
    }
    assert!(refused(one) > 0 && refused(two) == 0, "{} {}", refused(one), refused(two));
}
