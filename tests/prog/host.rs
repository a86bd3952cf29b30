//! The node's own connections beside those of its pods: `to_uplink` and `from_uplink`.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use netpath_common::abi::DropReason;
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Frame, see, shown},
    scene::{Family, NEXT, REDIRECT, Ran, Scene, Talk, from_router},
};
use socket2::{Domain, Socket, Type};

for_both_families!(
    where_a_pod_holds_its_port_the_node_gets_another,
    without_a_collision_the_nodes_packets_stay_as_they_are,
    an_answer_that_no_pod_asked_for_is_the_nodes,
    an_error_about_the_nodes_translated_flow_is_translated_back,
    an_sctp_port_that_a_pod_holds_cannot_be_the_nodes,
    a_port_of_the_nodes_connections_is_not_taken,
    a_listener_on_any_address_keeps_its_port,
);

const PORT: u16 = 40_000;

/// What the node itself sends.
fn node_says(scene: &Scene, frame: Frame) -> Ran {
    scene.leaves(&frame.bytes(), 0, 0)
}

fn where_a_pod_holds_its_port_the_node_gets_another(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        talk.open(&scene, &f, PORT);
        let own = talk.question((f.node, PORT), f.outside);
        let ports = [0; 3].map(|_| {
            let ran = scene.expect_no_drop("its own", |scene| node_says(scene, own.clone()));
            let seen = see(&ran.packet);
            assert_eq!(
                (ran.code, seen.source, seen.destination, seen.ttl),
                (NEXT, f.node, f.outside, 64),
                "{talk:?}"
            );
            assert_eq!(seen.destination_port, talk.server_port(seen.source_port), "{talk:?}: {seen:?}");
            seen.source_port
        });
        assert_ne!(ports[0], PORT, "{talk:?}: the answers would be the pod's");
        assert!(
            (32_768..=49_151).contains(&ports[0]) && ports == [ports[0]; 3],
            "{talk:?}: one of its own: {ports:?}"
        );
        let answer = from_router(talk.answer(f.outside, (f.node, ports[0])));
        let ran = scene.expect_no_drop("its answer", |scene| scene.from_wire(&answer));
        let seen = see(&ran.packet);
        assert_eq!(
            (ran.code, seen.destination, seen.destination_port),
            (NEXT, f.node, PORT),
            "{talk:?}: {seen:?}"
        );
        assert_eq!(
            (ran.packet[..ETHERNET] == answer[..ETHERNET], seen.ttl),
            (true, 64),
            "{talk:?}: not forwarded"
        );
        let to_pod = scene.router_says(talk.answer(f.outside, (f.node, PORT)));
        let seen = see(&to_pod.packet);
        assert_eq!(
            (to_pod.code, seen.destination),
            (REDIRECT, f.a),
            "{talk:?}: the pod keeps its own: {seen:?}"
        );
        let pairs = scene.pairs();
        let own: Vec<_> =
            pairs.iter().filter(|pair| pair.original.pod == 0 && pair.key.proto == talk.number(&f)).collect();
        assert!(own.len() == 1 && own[0].reply.is_some(), "{talk:?}: {pairs:?}");
    }
    assert_eq!(scene.pairs().len(), 6);
}

fn without_a_collision_the_nodes_packets_stay_as_they_are(f: Family) {
    let scene = Scene::new();
    for talk in Talk::ALL {
        talk.open(&scene, &f, PORT);
        let rows = [
            ("outside the range", talk.question((f.node, 1000), f.outside)),
            ("another port", talk.question((f.node, PORT + 1), f.outside)),
            ("another destination", talk.question((f.node, PORT), f.other)),
            ("an answer of its own", talk.answer(f.node, (f.outside, 1000))),
        ];
        for (name, frame) in rows {
            let packet = frame.bytes();
            let ran = scene.expect_no_drop(name, |scene| scene.leaves(&packet, 0, 0));
            ran.assert_untouched(&format!("{talk:?}, {name}"), &packet);
        }
    }
    assert_eq!(scene.pairs().len(), 4, "none of the node's: {:?}", scene.pairs());
}

