//! The scene itself.

use std::net::UdpSocket;

use netpath_tests::{
    for_both_families,
    scene::{Family, Scene},
};

for_both_families!(the_node_can_send_at_once);

fn the_node_can_send_at_once(family: Family) {
    let scene = Scene::new();
    let reached = |to| {
        let socket = UdpSocket::bind((family.node, 0)).expect("the node's address is usable");
        socket.connect((to, 53)).map(|()| socket.local_addr().expect("local address").ip())
    };
    assert_eq!(reached(family.outside).expect("a default route"), family.node);
    assert_eq!(
        [scene.a, scene.b].map(|pod| pod.address(&family)),
        [family.a, family.b],
        "the family and the pods agree"
    );
    let via_vpn = UdpSocket::bind((family.pick("0.0.0.0", "::"), 0)).expect("socket");
    via_vpn.connect((family.vpn, 53)).expect("a route behind the VPN");
    assert_ne!(via_vpn.local_addr().expect("local address").ip(), family.node);
}
