//! Tunnels to other nodes: what `from_pod` gives them, `to_overlay` tells them, and `from_overlay` takes from them.
//!
//! BPF_PROG_TEST_RUN knows no tunnels, so `from_overlay` gets real ones: datagrams by the loopback to the tunnels' device.

use std::{
    net::{IpAddr, UdpSocket},
    process::Command,
};

use netpath_common::abi::{DropReason, ROUTE_PEER, ROUTE_TUNNEL, Route, RouteKind, TUNNEL_MAC, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ErrorKind, Frame, SYN, fragments, see},
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, ROUTER_MAC, Scene, Talk},
    wait,
};

for_both_families!(
    pods_of_nodes_behind_tunnels_are_reached_by_them,
    a_tunnel_is_told_its_end_and_nobody_elses_packets,
    a_tunnel_brings_what_its_node_has,
    a_tunnel_brings_nothing_else,
    no_pod_speaks_as_a_node_to_a_tunnel,
);

const VNI: u32 = 7;
const PORT: u16 = 4789;
const MTU: u16 = 1450;

/// The route of a block or an address of the node at the other end.
fn route(kind: RouteKind, flags: u8, node: IpAddr) -> Route {
    Route { flags: ROUTE_PEER | flags, vni: VNI, node: node.into(), ..Route::new(kind, false) }
}

/// A node there, `f.other`, and its pod, `f.outside`. The tunnels' device is `vpn0`.
fn scene(f: &Family) -> Scene {
    let mut scene = Scene::new();
    scene.all_belong(&[
        (f.outside, route(RouteKind::Tunnel, 0, f.other)),
        (f.other, route(RouteKind::Stack, ROUTE_TUNNEL, f.other)),
    ]);
    let tunnel = scene.vpn;
    scene.set_node(|node| {
        (node.tunnel, node.tunnel_mtu, node.tunnel_port) = (tunnel, MTU, PORT.to_be());
    });
    scene
}

fn pods_of_nodes_behind_tunnels_are_reached_by_them(f: Family) {
    let mut scene = scene(&f);
    for talk in Talk::ALL {
        let question = talk.question((f.a, 1000), f.outside);
        let packet = question.clone().macs(scene.a.mac, GATEWAY_MAC).bytes();
        let ran = scene.from_a(&packet);
        ran.assert_forwarded("to a pod", &packet);
        assert_eq!(ran.macs(), (GATEWAY_MAC, TUNNEL_MAC), "as the device there takes it");
        let routed = scene.traffic(TrafficClass::Routed);
        scene.expect_no_drop("counted", |scene| scene.a_says(question));
        assert_eq!(scene.traffic(TrafficClass::Routed), routed + 1);
    }
    assert_eq!(scene.pairs().len(), 0, "no flow: {:?}", scene.pairs());
    // What the stack has to answer or to fragment it gets as it is.
    let least = if f.is_v4() { MTU } else { MTU - 20 };
    for (size, ttl, code) in
        [(least, 64, REDIRECT), (least + 1, 64, NEXT), (100, 1, NEXT), (100, 2, REDIRECT)]
    {
        let head = if f.is_v4() { 28 } else { 48 };
        let frame = Frame::udp((f.a, 5), (f.outside, 6)).ttl(ttl).payload(vec![0; usize::from(size) - head]);
        assert_eq!(scene.a_says(frame).code, code, "{size} bytes, {ttl} hops");
    }
    scene.set_node(|node| node.tunnel = 0);
    let question = Talk::Udp.question((f.a, 1000), f.outside);
    scene.expect_drop("without a device", DropReason::NotReady, |scene| scene.a_says(question));
}

