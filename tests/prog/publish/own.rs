//! What the node itself asks from a port that is published.

use netpath_tests::{
    for_both_families,
    packet::{Frame, RST, SYN, see},
    scene::{Family, GATEWAY_MAC, REDIRECT, Scene, from_router},
};

use super::{CLIENT, PORT, TALKS, packet, scene};

for_both_families!(what_the_node_asks_from_such_a_port_is_answered_to_the_node);

fn what_the_node_asks_from_such_a_port_is_answered_to_the_node(f: Family) {
    let scene = scene(&f);
    let (b, own) = (scene.b, (f.node, PORT));
    for talk in TALKS {
        for (name, ingress) in [("its own", 0), ("masqueraded for others", scene.vpn)] {
            let client = (f.outside, if ingress == 0 { 7000 } else { 7001 });
            let name = format!("{talk:?}, {name}");
            for _ in 0..2 {
                let question = packet(talk, own, client, false).bytes();
                let leaves = |scene: &Scene| scene.leaves(&question, ingress, 0);
                scene.expect_no_drop(&name, leaves).assert_untouched(&name, &question);
                let answer = from_router(packet(talk, client, own, true));
                scene
                    .expect_no_drop(&name, |scene| scene.from_wire(&answer))
                    .assert_untouched(&name, &answer);
            }
        }
        let name = format!("{talk:?}, to a pod");
        let question = packet(talk, own, (f.b, 7000), false).bytes();
        scene.to_pod(b, &question, 0).assert_untouched(&name, &question);
        let answer = packet(talk, (f.b, 7000), own, true).macs(b.mac, GATEWAY_MAC).bytes();
        scene.from(b, &answer).assert_untouched(&name, &answer);
    }
    // What the node refuses opens nothing: who asks again is led to the pod.
    let knock = |port| scene.router_says(Frame::tcp((f.outside, port), own, SYN));
    let refusal = Frame::tcp(own, (f.outside, CLIENT), RST).bytes();
    scene.leaves(&refusal, 0, 0).assert_untouched("a refusal", &refusal);
    assert_eq!(knock(CLIENT).code, REDIRECT);
    // And what a client has opened by the port is not the node's to send on: it gets another port.
    assert_eq!(knock(CLIENT + 1).code, REDIRECT);
    let own = Frame::tcp(own, (f.outside, CLIENT + 1), SYN).bytes();
    assert_ne!(see(&scene.leaves(&own, 0, 0).packet).source_port, PORT);
}
