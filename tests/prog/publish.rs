//! Published ports: by `from_uplink` from outside, by `from_pod` from pods of the node, and what the pods answer.

mod errors;
mod firewall;
mod own;

use std::net::IpAddr;

use netpath_common::abi::{DropReason, ENDPOINT_PUBLISHES, HAIRPIN_V4, HAIRPIN_V6, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ACK, ErrorKind, Frame, SYN, SYN_ACK, Seen, fragments, reassemble, see},
    scene::{Family, GATEWAY_MAC, REDIRECT, ROUTER_MAC, Ran, Scene, Talk, from_router},
};

for_both_families!(
    from_outside_it_leads_to_the_pod_and_the_answer_comes_from_the_node,
    on_one_address_or_all_and_nothing_else,
    what_is_forwarded_is_none_of_ours,
    without_its_pod_it_is_the_nodes,
    a_pod_that_replaced_another_gets_the_next_packet,
    from_another_pod_of_the_node,
    from_the_pod_itself,
    with_another_of_its_own_addresses_a_pod_finds_itself_there,
    a_pods_flow_is_not_reached_from_the_wire,
    two_ports_that_lead_to_one_have_clients_apart,
    no_binding_gets_a_published_port,
    datagrams_in_pieces,
    a_pod_that_publishes_does_not_take_the_short_way_of_xdp,
    a_table_that_is_full_refuses_it,
);

const PORT: u16 = 8080;
const POD_PORT: u16 = 80;
const CLIENT: u16 = 5000;

/// Protocols that can be published.
const TALKS: [Talk; 3] = [Talk::Tcp, Talk::Udp, Talk::Sctp];

/// The port in the pod: SCTP keeps the node's.
fn port_of(talk: Talk) -> u16 {
    if talk == Talk::Sctp { PORT } else { POD_PORT }
}

fn any(f: &Family) -> IpAddr {
    f.pick("0.0.0.0", "::").parse().expect("address")
}

fn hairpin(f: &Family) -> IpAddr {
    f.pick(HAIRPIN_V4, HAIRPIN_V6).to_ip()
}

/// A scene where port 8080 of every address of the node leads to port 80 of pod A, of SCTP to 8080.
fn scene(f: &Family) -> Scene {
    let mut scene = Scene::new();
    let a = scene.a;
    scene.publish((any(f), PORT), a, (f.a, POD_PORT));
    scene
}

/// A packet of a protocol; of TCP it begins a connection, or answers.
fn packet(talk: Talk, from: (IpAddr, u16), to: (IpAddr, u16), answer: bool) -> Frame {
    match talk {
        Talk::Tcp => Frame::tcp(from, to, if answer { SYN_ACK } else { SYN }),
        Talk::Udp => Frame::udp(from, to),
        Talk::Sctp => Frame::sctp(from, to),
        Talk::Echo => panic!("an echo has no port"),
    }
}

fn ends(seen: &Seen) -> ((IpAddr, u16), (IpAddr, u16)) {
    ((seen.source, seen.source_port), (seen.destination, seen.destination_port))
}

/// A packet that was led into a pod; returns it.
fn into(name: &str, ran: &Ran, mac: [u8; 6], from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let seen = see(&ran.packet);
    assert_eq!((ran.code, ran.macs(), seen.ttl), (REDIRECT, (GATEWAY_MAC, mac), 63), "{name}: {seen:?}");
    assert_eq!(ends(&seen), (from, to), "{name}: {seen:?}");
    ran.packet.clone()
}

