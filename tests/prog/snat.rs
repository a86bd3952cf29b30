//! `from_pod`: to outside.

use netpath_common::abi::{DropReason, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{Extension, Frame, SYN, checksum, protocol, see},
    scene::{Family, GATEWAY_MAC, REDIRECT, SERVER_PORT, Scene, Talk, addr, route},
};

for_both_families!(
    to_outside_the_source_becomes_the_nodes_and_both_halves_are_written,
    a_port_outside_the_range_moves_into_it_and_stays,
    two_pods_with_one_source_port_get_two,
    a_port_the_node_listens_on_is_not_taken,
    without_masquerade_it_leaves_with_its_own_address_and_is_tracked,
    by_an_interface_that_is_no_uplink_it_goes_to_the_stack_and_is_tracked,
    by_an_interface_that_the_agent_does_not_know_yet_nothing_leaves_that_is_to_be_translated,
    before_the_node_is_known_nothing_leaves,
    without_an_address_on_the_uplink_the_route_decides,
    a_flow_that_moves_to_the_uplink_is_translated_from_then_on,
    a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones,
);

fn to_outside_the_source_becomes_the_nodes_and_both_halves_are_written(f: Family) {
    let scene = Scene::new();
    let tcp = |port| Frame::tcp((f.a, port), (f.outside, 443), SYN);
    let udp = |port| Frame::udp((f.a, port), (f.outside, 53));
    let longest = 1480 - f.header();
    let mut frames = vec![
        ("tcp", tcp(40_000), 40_000, 443),
        ("udp", udp(40_001), 40_001, 53),
        ("udp without checksum", udp(40_002).no_checksum(), 40_002, 53),
        ("echo", Frame::echo(f.a, f.outside, true, 40_003, 1), 40_003, 40_003),
        ("odd length", tcp(40_004).payload(vec![0xab; 3]), 40_004, 443),
        ("full size", tcp(40_005).payload(vec![0xff; longest]), 40_005, 443),
        ("nothing in it", udp(40_006).payload(Vec::new()), 40_006, 53),
    ];
    if f.is_v4() {
        frames.push(("IP options", tcp(40_010).options(&[1; 40]), 40_010, 443));
    } else {
        let hop_by_hop = |frame: Frame| frame.extension(Extension::HopByHop, &[5, 2, 0, 0]);
        let routing = |frame: Frame| frame.extension(Extension::Routing, &[4, 0, 0, 0, 0, 0]);
        let destination = |frame: Frame| frame.extension(Extension::Destination, &[0; 14]);
        frames.push(("hop-by-hop", hop_by_hop(tcp(40_010)), 40_010, 443));
        frames.push(("destination options", destination(udp(40_011)), 40_011, 53));
        frames.push(("chain", destination(routing(hop_by_hop(tcp(40_012)))), 40_012, 443));
    }
    let count = frames.len() as u64;
    for (name, frame, port, to) in frames {
        let ran = scene.expect_no_drop(name, |scene| scene.a_says(frame));
        assert_eq!(ran.code, REDIRECT, "{name}");
        let seen = see(&ran.packet);
        assert_eq!(
            (seen.source, seen.source_port),
            (f.node, port),
            "{name}: port kept, it lies in the range"
        );
        assert_eq!((seen.destination, seen.destination_port, seen.ttl), (f.outside, to, 63), "{name}");
        let unsummed = seen.protocol != protocol::UDP || name.contains("without");
        assert_eq!(seen.udp_checksum == 0, unsummed, "{name}: {seen:?}");
        let pairs = scene.pairs();
        let pair = pairs.iter().find(|pair| pair.key.sport == port.to_be()).expect(name);
        let original = (pair.key.src, pair.original.addr, pair.original.pod);
        assert_eq!(original, (addr(f.a), addr(f.node), scene.a.id), "{name}: {pair:?}");
        let reply = pair.reply.expect("both halves");
        assert_eq!((reply.addr, reply.port, reply.packets), (addr(f.a), port.to_be(), 0), "{name}: {pair:?}");
    }
    assert_eq!(scene.traffic(TrafficClass::Translated), count);
}

