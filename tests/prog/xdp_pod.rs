//! `xdp_pod`: what takes the short way, and that it leaves everything else to `from_pod`.

use netpath_common::abi::{Link, Program, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Frame, SYN, arp, solicitation},
    scene::{Family, GATEWAY_MAC, NEXT, Pod, REDIRECT, Ran, Scene},
};

use crate::from_pod::to_a_local_pod;

for_both_families!(
    xdp_redirects_to_a_local_pod_as_from_pod_does,
    xdp_leaves_everything_else_to_from_pod,
    xdp_leaves_what_is_damaged_or_forged_to_from_pod,
    xdp_redirects_only_to_pods_that_take_frames,
    xdp_lets_a_pod_of_two_interfaces_send_by_either,
);

fn sends(scene: &Scene, pod: Pod, packet: &[u8]) -> Ran {
    scene.run_xdp(Program::XdpPod, packet, pod.ifindex)
}

/// A scene whose pods both take frames.
fn scene() -> Scene {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.take_frames(a);
    scene.take_frames(b);
    scene
}

fn counted(scene: &Scene, pod: Pod) -> [u64; 4] {
    let counter = scene.datapath.readings().pod_counter(pod.id).expect("counter");
    [counter.tx_packets, counter.tx_bytes, counter.rx_packets, counter.rx_bytes]
}