fn from_outside_it_leads_to_the_pod_and_the_answer_comes_from_the_node(f: Family) {
    let scene = scene(&f);
    let a = scene.a;
    for talk in TALKS {
        let name = format!("{talk:?}");
        for count in 1..=3 {
            let knock = packet(talk, (f.outside, CLIENT), (f.node, PORT), false);
            let ran = scene.expect_no_drop(&name, |scene| scene.router_says(knock));
            into(&name, &ran, a.mac, (f.outside, CLIENT), (f.a, port_of(talk)));
            let answer = packet(talk, (f.a, port_of(talk)), (f.outside, CLIENT), true);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(answer));
            let seen = see(&ran.packet);
            assert_eq!((ran.code, seen.ttl), (REDIRECT, 63), "{name}: {seen:?}");
            assert_eq!(ends(&seen), ((f.node, PORT), (f.outside, CLIENT)), "{name}: {seen:?}");
            let pairs = scene.pairs();
            let pair = pairs.iter().find(|pair| pair.key.proto == talk.number(&f)).expect("a flow");
            let reply = pair.reply.expect("both halves");
            assert_eq!((pair.original.packets, reply.packets), (count, count), "{name}: {pair:?}");
            assert_eq!((pair.original.pod, reply.pod, pair.is_translated()), (a.id, a.id, false), "{name}");
        }
    }
    assert_eq!(scene.pairs().len(), 3);
    assert_eq!((scene.traffic(TrafficClass::Published), scene.traffic(TrafficClass::Translated)), (9, 9));
    assert_eq!(scene.datapath.readings().pod_counter(a.id).unwrap().rx_packets, 9);
}

fn on_one_address_or_all_and_nothing_else(f: Family) {
    let mut scene = scene(&f);
    let a = scene.a;
    let knock = |to, port, talk| from_router(packet(talk, (f.outside, CLIENT), (to, port), false));
    for (address, reached) in [(any(&f), true), (f.node, true), (f.router, false)] {
        scene.publish_protocols(&[6], (address, PORT), a, (f.a, POD_PORT));
        let ran = scene.from_wire(&knock(f.node, PORT, Talk::Tcp));
        assert_eq!(ran.code == REDIRECT, reached, "on {address}");
        scene.flows.remove_of(a.id).expect("flows");
        for (name, packet) in [
            ("another port", knock(f.node, POD_PORT, Talk::Tcp)),
            ("another protocol", knock(f.node, PORT, Talk::Udp)),
            ("an echo", from_router(Frame::echo(f.outside, f.node, true, PORT, 1))),
            ("no ports", from_router(Frame::raw(f.outside, f.node, 47))),
        ] {
            let ran = scene.expect_no_drop(name, |scene| scene.from_wire(&packet));
            ran.assert_untouched(&format!("{name}, on {address}"), &packet);
            let packet = Frame::udp((f.b, CLIENT), (f.node, PORT)).macs(scene.b.mac, GATEWAY_MAC).bytes();
            scene.from(scene.b, &packet).assert_untouched("from a pod", &packet);
        }
    }
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn what_is_forwarded_is_none_of_ours(f: Family) {
    let scene = scene(&f);
    for talk in TALKS {
        let through = from_router(packet(talk, (f.outside, CLIENT), (f.other, PORT), false));
        scene
            .expect_no_drop("through", |scene| scene.from_wire(&through))
            .assert_untouched("through", &through);
        let own = from_router(packet(talk, (f.node, CLIENT), (f.node, PORT), false));
        scene
            .expect_no_drop("its own", |scene| scene.from_wire(&own))
            .assert_untouched("the stack's to judge", &own);
        let itself = from_router(packet(talk, (hairpin(&f), CLIENT), (f.node, PORT), false));
        scene
            .expect_no_drop("whom a pod takes for itself", |scene| scene.from_wire(&itself))
            .assert_untouched("not for a pod", &itself);
        let away = scene.a_says(packet(talk, (f.a, 40_000), (f.other, PORT), false));
        assert_eq!(
            (away.code, see(&away.packet).source),
            (REDIRECT, f.node),
            "a pod's to that port elsewhere"
        );
    }
    assert_eq!(scene.traffic(TrafficClass::Published), 0);
}

fn without_its_pod_it_is_the_nodes(f: Family) {
    let mut scene = scene(&f);
    let a = scene.a;
    let knock = from_router(Frame::tcp((f.outside, CLIENT), (f.node, PORT), SYN));
    assert_eq!(scene.from_wire(&knock).code, REDIRECT);
    scene.remove_pod(a);
    for _ in 0..2 {
        scene.from_wire(&knock).assert_untouched("the pod has gone", &knock);
        assert!(scene.pairs().is_empty(), "its flow as well: {:?}", scene.pairs());
    }
    scene.set_pod_number(a, 77);
    scene.from_wire(&knock).assert_untouched("another has its address", &knock);
    assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
}

fn a_pod_that_replaced_another_gets_the_next_packet(f: Family) {
    let mut scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    let knocks = |scene: &Scene| {
        let outside = Frame::udp((f.outside, CLIENT), (f.node, PORT));
        let inside = Frame::udp((f.b, CLIENT), (f.node, PORT));
        [scene.router_says(outside), scene.says(scene.b, inside)]
    };
    assert!(knocks(&scene).iter().all(|ran| ran.macs().1 == a.mac));
    scene.remove_pod(a);
    scene.publish((any(&f), PORT), b, (f.b, POD_PORT));
    let [outside, inside] = knocks(&scene);
    into("from outside", &outside, b.mac, (f.outside, CLIENT), (f.b, POD_PORT));
    into("now it is itself", &inside, b.mac, (hairpin(&f), CLIENT), (f.b, POD_PORT));
    assert!(scene.pairs().iter().all(|pair| pair.original.pod == b.id), "{:?}", scene.pairs());
}

fn from_another_pod_of_the_node(f: Family) {
    let mut scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    for talk in TALKS {
        let name = format!("{talk:?}");
        for count in 1..=2 {
            let knock = packet(talk, (f.b, CLIENT), (f.node, PORT), false);
            let ran = scene.expect_no_drop(&name, |scene| scene.says(b, knock));
            into(&name, &ran, a.mac, (f.b, CLIENT), (f.a, port_of(talk)));
            let answer = packet(talk, (f.a, port_of(talk)), (f.b, CLIENT), true);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(answer));
            into(&name, &ran, b.mac, (f.node, PORT), (f.b, CLIENT));
            let pairs = scene.pairs();
            let pair = pairs.iter().find(|pair| pair.key.proto == talk.number(&f)).expect("a flow");
            let reply = pair.reply.expect("both halves");
            assert_eq!((pair.original.packets, reply.packets), (count, count), "{name}: {pair:?}");
        }
    }
    let count = |pod: netpath_tests::scene::Pod| scene.datapath.readings().pod_counter(pod.id).unwrap();
    assert_eq!((count(a).rx_packets, count(b).rx_packets), (6, 6));
    let flows = scene.pairs().len();
    let plain = Frame::udp((f.a, POD_PORT), (f.b, CLIENT + 1)).macs(a.mac, GATEWAY_MAC).bytes();
    scene.from_a(&plain).assert_forwarded("no answer of such a flow", &plain);
    assert_eq!(scene.pairs().len(), flows, "between pods nothing is tracked");
    scene.change_endpoint(a, |_| {});
    let answer = Frame::udp((f.a, POD_PORT), (f.b, CLIENT)).macs(a.mac, GATEWAY_MAC).bytes();
    scene.from_a(&answer).assert_forwarded("who publishes nothing pays nothing", &answer);
}