fn a_port_outside_the_range_moves_into_it_and_stays(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        let frame = talk.question((f.a, 1000), f.outside);
        let length = frame.clone().packet().len() as u64;
        let ports = [0; 3].map(|_| see(&scene.a_says(frame.clone()).packet).source_port);
        assert!((32_768..=49_151).contains(&ports[0]), "{talk:?}: {ports:?}");
        assert!(ports.iter().all(|port| *port == ports[0]), "{talk:?}: one flow, one port: {ports:?}");
        let pairs = scene.pairs();
        let pair = pairs.iter().find(|pair| pair.key.proto == talk.number(&f)).expect("a flow");
        assert_eq!(
            (pair.original.packets, pair.original.bytes),
            (3, 3 * length),
            "counted exactly: {pair:?}"
        );
    }
    assert_eq!(scene.pairs().len(), 3);
}

fn two_pods_with_one_source_port_get_two(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        let from_b = |to| see(&scene.says(scene.b, talk.question((f.b, 40_000), to)).packet);
        let first = talk.open(&scene, &f, 40_000).seen;
        let second = from_b(f.outside);
        assert_eq!((first.source, second.source), (f.node, f.node), "{talk:?}");
        assert_eq!(first.source_port, 40_000, "{talk:?}");
        assert_ne!(second.source_port, 40_000, "{talk:?}: the port is taken towards this destination");
        assert_eq!(from_b(f.other).source_port, 40_000, "{talk:?}: one port serves many destinations");
        // Both flows' answers find their pods.
        for (pod, port, own) in [(scene.a, first.source_port, f.a), (scene.b, second.source_port, f.b)] {
            let ran = scene.router_says(talk.answer(f.outside, (f.node, port)));
            let seen = see(&ran.packet);
            assert_eq!((ran.code, ran.macs().1), (REDIRECT, pod.mac), "{talk:?}: {seen:?}");
            assert_eq!((seen.destination, seen.destination_port), (own, 40_000), "{talk:?}: {seen:?}");
        }
    }
}

fn a_port_the_node_listens_on_is_not_taken(f: Family) {
    let scene = Scene::new();
    let udp = std::net::UdpSocket::bind((f.node, 40_000)).expect("the node's socket");
    let tcp = std::net::TcpListener::bind((f.node, 40_001)).expect("the node's listener");
    assert_ne!(Talk::Udp.open(&scene, &f, 40_000).seen.source_port, 40_000);
    assert_ne!(Talk::Tcp.open(&scene, &f, 40_001).seen.source_port, 40_001);
    drop((udp, tcp));
    let seen = see(&scene.a_says(Talk::Tcp.question((f.a, 40_001), f.other)).packet);
    assert_eq!(seen.source_port, 40_001, "free again");
    assert_eq!(scene.pairs().len(), 3, "no half of a refused port is left: {:?}", scene.pairs());
}

fn without_masquerade_it_leaves_with_its_own_address_and_is_tracked(f: Family) {
    let scene = Scene::new();
    for (n, talk) in Talk::ALL.into_iter().enumerate() {
        let packet = talk.question((f.a, 1000), f.unmasked).macs(scene.a.mac, GATEWAY_MAC).bytes();
        let ran = scene.from_a(&packet);
        ran.assert_forwarded(&format!("{talk:?}"), &packet);
        see(&ran.packet);
        let count = n + 1;
        assert_eq!(
            (scene.pairs().len(), scene.traffic(TrafficClass::Routed)),
            (count, count as u64),
            "{talk:?}"
        );
    }
    assert!(scene.pairs().iter().all(|pair| !pair.is_translated()), "{:?}", scene.pairs());
}

fn by_an_interface_that_is_no_uplink_it_goes_to_the_stack_and_is_tracked(f: Family) {
    let scene = Scene::new();
    for (n, talk) in Talk::ALL.into_iter().enumerate() {
        let packet = talk.question((f.a, 1000), f.vpn).macs(scene.a.mac, GATEWAY_MAC).bytes();
        scene.from_a(&packet).assert_untouched(&format!("{talk:?}"), &packet);
        let count = n + 1;
        assert_eq!(
            (scene.pairs().len(), scene.traffic(TrafficClass::ToStack)),
            (count, count as u64),
            "{talk:?}"
        );
    }
}