fn a_tunnel_is_told_its_end_and_nobody_elses_packets(f: Family) {
    let scene = scene(&f);
    let frame = |from: IpAddr, to: IpAddr| Frame::udp((from, 5), (to, 6)).macs(GATEWAY_MAC, ROUTER_MAC);
    let told = scene.a_says(frame(f.a, f.outside)).mark;
    let finished = scene.a_says(frame(f.a, f.unmasked)).mark;
    assert!(told != finished && ![told, finished].contains(&0), "{told:#x}, by the uplink {finished:#x}");
    for (name, from, to, ingress, mark) in [
        ("the stack's, for a pod", f.a, f.outside, scene.a.ifindex, 0),
        ("the node's own", f.node, f.outside, 0, 0),
        ("of an earlier build's from_pod, to the node there", f.a, f.other, scene.a.ifindex, finished),
    ] {
        let packet = frame(from, to).bytes();
        let ran = scene.expect_no_drop(name, |scene| scene.to_tunnel(&packet, ingress, mark));
        assert_eq!((ran.code, ran.macs()), (NEXT, (GATEWAY_MAC, TUNNEL_MAC)), "{name}");
        assert_eq!(&ran.packet[12..], &packet[12..], "{name}: no hop, no translation");
        assert_eq!(ran.mark, finished, "{name}: no second look at what is around it");
    }
    // What `from_pod` has told it is not asked again, also an answer to the node there.
    for to in [f.outside, f.other] {
        let packet = frame(f.a, to).bytes();
        let ran = scene.expect_no_drop("told", |scene| scene.to_tunnel(&packet, scene.a.ifindex, told));
        ran.assert_untouched("told", &packet);
        assert_eq!(ran.mark, finished, "no second look at what is around it");
    }
    for (name, from, to, ingress, reason) in [
        ("to nobody", f.node, f.unmasked, 0, DropReason::RouteDrop),
        ("by a pod whose network has no way there", f.a, f.other, scene.a.ifindex, DropReason::Untranslated),
        ("of a pod that has gone", f.nobody, f.outside, scene.a.ifindex, DropReason::Untranslated),
        ("of a pod, by another's link", f.a, f.outside, scene.b.ifindex, DropReason::SpoofedSource),
    ] {
        let packet = frame(from, to).bytes();
        scene.expect_drop(name, reason, |scene| scene.to_tunnel(&packet, ingress, 0));
    }
    let group: IpAddr = if f.is_v4() { [224, 0, 0, 251].into() } else { "ff02::fb".parse().expect("group") };
    let report = frame(f.node, group).bytes();
    let ran = scene.expect_no_drop("the stack's groups", |scene| scene.to_tunnel(&report, 0, 0));
    ran.assert_untouched("the stack's groups", &report);
}

/// The scene with a real device in the place of `vpn0`, and addresses of the loopback as those of nodes.
struct Wire {
    scene: Scene,
    own: IpAddr,
    /// The node of the scene's pod there.
    there: IpAddr,
    /// Another address of it.
    also: IpAddr,
    /// Another node.
    elsewhere: IpAddr,
    stranger: IpAddr,
}

impl Wire {
    fn new(f: &Family) -> Self {
        let mut scene = scene(f);
        let [own, there, also, elsewhere, stranger] = [1, 2, 3, 4, 5].map(|last: u8| -> IpAddr {
            if f.is_v4() {
                [127, 9, 9, last].into()
            } else {
                format!("fd99::{last}").parse().expect("address")
            }
        });
        let ip = |line: &str| {
            let output = Command::new("ip").args(line.split(' ')).output().expect("ip");
            assert!(output.status.success(), "ip {line}: {output:?}");
        };
        ip("link set lo up");
        for address in [own, there, also, elsewhere, stranger] {
            ip(&format!("address add {} dev lo", ipnet::IpNet::from(address)));
        }
        let mac = "02:6e:70:00:00:02";
        ip(&format!("link add tunnel address {mac} type vxlan external dstport {PORT} nolearning"));
        ip("link set tunnel arp off up");
        let index = nix::net::if_::if_nametoindex("tunnel").expect("index");
        scene.datapath.attach_overlay("tunnel", index).expect("attached");
        scene.set_node(|node| node.tunnel = index);
        let node = |node| route(RouteKind::Stack, ROUTE_TUNNEL, node);
        scene.all_belong(&[
            (f.outside, route(RouteKind::Tunnel, 0, there)),
            (there, node(there)),
            (also, node(there)),
            (f.other, node(there)),
            (elsewhere, node(elsewhere)),
        ]);
        Self { scene, own, there, also, elsewhere, stranger }
    }

