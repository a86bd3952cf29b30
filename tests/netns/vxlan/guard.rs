//! Who is let in by tunnels, and what becomes of them while agents, nodes and devices come and go.

use std::{
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd,
};

use netpath::{lab::topology, net::Netns};
use netpath_common::abi::TUNNEL_MAC;
use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    packet::Frame,
    scene::{Family, GATEWAY_MAC},
    side::Echo,
    traffic::Traffic,
    wait,
};

use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use socket2::{Domain, Socket, Type};

use super::device;
use crate::direct::{address, of, on_link, ping};

for_both_families!(
    etcd_vxlan_of_strangers_and_forged_sources_is_dropped,
    etcd_vxlan_goes_on_while_agents_are_dead,
    etcd_vxlan_device_comes_back_and_goes_with_the_cluster,
);

const PORT: u16 = 4789;
const VNI: u32 = 110;

/// Sends a datagram as tunnels have them.
fn knock(from: &Netns, source: IpAddr, to: IpAddr, vni: u32, inner: &Frame) {
    let socket = from.enter(|| UdpSocket::bind((source, 0))).expect("namespace").expect("socket");
    let [_, a, b, c] = vni.to_be_bytes();
    let head = [8, 0, 0, 0, a, b, c, 0];
    socket.send_to(&[&head[..], &inner.clone().bytes()].concat(), (to, PORT)).expect("sent");
}

pub(super) fn etcd_vxlan_of_strangers_and_forged_sources_is_dropped(family: Family) {
    let mut cluster = Cluster::start_with(2, "backend = \"vxlan\"");
    cluster.join_far();
    cluster.wait_known();
    let [one, two, far] = &cluster.nodes[..] else { panic!("three nodes") };
    let (a, b, c) = (one.named("a"), two.named("b"), far.named("c"));
    let [at_a, at_b, at_c] = [&a, &b, &c].map(|pod| address(pod, &family));
    wait::until("c answers", || ping(&a.netns, &["-W", "1"], at_c).contains("1 received"));
    let served = a.netns.enter(|| UdpSocket::bind((at_a, 7777))).expect("namespace").expect("server");
    served.set_read_timeout(Some(std::time::Duration::from_millis(1))).expect("time-out");
    let frame = |source| {
        let inner = Frame::udp((source, 5000), (at_a, 7777)).payload(b"forged".into());
        inner.macs(GATEWAY_MAC, TUNNEL_MAC)
    };
    let to = on_link(one, &family);
    let stranger = topology::outside(of(&family));
    let own = |node| on_link(node, &family);
    for (name, netns, source, vni, inner, reason) in [
        ("a stranger", &cluster.outside.netns, stranger, VNI, at_b, "ForeignTunnel"),
        ("another VNI", &two.space.netns, own(two), VNI + 1, at_b, "ForeignTunnel"),
        ("another node's pod", &two.space.netns, own(two), VNI, at_c, "SpoofedSource"),
        ("a pod here", &two.space.netns, own(two), VNI, at_a, "SpoofedSource"),
        ("nobody of the cluster", &far.space.netns, own(far), VNI, stranger, "SpoofedSource"),
        ("another node", &far.space.netns, own(far), VNI, own(two), "SpoofedSource"),
    ] {
        let before = one.drops(reason);
        knock(netns, source, to, vni, &frame(inner));
        wait::until(name, || one.drops(reason) > before);
        assert!(served.recv_from(&mut [0; 16]).is_err(), "{name}");
    }
    // A pod does not get as far as the wire, in whose name ever.
    let before = two.drops("ForeignTunnel");
    knock(&b.netns, at_b, to, VNI, &frame(at_b));
    wait::until("a pod", || two.drops("ForeignTunnel") > before);
    // Without a tunnel around it nobody's pod comes in by the uplink.
    let before = one.drops("SpoofedSource");
    let wire = &cluster.router.netns;
    netpath_tests::node::add_address(wire, at_b, "lo");
    let host = ipnet::IpNet::from(at_a).to_string();
    netpath_tests::node::run_in(wire, "ip", &["route", "add", &host, "via", &to.to_string()]);
    let said = ping(wire, &["-W", "1", "-I", &at_b.to_string()], at_a);
    assert!(said.contains("0 received") && one.drops("SpoofedSource") > before, "{said}");
    tagged(one, wire, at_b, to);
    // What is right comes in by the same way.
    served.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("time-out");
    knock(&two.space.netns, own(two), to, VNI, &frame(at_b));
    let (_, seen) = served.recv_from(&mut [0; 16]).expect("a datagram");
    assert_eq!(seen.ip(), at_b);
}