fn xdp_redirects_to_a_local_pod_as_from_pod_does(f: Family) {
    let scene = scene();
    let (a, b) = (scene.a, scene.b);
    let frames = to_a_local_pod(&f);
    let (mut packets, mut bytes) = (0, 0);
    for (name, frame) in frames {
        let packet = frame.macs(a.mac, GATEWAY_MAC).bytes();
        let ran = scene.expect_no_drop(name, |scene| sends(scene, a, &packet));
        ran.assert_forwarded(name, &packet);
        assert_eq!(ran.macs(), (GATEWAY_MAC, b.mac), "{name}");
        (packets, bytes) = (packets + 1, bytes + packet.len() as u64);
        assert_eq!(counted(&scene, a), [packets, bytes, 0, 0], "{name}");
        assert_eq!(counted(&scene, b), [0, 0, packets, bytes], "{name}");
        assert_eq!(scene.traffic(TrafficClass::Local), packets, "{name}");
    }
    // By both ways the same: checked last, as both count.
    for (name, frame) in to_a_local_pod(&f) {
        let packet = frame.macs(a.mac, GATEWAY_MAC).bytes();
        let (xdp, tc) = (sends(&scene, a, &packet), scene.from_a(&packet));
        assert_eq!((xdp.code, xdp.packet), (tc.code, tc.packet), "{name}");
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

/// Asserts that packets of pod A go on as they came, and that nothing has counted them.
fn left_alone(scene: &Scene, rows: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let classes = || TrafficClass::ALL.map(|class| scene.traffic(class));
    let before = (classes(), counted(scene, scene.a), counted(scene, scene.b));
    for (name, packet) in rows {
        let ran = scene.expect_no_drop(name, |scene| sends(scene, scene.a, &packet));
        ran.assert_untouched(name, &packet);
        assert_eq!((classes(), counted(scene, scene.a), counted(scene, scene.b)), before, "{name}");
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn xdp_leaves_everything_else_to_from_pod(f: Family) {
    let scene = scene();
    let own = |frame: Frame| frame.macs(scene.a.mac, GATEWAY_MAC).bytes();
    let udp = |to| Frame::udp((f.a, 1), (to, 2));
    let about = Frame::udp((f.outside, 53), (f.a, 1)).packet();
    let group = f.pick("224.0.0.251", "ff02::fb").parse::<std::net::IpAddr>().expect("address");
    let mut rows = vec![
        ("last hop", own(udp(f.b).ttl(1))),
        ("no hop", own(udp(f.b).ttl(0))),
        ("larger than the pod's MTU", own(Frame::raw(f.a, f.b, 47).payload(vec![0; 1501 - f.header()]))),
        ("to the node", own(udp(f.node))),
        ("to outside", own(Frame::tcp((f.a, 1), (f.outside, 2), SYN))),
        (
            "ICMP error to outside",
            own(Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &about, usize::MAX)),
        ),
        ("to the gateway", own(Frame::echo(f.a, f.gateway, true, 1, 1))),
        ("to nobody", own(udp(f.nobody))),
        ("to a group", own(udp(group))),
    ];
    if f.is_v4() {
        rows.push(("ARP", arp(true, scene.a.mac, (scene.a.mac, f.a), f.gateway)));
    } else {
        let asked = solicitation(scene.a.mac, f.a, f.gateway, Some(scene.a.mac));
        rows.push(("solicitation", asked.bytes()));
        let asked = solicitation(scene.a.mac, f.a, f.b, Some(scene.a.mac)).to(f.b);
        rows.push(("solicitation for a pod, to it", asked.bytes()));
        rows.push(("link-local source", own(Frame::udp((scene.a.link_local, 1), (f.b, 2)))));
    }
    left_alone(&scene, rows);
}

fn xdp_leaves_what_is_damaged_or_forged_to_from_pod(f: Family) {
    let scene = scene();
    let own = |frame: Frame| frame.macs(scene.a.mac, GATEWAY_MAC).bytes();
    let udp = own(Frame::udp((f.a, 1000), (f.b, 53)).payload(vec![0; 40]));
    let tcp = own(Frame::tcp((f.a, 1), (f.b, 2), SYN));
    let l4 = f.transport();
    let patched = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    left_alone(
        &scene,
        [
            ("another pod's address", own(Frame::udp((f.b, 1), (f.a, 2)))),
            ("nobody's address", own(Frame::udp((f.nobody, 1), (f.b, 2)))),
            ("the node's address", own(Frame::udp((f.node, 1), (f.b, 2)))),
            ("another MAC", Frame::udp((f.a, 1), (f.b, 2)).macs(scene.b.mac, GATEWAY_MAC).bytes()),
            ("a VLAN's", [&udp[..12], &[0x81, 0, 0, 7], &udp[12..]].concat()),
            ("another EtherType", patched(&udp, 12, &[0x88, 0xcc])),
            ("the other family's EtherType", patched(&udp, 12, f.pick(&[0x86, 0xdd], &[8, 0]))),
            ("version 5", patched(&udp, ETHERNET, &[0x55])),
            ("length beyond the packet", patched(&udp, f.pick(16, 18), &[1, 0])),
            ("UDP length beyond the packet", patched(&udp, l4 + 4, &[0, 99])),
            ("TCP header beyond the packet", patched(&tcp, l4 + 12, &[0xf0])),
            ("cut in the IP header", udp[..l4 - 1].to_vec()),
            ("cut in the UDP header", udp[..l4 + 4].to_vec()),
            ("nothing but Ethernet", udp[..ETHERNET].to_vec()),
        ],
    );
}

fn xdp_redirects_only_to_pods_that_take_frames(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let frame = |from: Pod, to: Pod| {
        let ends = ((from.address(&f), 1), (to.address(&f), 2));
        Frame::udp(ends.0, ends.1).macs(from.mac, GATEWAY_MAC).bytes()
    };
    scene.take_frames(b);
    let (to_b, to_a) = (frame(a, b), frame(b, a));
    assert_eq!(sends(&scene, a, &to_b).code, REDIRECT, "whatever the sender takes");
    sends(&scene, b, &to_a).assert_untouched("to a pod that does not", &to_a);
    scene.take_frames(a);
    assert_eq!(sends(&scene, b, &to_a).code, REDIRECT);
    scene.remove_pod(b);
    sends(&scene, a, &to_b).assert_untouched("to a pod that is gone", &to_b);
}

fn xdp_lets_a_pod_of_two_interfaces_send_by_either(f: Family) {
    let mut scene = scene();
    let mac = [2, 9, 9, 9, 9, 9];
    let (a, b) = (scene.a, scene.b);
    let packet = Frame::udp((f.a, 1), (f.b, 2)).macs(mac, GATEWAY_MAC).bytes();
    let second = Pod { ifindex: scene.vpn, ..a };
    assert_eq!(sends(&scene, second, &packet).code, NEXT, "nobody's interface");
    for (pod, code) in [(b.id, NEXT), (a.id, REDIRECT)] {
        scene.datapath.set_link(scene.vpn, Link { pod, mac, ..Link::default() }).expect("link");
        assert_eq!(sends(&scene, second, &packet).code, code, "pod {pod}'s interface");
    }
    let own = Frame::udp((f.a, 1), (f.b, 2)).macs(a.mac, GATEWAY_MAC).bytes();
    assert_eq!(sends(&scene, second, &own).code, NEXT, "the other interface's MAC");
}