fn an_answer_that_no_pod_asked_for_is_the_nodes(f: Family) {
    let scene = Scene::new();
    for talk in Talk::ALL {
        talk.open(&scene, &f, PORT);
        for (name, frame) in [
            ("another port", talk.answer(f.outside, (f.node, PORT + 1))),
            ("another peer", talk.answer(f.other, (f.node, PORT))),
        ] {
            let packet = from_router(frame);
            let ran = scene.expect_no_drop(name, |scene| scene.from_wire(&packet));
            ran.assert_untouched(&format!("{talk:?}, {name}"), &packet);
        }
    }
}

fn an_error_about_the_nodes_translated_flow_is_translated_back(f: Family) {
    let scene = Scene::new();
    for talk in Talk::PORTS {
        talk.open(&scene, &f, PORT);
        let left = node_says(&scene, talk.question((f.node, PORT), f.outside)).packet;
        for embed in [f.header() + 8, usize::MAX] {
            let name = format!("{talk:?}, {embed} bytes");
            let error = Frame::error(f.router, f.node, ErrorKind::TooBig(1400), &left[ETHERNET..], embed);
            let ran = scene.expect_no_drop(&name, |scene| scene.router_says(error));
            assert_eq!(ran.code, NEXT, "{name}: {}", shown(&ran.packet));
            let seen = see(&ran.packet);
            let inner = seen.inner.as_ref().expect("an embedded packet");
            assert_eq!(
                (seen.destination, inner.source, inner.source_port),
                (f.node, f.node, PORT),
                "{name}: {seen:?}"
            );
            assert_eq!((inner.destination, inner.mtu), (f.outside, 1400), "{name}: {seen:?}");
        }
    }
}

fn an_sctp_port_that_a_pod_holds_cannot_be_the_nodes(f: Family) {
    let scene = Scene::new();
    Talk::Sctp.open(&scene, &f, PORT);
    let own = Talk::Sctp.question((f.node, PORT), f.outside);
    scene.expect_drop("its answers would be the pod's", DropReason::SnatPortTaken, |scene| {
        node_says(scene, own)
    });
    assert_eq!(scene.pairs().len(), 1, "{:?}", scene.pairs());
}

/// A socket of the node that has connected from this port: of TCP one whose SYN nobody answers.
fn connected(kind: Type, from: (IpAddr, u16), to: (IpAddr, u16)) -> Socket {
    let socket = Socket::new(Domain::for_address(SocketAddr::from(from)), kind, None).expect("socket");
    socket.set_nonblocking(true).expect("non-blocking");
    socket.bind(&SocketAddr::from(from).into()).expect("the node's port");
    // Of TCP it is still under way.
    let _ = socket.connect(&SocketAddr::from(to).into());
    socket
}

fn a_port_of_the_nodes_connections_is_not_taken(f: Family) {
    let scene = Scene::new();
    for (talk, kind) in [(Talk::Tcp, Type::STREAM), (Talk::Udp, Type::DGRAM)] {
        let to_outside = connected(kind, (f.node, PORT), (f.outside, 443));
        let first = talk.open(&scene, &f, PORT).seen.source_port;
        assert_ne!(first, PORT, "{talk:?}: the connection's");
        assert_eq!(talk.open(&scene, &f, PORT).seen.source_port, first, "{talk:?}: one flow, one port");
        // To another peer the connection is no obstacle.
        let seen = see(&scene.a_says(talk.question((f.a, PORT), f.other)).packet);
        assert_eq!(seen.source_port, PORT, "{talk:?}: {seen:?}");
        drop(to_outside);
    }
    let pairs = scene.pairs();
    assert!(pairs.len() == 4 && pairs.iter().all(|pair| pair.reply.is_some()), "{pairs:?}");
}

fn a_listener_on_any_address_keeps_its_port(f: Family) {
    let scene = Scene::new();
    let any = f.pick("0.0.0.0", "::");
    let _udp = UdpSocket::bind((any, PORT)).expect("the node's socket");
    let _tcp = TcpListener::bind((any, PORT)).expect("the node's listener");
    for talk in [Talk::Tcp, Talk::Udp] {
        assert_ne!(talk.open(&scene, &f, PORT).seen.source_port, PORT, "{talk:?}");
    }
    assert_eq!(Talk::Echo.open(&scene, &f, PORT).seen.source_port, PORT, "an identifier is no socket's");
}
