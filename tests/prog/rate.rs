//! Pods whose bandwidth is limited: what `from_pod` lets them send, and the queue that what they get has to go by.

use netpath_common::abi::{
    DropReason, ENDPOINT_LIMITED_IN, ENDPOINT_LIMITED_OUT, Link, Program, TrafficClass,
};
use netpath_tests::{
    for_both_families,
    packet::{Frame, SYN, arp, solicitation},
    scene::{Family, GATEWAY_MAC, NEXT, Pod, REDIRECT, Scene},
    wait,
};

for_both_families!(
    what_a_pod_may_send_is_counted_in_bytes_and_comes_back_with_time,
    a_limit_is_one_pods_and_none_of_its_neighbours,
    what_a_limited_pod_gets_goes_by_its_queue,
    xdp_leaves_limited_pods_to_tc,
);

/// Bytes of payload of each packet.
const LENGTH: usize = 958;

/// Lets a pod send so many bytes a second, and so many at once.
fn limit(scene: &mut Scene, pod: Pod, rate: u64, bytes: u64) {
    scene.change_endpoint(pod, |endpoint| endpoint.flags |= ENDPOINT_LIMITED_OUT);
    let link =
        Link { pod: pod.id, mac: pod.mac, rate, burst: bytes * 1_000_000_000 / rate, ..Link::default() };
    scene.datapath.set_link(pod.ifindex, link).expect("link");
}

/// A packet of 1,000 bytes over IPv4, and of 1,020 over IPv6.
fn packet(f: &Family, pod: Pod, from: std::net::IpAddr, to: std::net::IpAddr) -> Vec<u8> {
    let frame = Frame::udp((from, 4000), (to, 4000)).payload(vec![7; LENGTH]);
    let bytes = frame.macs(pod.mac, GATEWAY_MAC).bytes();
    assert_eq!(bytes.len(), 14 + f.header() + 8 + LENGTH);
    bytes
}

fn what_a_pod_may_send_is_counted_in_bytes_and_comes_back_with_time(f: Family) {
    let mut scene = Scene::new();
    let a = scene.a;
    // A hundred packets in ten seconds, and ten at once.
    limit(&mut scene, a, 10_200, 10_200);
    let mut sent = 0;
    for (name, to) in [("a pod", f.b), ("outside", f.outside), ("the node", f.node)].iter().cycle().take(30) {
        let ran = scene.from_a(&packet(&f, a, f.a, *to));
        if scene.drops(DropReason::RateLimited) > 0 {
            assert_eq!(ran.code, netpath_tests::scene::DROP, "{name}");
            break;
        }
        sent += 1;
    }
    assert!((10..=12).contains(&sent), "{sent} packets of about a thousand bytes");
    let counter = scene.datapath.readings().pod_counter(a.id).expect("counter");
    assert_eq!(counter.tx_packets, sent, "what is refused was not sent");
    // Neighbours are still found, or the pod would be cut off.
    let neighbour = if f.is_v4() {
        arp(true, a.mac, (a.mac, f.a), f.gateway)
    } else {
        solicitation(a.mac, f.a, f.gateway, Some(a.mac)).bytes()
    };
    assert_eq!(scene.from_a(&neighbour).code, REDIRECT);
    wait::until("it may send again", || {
        let before = scene.drops(DropReason::RateLimited);
        scene.from_a(&packet(&f, a, f.a, f.b));
        scene.drops(DropReason::RateLimited) == before
    });
    // Another rate, or the slot's next pod, does not wait for what this one has taken: here for the years of a slow one.
    limit(&mut scene, a, 1, 1_000_000_000);
    scene.expect_no_drop("of a large bucket", |scene| scene.from_a(&packet(&f, a, f.a, f.b)));
    limit(&mut scene, a, 1_000_000_000, 10_200);
    wait::until("a new limit holds", || scene.from_a(&packet(&f, a, f.a, f.b)).code == REDIRECT);
    let large = Frame::tcp((f.a, 1), (f.b, 2), SYN).payload(vec![0; 1400]).macs(a.mac, GATEWAY_MAC).bytes();
    limit(&mut scene, a, 1_000_000_000, 1000);
    scene.expect_drop("more than there can ever be", DropReason::RateLimited, |scene| scene.from_a(&large));
}