    /// Sends what a tunnel has.
    fn send(&self, from: IpAddr, vni: u32, inner: &[u8]) {
        let socket = UdpSocket::bind((from, 0)).expect("socket");
        let [_, a, b, c] = vni.to_be_bytes();
        let sent = socket.send_to(&[&[8, 0, 0, 0, a, b, c, 0], inner].concat(), (self.own, PORT));
        sent.expect("sent");
    }

    /// It goes on, as this.
    fn passes(&self, name: &str, class: TrafficClass, from: IpAddr, inner: Frame) {
        let (before, drops) = (self.scene.traffic(class), self.scene.all_drops());
        self.send(from, VNI, &inner.macs(GATEWAY_MAC, TUNNEL_MAC).bytes());
        wait::until(name, || self.scene.traffic(class) > before);
        assert_eq!(self.scene.all_drops(), drops, "{name}");
    }

    /// It is dropped, for this reason and no other.
    fn refuses(&self, name: &str, reason: DropReason, (from, vni): (IpAddr, u32), inner: &[u8]) {
        let (before, all) = (self.scene.drops(reason), self.scene.all_drops());
        self.send(from, vni, inner);
        wait::until(name, || self.scene.drops(reason) > before);
        let more: u64 = self.scene.all_drops().iter().zip(&all).map(|(now, then)| now - then).sum();
        assert_eq!(more, 1, "{name}");
    }
}

fn a_tunnel_brings_what_its_node_has(f: Family) {
    let mut wire = Wire::new(&f);
    let (there, frame) = (wire.there, |from, to| Frame::udp((from, 5000), (to, 6)));
    let inbound = |wire: &Wire, name, from, inner| wire.passes(name, TrafficClass::Inbound, from, inner);
    inbound(&wire, "a pod there", there, frame(f.outside, f.a));
    inbound(&wire, "a pod there, by another address of its node", wire.also, frame(f.outside, f.a));
    let sent = frame(f.a, f.outside).packet();
    let error = Frame::error(f.outside, f.a, ErrorKind::Unreachable(1), &sent, usize::MAX);
    inbound(&wire, "an error of a pod there", there, error);
    inbound(&wire, "part of a datagram", there, Frame::raw(f.outside, f.a, 17).fragment(9, false));
    assert_eq!(wire.scene.pairs().len(), 0, "{:?}", wire.scene.pairs());
    inbound(&wire, "the node there", there, frame(f.other, f.a));
    assert_eq!(wire.scene.pairs().len(), 1, "so that the answer is known: {:?}", wire.scene.pairs());
    let answer = |size| Frame::udp((f.a, 6), (f.other, 5000)).payload(vec![0; size]);
    let seen = see(&wire.scene.a_says(answer(9)).packet);
    assert_eq!((seen.source, seen.destination, seen.ttl), (f.a, f.other, 63));
    wire.scene.set_node(|node| node.tunnel_mtu = 1000);
    assert_eq!(wire.scene.a_says(answer(1100)).code, NEXT, "larger than the tunnel, not than the uplink");
    // What the stack has to answer.
    let stack = |wire: &Wire, name, inner| wire.passes(name, TrafficClass::ToStack, there, inner);
    stack(&wire, "without a hop left", frame(f.outside, f.a).ttl(1));
    let a = wire.scene.a;
    wire.scene.change_endpoint(a, |endpoint| endpoint.mtu = 1280);
    stack(&wire, "larger than the pod's link", frame(f.outside, f.a).payload(vec![0; 1281]));
    // The node's own, and what is left of a pod that has gone: its stack answers.
    let drops = wire.scene.all_drops();
    for to in [f.node, f.nobody] {
        wire.send(there, VNI, &frame(f.outside, to).macs(GATEWAY_MAC, TUNNEL_MAC).bytes());
    }
    inbound(&wire, "behind them", there, frame(f.outside, f.a));
    assert_eq!(wire.scene.all_drops(), drops);
}