/// A tag that has only a priority is none, for the stack of the node as well.
fn tagged(node: &ClusterMember, wire: &Netns, source: IpAddr, to: IpAddr) {
    let link = node.run("ip", &["-o", "link", "show", "up0"]);
    let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).expect("address");
    let parts: Vec<_> = mac.split(':').map(|part| u8::from_str_radix(part, 16).expect("number")).collect();
    let plain =
        Frame::udp((source, 5000), (to, 5000)).macs(GATEWAY_MAC, parts.try_into().expect("six")).bytes();
    let frame = [&plain[..12], &[0x81, 0, 0x20, 0], &plain[12..]].concat();
    let socket = wire.enter(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("packet socket");
        let mut links = getifaddrs().expect("links").filter(|link| link.interface_name == "to-nodes");
        let link = links.find_map(|link| link.address?.as_link_addr().copied()).expect("link");
        bind(socket.as_raw_fd(), &link).expect("bound");
        socket
    });
    let before = node.drops("SpoofedSource");
    socket.expect("namespace").send(&frame).expect("sent");
    wait::until("a pod's name behind a tag", || node.drops("SpoofedSource") > before);
}

pub(super) fn etcd_vxlan_goes_on_while_agents_are_dead(family: Family) {
    let mut cluster = Cluster::start(1);
    cluster.join_far();
    cluster.wait_known();
    let (a, b) = (cluster.nodes[0].named("a"), cluster.nodes[1].named("b"));
    let (from, to) = (address(&a, &family), address(&b, &family));
    for (pod, there) in [(&a, to), (&b, from)] {
        wait::until("it answers", || ping(&pod.netns, &["-W", "1"], there).contains("1 received"));
    }
    let echo = Echo::start(&b.netns, to);
    let mut traffic = Traffic::default();
    traffic.datagrams("datagrams", &a.netns, echo.address);
    traffic.datagrams("of the node", &cluster.nodes[0].space.netns, echo.address);
    traffic.pings("pings", &b.netns, from);
    traffic.stream(&a.netns, &b.netns, to);
    traffic.short_connections(&b.netns, &a.netns, from);
    traffic.moves("before");
    for at in 0..2 {
        cluster.nodes[at].kill();
    }
    traffic.moves("without agents");
    for at in 0..2 {
        cluster.nodes[at].restart();
        traffic.moves("after a crash");
    }
    wait::until("nothing is wrong", || cluster.nodes.iter().all(|node| node.problems().is_empty()));
    traffic.moves("with agents again");
    let totals = traffic.finish();
    assert!(totals.lost == 0 && totals.reset == 0 && totals.streamed > 0, "{totals:?}");
}

pub(super) fn etcd_vxlan_device_comes_back_and_goes_with_the_cluster(family: Family) {
    let mut cluster = Cluster::start(1);
    cluster.join_far();
    cluster.wait_known();
    let (a, b) = (cluster.nodes[0].named("a"), cluster.nodes[1].named("b"));
    let to = address(&b, &family);
    let answers = || ping(&a.netns, &["-W", "1"], to).contains("1 received");
    wait::until("it answers", answers);
    let one = &cluster.nodes[0];
    let name = device(one);
    for spoilt in [
        &["link", "del", &name][..],
        &["link", "set", &name, "down"],
        &["route", "del", &cluster.nodes[1].blocks()[usize::from(!family.is_v4())].to_string()],
    ] {
        assert_eq!(one.run("ip", spoilt), "", "{spoilt:?}");
        wait::until(&format!("it answers again: {spoilt:?}"), answers);
        wait::until("nothing is wrong", || one.problems().is_empty());
    }
    let log = std::fs::read_to_string("/mnt/node1/agent.log").expect("log");
    assert_eq!(log.matches("made for tunnels").count(), 2, "told both times");
    // Another instance's links stay; this node's go as it leaves, and by an uninstallation.
    cluster.runtime.block_on(one.client.pod_rm("a")).expect("removed");
    let left = one.netpath(&["node", "leave"]);
    assert!(left.status.success(), "{left:?}");
    wait::until("no device", || one.run("ip", &["link", "show", "type", "vxlan"]).is_empty());
    let far = &mut cluster.nodes[1];
    far.kill();
    far.restart();
    cluster.runtime.block_on(cluster.nodes[1].client.pod_rm("b")).expect("removed");
    let done = cluster.nodes[1].netpath(&["uninstall"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(cluster.nodes[1].run("ip", &["link", "show", "type", "vxlan"]), "");
    let routes = cluster.nodes[1].run("ip", &["route"]);
    assert!(!routes.contains("10.64."), "{routes}");
}