fn a_limit_is_one_pods_and_none_of_its_neighbours(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    limit(&mut scene, a, 1000, 1000);
    let own = packet(&f, a, f.a, f.b);
    for _ in 0..10 {
        scene.from_a(&own);
    }
    assert!(scene.drops(DropReason::RateLimited) > 0);
    for _ in 0..20 {
        let other = packet(&f, b, f.b, f.a);
        scene.expect_no_drop("another pod", |scene| scene.from(b, &other)).assert_forwarded("to it", &other);
    }
    // The limit is off as soon as either says so.
    let link = Link { pod: a.id, mac: a.mac, ..Link::default() };
    scene.datapath.set_link(a.ifindex, link).expect("link");
    scene.expect_no_drop("no rate", |scene| scene.from_a(&own));
    limit(&mut scene, a, 1000, 1000);
    scene.change_endpoint(a, |_| {});
    scene.expect_no_drop("no flag", |scene| scene.from_a(&own));
}

fn what_a_limited_pod_gets_goes_by_its_queue(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let packet = packet(&f, a, f.a, f.b);
    let by_peer = scene.from_a(&packet);
    scene.change_endpoint(b, |endpoint| endpoint.flags |= ENDPOINT_LIMITED_IN);
    let by_queue = scene.from_a(&packet);
    assert_eq!((by_queue.code, &by_queue.packet), (by_peer.code, &by_peer.packet), "the same packet");
    assert!(by_peer.mark == 0 && by_queue.mark != 0, "{:#x} {:#x}", by_peer.mark, by_queue.mark);
    assert_eq!(scene.traffic(TrafficClass::Local), 2);
    // The host end's program lets it by without judging or counting it again.
    let counted = |scene: &Scene| scene.datapath.readings().pod_counter(b.id).expect("counter").rx_packets;
    let before = (counted(&scene), scene.traffic(TrafficClass::FromStack));
    let context = netpath_tests::scene::Context {
        ifindex: b.ifindex,
        ingress_ifindex: a.ifindex,
        mark: by_queue.mark,
        gso_size: 0,
        notes: [0; 5],
    };
    let stranger = Frame::udp((f.outside, 1), (f.b, 2)).macs(GATEWAY_MAC, b.mac).bytes();
    for packet in [&by_queue.packet, &stranger] {
        let ran = scene.run(Program::ToPod, packet, context);
        assert_eq!((ran.code, ran.mark, &ran.packet), (NEXT, 0, packet));
    }
    assert_eq!((counted(&scene), scene.traffic(TrafficClass::FromStack)), before);
    let unmarked = netpath_tests::scene::Context { mark: 0, ..context };
    let outside = netpath_tests::scene::Context { ingress_ifindex: scene.uplink, ..unmarked };
    scene.expect_drop("without the mark it is judged", DropReason::InboundDenied, |scene| {
        scene.run(Program::ToPod, &stranger, outside)
    });
}

fn xdp_leaves_limited_pods_to_tc(f: Family) {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.take_frames(b);
    let packet = packet(&f, a, f.a, f.b);
    let run = |scene: &Scene| scene.run_xdp(Program::XdpPod, &packet, a.ifindex);
    run(&scene).assert_forwarded("nobody is limited", &packet);
    scene.change_endpoint(a, |endpoint| endpoint.flags |= ENDPOINT_LIMITED_OUT);
    run(&scene).assert_untouched("who sends is", &packet);
    scene.change_endpoint(a, |endpoint| endpoint.flags |= ENDPOINT_LIMITED_IN);
    run(&scene).assert_forwarded("only what it gets", &packet);
    scene.take_frames(b);
    let xdp = netpath_common::abi::ENDPOINT_XDP;
    scene.change_endpoint(b, |endpoint| endpoint.flags |= ENDPOINT_LIMITED_IN | xdp);
    run(&scene).assert_untouched("who gets it is", &packet);
}
