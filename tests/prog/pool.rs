//! Several addresses to translate to.

use std::{collections::BTreeSet, net::IpAddr};

use netpath_common::abi::{DropReason, ExhaustedKey, NODE_FLAG_POOL, Pool};
use netpath_tests::{
    for_both_families,
    packet::{Frame, see},
    scene::{Family, REDIRECT, SERVER_PORT, Scene, Talk, addr},
};

for_both_families!(
    each_pod_keeps_to_one_address,
    when_an_address_has_no_port_left_the_next_one_is_used,
    a_pool_of_another_size_leaves_live_flows_alone,
    what_is_refused_is_counted_by_destination,
    tries_are_counted_by_how_many_it_took,
    without_a_pool_there_is_one_address,
);

/// Three addresses.
fn addresses(f: &Family) -> [IpAddr; 3] {
    let more: [&str; 2] = f.pick(["198.18.0.20", "198.18.0.21"], ["2001:db8:ff::20", "2001:db8:ff::21"]);
    let [second, third] = more.map(|text| text.parse().expect("address"));
    [f.node, second, third]
}

/// A scene that translates to them.
fn scene(f: &Family) -> Scene {
    let mut scene = Scene::new();
    set_addresses(&mut scene, f, &addresses(f), NODE_FLAG_POOL);
    scene
}

fn set_addresses(scene: &mut Scene, f: &Family, addresses: &[IpAddr], flags: u32) {
    let pool = Pool::new(&addresses.iter().map(|ip| addr(*ip)).collect::<Vec<_>>());
    scene.set_node(|node| {
        let uplink = &mut node.uplinks[0];
        *(if f.is_v4() { &mut uplink.v4 } else { &mut uplink.v6 }) = pool;
        node.flags = flags;
    });
}

fn each_pod_keeps_to_one_address(f: Family) {
    let scene = scene(&f);
    let mut used = BTreeSet::new();
    for (pod, own) in [(scene.a, f.a), (scene.b, f.b)] {
        let mut sources = BTreeSet::new();
        for (talk, port) in Talk::ALL.into_iter().flat_map(|talk| (0..20).map(move |n| (talk, 1000 + n * 37)))
        {
            for server in [f.outside, f.other] {
                let seen = see(&scene.says(pod, talk.question((own, port), server)).packet);
                sources.insert(seen.source);
                let answer = talk.answer(server, (seen.source, seen.source_port));
                let ran = scene.router_says(answer);
                let seen = see(&ran.packet);
                assert_eq!((ran.code, seen.destination), (REDIRECT, own), "{talk:?}: {seen:?}");
                assert_eq!(seen.destination_port, port, "{talk:?}: {seen:?}");
            }
        }
        assert_eq!(sources.len(), 1, "{own} keeps to one: {sources:?}");
        used.extend(sources);
    }
    assert_eq!(used.len(), 2, "two pods, two addresses: {used:?}");
    assert!(used.iter().all(|source| addresses(&f).contains(source)), "{used:?}");
}

fn when_an_address_has_no_port_left_the_next_one_is_used(f: Family) {
    let mut scene = scene(&f);
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 3));
    for talk in Talk::PORTS {
        let send = |n: u16, to| {
            let seen = see(&scene.a_says(talk.question((f.a, 1000 + n), to)).packet);
            (seen.source, seen.source_port)
        };
        let nine: Vec<_> = (0..9).map(|n| send(n, f.outside)).collect();
        let whole: BTreeSet<_> =
            addresses(&f).into_iter().flat_map(|ip| (33_000..33_003).map(move |port| (ip, port))).collect();
        assert_eq!(
            nine.iter().copied().collect::<BTreeSet<_>>(),
            whole,
            "{talk:?}: all ports of all addresses"
        );
        let home = nine[0].0;
        for three in nine.chunks(3) {
            assert!(three.iter().all(|(ip, _)| *ip == three[0].0), "{talk:?}: one after the other: {nine:?}");
        }
        let question = talk.question((f.a, 2000), f.outside);
        scene.expect_drop("no port left", DropReason::SnatExhausted, |scene| scene.a_says(question));
        assert_eq!(send(2000, f.other).0, home, "{talk:?}: towards others it is at home again");
        for n in 0..9 {
            assert_eq!(send(n, f.outside), nine[usize::from(n)], "{talk:?}: live flows keep theirs");
        }
    }
}

