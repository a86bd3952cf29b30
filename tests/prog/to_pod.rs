//! `to_pod`.

use netpath_common::abi::{DropReason, ENDPOINT_INBOUND_ANY, Program, TrafficClass};
use netpath_tests::{
    packet::{Frame, arp},
    scene::{BEHIND_VPN, Context, DROP, GATEWAY_MAC, NEXT, NODE, OUTSIDE, Ran, Scene},
};

fn to_a(scene: &Scene, packet: &[u8], ingress_ifindex: u32) -> Ran {
    scene.run(
        Program::ToPod,
        packet,
        Context { ifindex: scene.a.ifindex, ingress_ifindex, ..Context::default() },
    )
}

#[test]
fn the_node_and_pods_and_answers_come_in() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.from_a(&Frame::udp((a.ip, 1000), (BEHIND_VPN, 53)).macs(a.mac, GATEWAY_MAC).bytes());
    let rows = [
        ("the node itself", Frame::udp((NODE, 1), (a.ip, 2)), 0),
        ("a pod by way of the stack", Frame::udp((b.ip, 1), (a.ip, 2)), b.ifindex),
        ("the answer of a VPN", Frame::udp((BEHIND_VPN, 53), (a.ip, 1000)), scene.vpn),
    ];
    for (n, (name, frame, ingress)) in rows.into_iter().enumerate() {
        let packet = frame.bytes();
        let ran = to_a(&scene, &packet, ingress);
        assert_eq!((ran.code, ran.packet), (NEXT, packet), "{name}");
        assert_eq!(scene.traffic(TrafficClass::FromStack), n as u64 + 1, "{name}");
    }
    assert_eq!(scene.datapath.pod_counter(a.id).unwrap().rx_packets, 3);
}

#[test]
fn strangers_do_not() {
    let mut scene = Scene::new();
    let packet = Frame::udp((OUTSIDE, 1), (scene.a.ip, 2)).bytes();
    let before = scene.all_drops();
    let ran = to_a(&scene, &packet, scene.vpn);
    scene.assert_dropped("forwarded from elsewhere", &ran, &before, DropReason::InboundDenied);
    scene.set_endpoint(scene.a, |endpoint| endpoint.flags |= ENDPOINT_INBOUND_ANY);
    assert_eq!(to_a(&scene, &packet, scene.vpn).code, NEXT, "inbound = any");
    let answered = scene.pairs();
    assert_eq!(answered.len(), 1, "tracked, so that its answers are not translated");
}

#[test]
fn arp_and_damaged_packets() {
    let scene = Scene::new();
    let request = arp(true, GATEWAY_MAC, (GATEWAY_MAC, NODE), scene.a.ip);
    assert_eq!(to_a(&scene, &request, 0).code, NEXT);
    let mut damaged = Frame::udp((NODE, 1), (scene.a.ip, 2)).bytes();
    damaged[14] = 0x41;
    assert_eq!((to_a(&scene, &damaged, 0).code, scene.drops(DropReason::Malformed)), (DROP, 1));
}