fn from_the_pod_itself(f: Family) {
    let scene = scene(&f);
    let a = scene.a;
    for talk in TALKS {
        let name = format!("{talk:?}");
        for count in 1..=2 {
            let knock = packet(talk, (f.a, CLIENT), (f.node, PORT), false);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(knock));
            into(&name, &ran, a.mac, (hairpin(&f), CLIENT), (f.a, port_of(talk)));
            let answer = packet(talk, (f.a, port_of(talk)), (hairpin(&f), CLIENT), true);
            let ran = scene.expect_no_drop(&name, |scene| scene.a_says(answer));
            into(&name, &ran, a.mac, (f.node, PORT), (f.a, CLIENT));
            let pairs = scene.pairs();
            let pair = pairs.iter().find(|pair| pair.key.proto == talk.number(&f)).expect("a flow");
            let reply = pair.reply.expect("both halves");
            assert_eq!((pair.original.packets, reply.packets), (count, count), "{name}: {pair:?}");
        }
    }
    let ping = scene.a_says(Frame::echo(f.a, f.gateway, true, 1, 1));
    assert_eq!((ping.code, see(&ping.packet).source), (REDIRECT, f.gateway), "the gateway still answers");
    if f.is_v4() {
        let stray = Frame::udp((f.a, POD_PORT), (f.gateway, CLIENT + 1));
        scene.expect_drop("nothing else is there", DropReason::RouteDrop, |scene| scene.a_says(stray));
    }
}