fn a_pool_of_another_size_leaves_live_flows_alone(f: Family) {
    let mut scene = scene(&f);
    let before = Talk::ALL.map(|talk| see(&scene.a_says(talk.question((f.a, 1000), f.outside)).packet));
    set_addresses(&mut scene, &f, &addresses(&f)[..1], NODE_FLAG_POOL);
    let after = Talk::ALL.map(|talk| see(&scene.a_says(talk.question((f.a, 1000), f.outside)).packet));
    assert_eq!(before, after);
    let new = see(&scene.a_says(Talk::Udp.question((f.a, 1001), f.outside)).packet);
    assert_eq!(new.source, f.node, "{new:?}");
}

fn what_is_refused_is_counted_by_destination(f: Family) {
    let mut scene = scene(&f);
    scene.set_node(|node| (node.snat_first, node.snat_count) = (33_000, 1));
    for talk in Talk::PORTS {
        let key = |dst: IpAddr| ExhaustedKey {
            dst: addr(dst),
            dport: if talk == Talk::Echo { 0 } else { SERVER_PORT.to_be() },
            proto: talk.number(&f),
            pad: 0,
        };
        for n in 0..3 {
            scene.a_says(talk.question((f.a, 1000 + n), f.outside));
        }
        assert_eq!(scene.exhausted(&key(f.outside)), None, "{talk:?}: nothing refused yet");
        for n in 0..4 {
            scene.expect_drop("no port", DropReason::SnatExhausted, |scene| {
                scene.a_says(talk.question((f.a, 2000 + n), f.outside))
            });
        }
        let row = scene.exhausted(&key(f.outside)).expect("a row");
        assert_eq!((row.packets, row.pod), (4, scene.a.id), "{talk:?}");
        scene.expect_drop("of another pod", DropReason::SnatExhausted, |scene| {
            scene.says(scene.b, talk.question((f.b, 2000), f.outside))
        });
        let row = scene.exhausted(&key(f.outside)).expect("a row");
        assert_eq!((row.packets, row.pod), (5, scene.b.id), "{talk:?}");
        assert_eq!(scene.exhausted(&key(f.other)), None, "{talk:?}");
    }
    assert_eq!(scene.drops(DropReason::SnatExhausted), 15);
}

fn tries_are_counted_by_how_many_it_took(f: Family) {
    let mut scene = Scene::new();
    let send = |scene: &Scene, port: u16| scene.a_says(Frame::udp((f.a, port), (f.outside, 53))).code;
    assert_eq!(send(&scene, 40_000), REDIRECT);
    assert_eq!(scene.snat_tries(), [1, 0, 0, 0, 0, 0, 0, 0, 0], "the first try");
    assert_eq!(send(&scene, 40_000), REDIRECT);
    assert_eq!(scene.snat_tries().iter().sum::<u64>(), 1, "a known flow tries nothing");
    scene.set_node(|node| (node.snat_first, node.snat_count) = (40_000, 1));
    assert_ne!(send(&scene, 1000), REDIRECT);
    assert_eq!(scene.snat_tries(), [1, 0, 0, 0, 0, 0, 0, 0, 1], "none found");
    scene.set_node(|node| node.snat_count = 2);
    assert_eq!(send(&scene, 1001), REDIRECT);
    let tries = scene.snat_tries();
    // One of two ports is taken: the first try, the one after it, or the third finds the other.
    assert_eq!(tries[..3].iter().sum::<u64>(), 2, "{tries:?}");
    scene.set_node(|node| node.snat_count = 1024);
    // All but the last two of 1,024: a search that ends somewhere beyond the first tries.
    for n in 0..1022 {
        send(&scene, 2000 + n);
    }
    let tries = scene.snat_tries();
    assert_eq!(tries.len(), 9);
    assert!(tries[1..8].iter().sum::<u64>() > 0, "a range that fills takes more than one try: {tries:?}");
}

/// The route's source if the kernel tells it, else the first address.
fn without_a_pool_there_is_one_address(f: Family) {
    let mut scene = Scene::new();
    let [node, second, third] = addresses(&f);
    set_addresses(&mut scene, &f, &[second, node, third], 0);
    let mut used = BTreeSet::new();
    for (pod, own) in [(scene.a, f.a), (scene.b, f.b)] {
        for n in 0..10 {
            let question = Talk::Udp.question((own, 1000 + n), f.outside);
            used.insert(see(&scene.says(pod, question).packet).source);
        }
    }
    assert!(used.len() == 1 && (used.contains(&node) || used.contains(&second)), "{used:?}");
    let forwarded = Talk::Udp.question((f.a, 3000), f.outside).bytes();
    used.insert(see(&scene.leaves(&forwarded, scene.a.ifindex, 0).packet).source);
    assert_eq!(used.len(), 1, "what the stack forwards as well: {used:?}");
}