fn a_tunnel_brings_nothing_else(f: Family) {
    use DropReason as R;
    let mut wire = Wire::new(&f);
    wire.scene.protect(&[(17, 9)]);
    let frame = |from, to| Frame::udp((from, 5000), (to, 6)).macs(GATEWAY_MAC, TUNNEL_MAC).bytes();
    let (right, good) = ((wire.there, VNI), frame(f.outside, f.a));
    wire.refuses("a stranger", R::ForeignTunnel, (wire.stranger, VNI), &good);
    wire.refuses("another VNI", R::ForeignTunnel, (wire.there, VNI + 1), &good);
    wire.refuses("no VNI", R::ForeignTunnel, (wire.there, 0), &good);
    wire.refuses("another node's pod", R::SpoofedSource, (wire.elsewhere, VNI), &good);
    for (name, from) in [("outside", f.unmasked), ("a pod here", f.b), ("nobody here", f.nobody)] {
        wire.refuses(name, R::SpoofedSource, right, &frame(from, f.a));
    }
    let whole = Frame::udp((f.outside, 5000), (f.node, 9)).payload(vec![7; 2000]).identification(5);
    for part in fragments(whole.macs(GATEWAY_MAC, TUNNEL_MAC), 1000) {
        wire.refuses("a protected port of the node, in parts", R::ProtectedPort, right, &part);
    }
    wire.refuses("on to others", R::RouteDrop, right, &frame(f.outside, f.unmasked));
    wire.refuses("back", R::RouteDrop, right, &frame(f.outside, f.other));
    let other = [&good[..12], &[0x88, 0xcc], &good[14..]].concat();
    wire.refuses("another EtherType", R::UnsupportedProtocol, right, &other);
    let mut damaged = good;
    // A header of two words; of no version.
    damaged[14] = if f.is_v4() { 0x42 } else { 0 };
    wire.refuses("damaged", R::Malformed, right, &damaged);
}

fn no_pod_speaks_as_a_node_to_a_tunnel(f: Family) {
    let mut scene = scene(&f);
    let say = |to, port| Frame::udp((f.a, 1000), (to, port));
    scene.set_node(|node| node.tunnel_port = 0);
    for to in [f.other, f.unreachable] {
        assert_eq!(scene.a_says(say(to, PORT)).code, REDIRECT, "{to}: no cluster");
    }
    let flows = scene.pairs();
    assert_eq!(flows.len(), 2, "{flows:?}");
    // The node joins, with tunnels or without: others have them.
    for tunnel in [scene.vpn, 0] {
        scene.set_node(|node| (node.tunnel, node.tunnel_port) = (tunnel, PORT.to_be()));
        let a = scene.a.ifindex;
        for (name, to, sport) in [
            ("a flow made earlier", f.other, 1000),
            ("a new one", f.other, 1001),
            ("a flow to an address that no node has told of", f.unreachable, 1000),
            ("a new one there", f.unreachable, 1001),
        ] {
            let frame = Frame::udp((f.a, sport), (to, PORT));
            let packet = frame.clone().macs(GATEWAY_MAC, ROUTER_MAC).bytes();
            let reason = DropReason::ForeignTunnel;
            scene.expect_drop(&format!("{name}, by from_pod"), reason, |scene| scene.a_says(frame));
            scene.expect_drop(&format!("{name}, by the stack"), reason, |scene| scene.leaves(&packet, a, 0));
        }
        assert_eq!(scene.pairs().len(), 2, "{:?}", scene.pairs());
    }
    assert_eq!(scene.a_says(say(f.other, PORT + 1)).code, REDIRECT, "another port");
    let other = Frame::tcp((f.a, 1000), (f.other, PORT), SYN);
    assert_eq!(scene.a_says(other).code, REDIRECT, "another protocol");
}