fn with_another_of_its_own_addresses_a_pod_finds_itself_there(f: Family) {
    let mut scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    // Pod B's addresses are pod A's as well, by another interface.
    scene.change_endpoint(b, |endpoint| {
        (endpoint.pod, endpoint.flags) = (a.id, endpoint.flags | ENDPOINT_PUBLISHES);
    });
    let ran = scene.says(b, Frame::udp((f.b, CLIENT), (f.node, PORT)));
    assert_eq!(ends(&see(&ran.packet)), ((hairpin(&f), CLIENT), (f.b, POD_PORT)), "{:?}", see(&ran.packet));
    let ran = scene.says(b, Frame::udp((f.b, POD_PORT), (hairpin(&f), CLIENT)));
    into("back", &ran, b.mac, (f.node, PORT), (f.b, CLIENT));
}

fn a_pods_flow_is_not_reached_from_the_wire(f: Family) {
    let scene = scene(&f);
    scene.says(scene.b, Frame::udp((f.b, CLIENT), (f.node, PORT)));
    scene.a_says(Frame::udp((f.a, CLIENT), (f.node, PORT)));
    let before = scene.pairs();
    for source in [f.a, f.b] {
        for port in [CLIENT, CLIENT + 1] {
            let forged = Frame::udp((source, port), (f.node, PORT));
            scene.expect_drop("forged", DropReason::SpoofedSource, |scene| scene.router_says(forged));
        }
    }
    let left = Frame::udp((f.node, PORT), (f.b, CLIENT)).packet();
    let error = Frame::error(f.router, f.node, ErrorKind::Unreachable(3), &left, usize::MAX);
    scene.expect_drop("forged error", DropReason::SpoofedSource, |scene| scene.router_says(error));
    assert_eq!(scene.pairs(), before, "and keeps no flow alive");
}

fn two_ports_that_lead_to_one_have_clients_apart(f: Family) {
    let mut scene = scene(&f);
    let a = scene.a;
    let knock = |port| Frame::tcp((f.outside, CLIENT), (f.node, port), SYN);
    assert_eq!(scene.router_says(knock(PORT)).code, REDIRECT);
    scene.publish((any(&f), PORT + 1), a, (f.a, POD_PORT));
    scene.expect_drop("one client, two ports", DropReason::PublishedTaken, |scene| {
        scene.router_says(knock(PORT + 1))
    });
    let other = Frame::tcp((f.outside, CLIENT + 1), (f.node, PORT + 1), SYN);
    assert_eq!(scene.router_says(other).code, REDIRECT);
    assert_eq!(scene.router_says(knock(PORT)).code, REDIRECT, "its flow goes on");
    let pairs = scene.pairs();
    assert!(pairs.len() == 2 && pairs.iter().all(|pair| pair.reply.is_some()), "{pairs:?}");
}

fn no_binding_gets_a_published_port(f: Family) {
    let mut scene = Scene::new();
    let a = scene.a;
    let live = Talk::Udp.open(&scene, &f, 40_000).seen.source_port;
    scene.publish((any(&f), 40_000), a, (f.a, POD_PORT));
    for talk in [Talk::Tcp, Talk::Udp] {
        let port = see(&scene.says(scene.b, talk.question((f.b, 40_000), f.other)).packet).source_port;
        assert!(port != 40_000 && (32_768..=49_151).contains(&port), "{talk:?}: {port}");
    }
    let sctp = Talk::Sctp.question((f.b, 40_000), f.outside);
    scene.expect_drop("SCTP keeps its port", DropReason::SnatPortTaken, |scene| scene.says(scene.b, sctp));
    let echo = scene.says(scene.b, Talk::Echo.question((f.b, 40_000), f.outside));
    assert_eq!(see(&echo.packet).source_port, 40_000, "an identifier is no port");
    let node = Talk::Udp.question((f.node, 40_000), f.outside).bytes();
    assert_ne!(see(&scene.leaves(&node, 0, 0).packet).source_port, 40_000, "nor does the node's own");
    // What had it before goes on.
    let answer = scene.router_says(Talk::Udp.answer(f.outside, (f.node, live)));
    assert_eq!(ends(&see(&answer.packet)).1, (f.a, 40_000));
    assert!(scene.pairs().iter().all(|pair| pair.reply.is_some()), "{:?}", scene.pairs());
}

