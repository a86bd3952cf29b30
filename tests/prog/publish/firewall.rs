//! Where the node's netfilter is asked: the stack forwards what begins something by a published port.

use netpath_common::abi::{NODE_FLAG_FIREWALL, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::see,
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, Scene},
};

use super::{CLIENT, PORT, TALKS, ends, into, packet, port_of, scene};

for_both_families!(until_the_pod_answers_the_stack_forwards_it, pods_of_the_node_do_not_meet_it,);

fn asking(f: &Family) -> Scene {
    let mut scene = scene(f);
    scene.set_node(|node| node.flags |= NODE_FLAG_FIREWALL);
    scene
}

fn until_the_pod_answers_the_stack_forwards_it(f: Family) {
    let scene = asking(&f);
    let (a, uplink) = (scene.a, scene.uplink);
    for talk in TALKS {
        let name = format!("{talk:?}");
        let knock = || packet(talk, (f.outside, CLIENT), (f.node, PORT), false);
        let inside = (f.a, port_of(talk));
        let forwarded = scene.traffic(TrafficClass::ToStack);
        for _ in 0..2 {
            let ran = scene.expect_no_drop(&name, |scene| scene.router_says(knock()));
            let seen = see(&ran.packet);
            assert_eq!(
                (ran.code, ends(&seen), seen.ttl),
                (NEXT, ((f.outside, CLIENT), inside), 64),
                "{name}"
            );
            // What netfilter lets through the stack sends to the pod.
            let sent = scene.expect_no_drop(&name, |scene| scene.to_pod(a, &ran.packet, uplink));
            assert_eq!(sent.code, NEXT, "{name}");
        }
        assert_eq!(scene.traffic(TrafficClass::ToStack), forwarded + 2, "{name}");
        let answer = packet(talk, inside, (f.outside, CLIENT), true);
        let ran = scene.expect_no_drop(&name, |scene| scene.a_says(answer));
        assert_eq!(
            (ran.code, ends(&see(&ran.packet))),
            (REDIRECT, ((f.node, PORT), (f.outside, CLIENT))),
            "{name}"
        );
        let ran = scene.expect_no_drop(&name, |scene| scene.router_says(knock()));
        into(&name, &ran, a.mac, (f.outside, CLIENT), inside);
    }
}

fn pods_of_the_node_do_not_meet_it(f: Family) {
    let scene = asking(&f);
    for talk in TALKS {
        let name = format!("{talk:?}");
        let knock = packet(talk, (f.b, CLIENT), (f.node, PORT), false).macs(scene.b.mac, GATEWAY_MAC);
        let ran = scene.expect_no_drop(&name, |scene| scene.from(scene.b, &knock.bytes()));
        into(&name, &ran, scene.a.mac, (f.b, CLIENT), (f.a, port_of(talk)));
    }
}