/// An uplink that was made again has no programs yet: what the stack sends by it would leave with the pod's address.
fn by_an_interface_that_the_agent_does_not_know_yet_nothing_leaves_that_is_to_be_translated(f: Family) {
    let mut scene = Scene::new();
    scene.set_node(|node| node.newest_link -= 1);
    let new = scene.node.newest_link + 1;
    for destination in [f.outside_net, f.unmasked_net] {
        scene.add_route(&route(destination, new));
    }
    for talk in Talk::ALL {
        let frame = talk.question((f.a, 1000), f.outside);
        scene.expect_drop("not known", DropReason::NotReady, |scene| scene.a_says(frame.clone()));
        let packet = talk.question((f.a, 1001), f.unmasked).macs(scene.a.mac, GATEWAY_MAC).bytes();
        scene.from_a(&packet).assert_untouched("leaves with its own address anyway", &packet);
    }
    scene.set_node(|node| node.newest_link += 1);
    let packet = Talk::Udp.question((f.a, 1000), f.outside).macs(scene.a.mac, GATEWAY_MAC).bytes();
    scene.from_a(&packet).assert_untouched("known, and no uplink", &packet);
}

fn before_the_node_is_known_nothing_leaves(f: Family) {
    let mut scene = Scene::new();
    scene.set_node(|node| node.snat_count = 0);
    let frame = Frame::udp((f.a, 1000), (f.outside, 53));
    scene.expect_drop("no SNAT range yet", DropReason::NotReady, |scene| scene.a_says(frame));
}

/// The kernel's FIB may name the source itself; if it does not, there is none. In no case does the pod's address leave.
fn without_an_address_on_the_uplink_the_route_decides(f: Family) {
    let mut scene = Scene::new();
    scene.forget_addresses();
    let before = scene.drops(DropReason::NoSourceAddress);
    let ran = scene.a_says(Frame::udp((f.a, 1000), (f.outside, 53)));
    let dropped = scene.drops(DropReason::NoSourceAddress) - before;
    if dropped == 0 {
        assert_eq!((ran.code, see(&ran.packet).source), (REDIRECT, f.node), "{:?}", see(&ran.packet));
    } else {
        assert_eq!((ran.code, dropped), (netpath_tests::scene::DROP, 1));
    }
}

/// Invariant 1 for a live flow whose way changes: out by a VPN first, then by the uplink.
fn a_flow_that_moves_to_the_uplink_is_translated_from_then_on(f: Family) {
    let scene = Scene::new();
    let packet = Frame::udp((f.a, 1000), (f.outside, 53)).macs(scene.a.mac, GATEWAY_MAC).bytes();
    scene.add_route(&route(f.outside_net, scene.vpn));
    scene.from_a(&packet).assert_untouched("by the VPN", &packet);
    assert_eq!(scene.pairs().len(), 1);
    scene.add_route(&netpath::net::Route { via: Some(f.router), ..route(f.outside_net, scene.uplink) });
    let ran = scene.from_a(&packet);
    assert_eq!((ran.code, see(&ran.packet).source), (REDIRECT, f.node));
    let pairs = scene.pairs();
    assert!(pairs.len() == 1 && pairs[0].is_translated() && pairs[0].reply.is_some(), "{pairs:?}");
}

/// RFC 768: a sum of zero is sent as all ones, since zero says that there is none; over IPv6 a receiver drops it.
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones(f: Family) {
    let scene = Scene::new();
    // The payload whose sum makes the datagram's zero, once with the node's address and once with the pod's.
    let filled = |source, destination, ports: [u16; 2]| {
        let [[a, b], [c, d]] = ports.map(u16::to_be_bytes);
        let segment = [a, b, c, d, 0, 10, 0, 0, 0, 0];
        checksum::with_pseudo_header(source, destination, protocol::UDP, &segment).to_be_bytes().to_vec()
    };
    let payload = filled(f.node, f.outside, [40_000, SERVER_PORT]);
    let question = Talk::Udp.question((f.a, 40_000), f.outside).payload(payload);
    let seen = see(&scene.a_says(question).packet);
    assert_eq!((seen.source, seen.udp_checksum), (f.node, 0xffff), "{seen:?}");
    let payload = filled(f.outside, f.a, [SERVER_PORT, 40_000]);
    let answer = Talk::Udp.answer(f.outside, (f.node, 40_000)).payload(payload);
    let seen = see(&scene.router_says(answer).packet);
    assert_eq!((seen.destination, seen.udp_checksum), (f.a, 0xffff), "{seen:?}");
}