fn datagrams_in_pieces(f: Family) {
    let scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    let content: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8).collect();
    let large = |from, to, id| Frame::udp(from, to).payload(content.clone()).identification(id);
    let check = |name: &str, parts: Vec<Vec<u8>>, run: &dyn Fn(&[u8]) -> Ran, from, to| {
        let done: Vec<_> =
            parts.iter().map(|part| scene.expect_no_drop(name, |_| run(part)).packet).collect();
        let datagram = reassemble(&done);
        let seen = see(&datagram);
        assert_eq!(ends(&seen), (from, to), "{name}: {seen:?}");
        assert!(datagram.ends_with(&content), "{name}: content");
    };
    let wire = |frame: Frame| fragments(frame.macs(ROUTER_MAC, GATEWAY_MAC), 1500);
    let of = |pod: netpath_tests::scene::Pod, frame: Frame| fragments(frame.macs(pod.mac, GATEWAY_MAC), 1500);
    let (outside, node, inside) = ((f.outside, CLIENT), (f.node, PORT), (f.b, CLIENT));
    let pod = (f.a, POD_PORT);
    check("in", wire(large(outside, node, 1)), &|part| scene.from_wire(part), outside, pod);
    check("out", of(a, large(pod, outside, 2)), &|part| scene.from_a(part), node, outside);
    check("of a pod", of(b, large(inside, node, 3)), &|part| scene.from(b, part), inside, pod);
    check("to a pod", of(a, large(pod, inside, 4)), &|part| scene.from_a(part), node, inside);
    let own = (f.a, CLIENT);
    let shown = (hairpin(&f), CLIENT);
    check("to itself", of(a, large(own, node, 5)), &|part| scene.from_a(part), shown, pod);
    check("and back", of(a, large(pod, shown, 6)), &|part| scene.from_a(part), node, own);
    // A later piece first: let go, and the datagram is told lost.
    for (name, parts) in [
        ("outside", wire(large((f.other, CLIENT), node, 7))),
        ("inside", of(b, large((f.b, CLIENT + 1), node, 8))),
    ] {
        let run = |part: &[u8]| if name == "outside" { scene.from_wire(part) } else { scene.from(b, part) };
        run(&parts[1]).assert_untouched(name, &parts[1]);
        scene.expect_drop(name, DropReason::FragmentOutOfOrder, |_| run(&parts[0]));
    }
}

fn a_pod_that_publishes_does_not_take_the_short_way_of_xdp(f: Family) {
    let mut scene = scene(&f);
    let (a, b) = (scene.a, scene.b);
    scene.take_frames(b);
    let answer = Frame::udp((f.a, POD_PORT), (f.b, CLIENT)).macs(a.mac, GATEWAY_MAC).bytes();
    let run = |scene: &Scene| scene.run_xdp(netpath_common::abi::Program::XdpPod, &answer, a.ifindex);
    run(&scene).assert_untouched("it may be an answer", &answer);
    scene.change_endpoint(a, |_| {});
    run(&scene).assert_forwarded("it cannot", &answer);
}

fn a_table_that_is_full_refuses_it(f: Family) {
    let mut scene = Scene::with_flows(8);
    let a = scene.a;
    scene.publish((any(&f), PORT), a, (f.a, POD_PORT));
    let knock = |port, flags| Frame::tcp((f.outside, port), (f.node, PORT), flags);
    let mut opened = 0;
    // Answered and acknowledged, they are not given up.
    for port in CLIENT.. {
        let before = scene.drops(DropReason::FlowTableFull);
        scene.router_says(knock(port, SYN));
        if scene.drops(DropReason::FlowTableFull) > before {
            break;
        }
        scene.a_says(Frame::tcp((f.a, POD_PORT), (f.outside, port), SYN_ACK));
        scene.router_says(knock(port, ACK));
        opened += 1;
    }
    let pairs = scene.pairs();
    assert!(opened >= 3 && pairs.len() == opened, "{opened} opened: {pairs:?}");
    assert!(pairs.iter().all(|pair| pair.reply.is_some()), "no half is left: {pairs:?}");
    scene.limit_flows(a, 0, u64::MAX);
    scene.flows.remove_if(|_, _| true).expect("flows");
    scene.expect_drop("the pod's limit", DropReason::PodFlowLimit, |scene| scene.router_says(knock(1, SYN)));
}
