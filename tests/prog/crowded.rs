//! Endpoints that share a seat of the cache: they are found as others are, in ENDPOINTS.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{Array, HashMap, Map};
use netpath_common::{
    abi::{Addr, CACHE_SEATS, CachedEndpoint, DropReason, Endpoint, Program},
    logic::seat,
};
use netpath_tests::{
    for_both_families,
    packet::{Frame, see},
    scene::{Family, GATEWAY_MAC, NEXT, REDIRECT, SERVER_PORT, Scene, Talk, addr},
};

for_both_families!(
    pods_that_share_a_seat_are_found,
    who_is_left_of_a_seat_is_found_and_nobody_else,
    a_cache_that_says_something_else_is_put_right,
    nobody_is_found_at_an_empty_seat,
);

/// So many addresses that have the seat of this one.
fn twins(of: IpAddr, count: usize) -> Vec<IpAddr> {
    let wanted = seat::of(&of.into());
    let all = (1_u128..).map(|low| IpAddr::from(Ipv6Addr::from((0xfd77_u128 << 112) + low)));
    all.filter(|address| seat::of(&(*address).into()) == wanted).take(count).collect()
}

/// Puts somebody else on the seats of both pods, and them among the others; returns who sits there now.
fn crowd(scene: &mut Scene, f: &Family) -> Vec<IpAddr> {
    let squatter = Endpoint { pod: 77, ifindex: 7, network: 1, mtu: 1500, ..Endpoint::default() };
    let mut squatters = Vec::new();
    for pod in [scene.a, scene.b] {
        let of = pod.address(f);
        scene.remove_pod(pod);
        for twin in twins(of, 2) {
            scene.datapath.set_endpoint(twin, squatter).expect("endpoint");
            squatters.push(twin);
        }
        scene.change_endpoint(pod, |_| {});
        let seat = cached(scene, of);
        assert!(seat.others == 2 && seat.addr != addr(of), "{seat:?}");
    }
    squatters
}

fn cache(scene: &Scene) -> Array<aya::maps::MapData, CachedEndpoint> {
    Map::Array(scene.table("ENDPOINT_CACHE")).try_into().expect("ENDPOINT_CACHE")
}

fn cached(scene: &Scene, of: IpAddr) -> CachedEndpoint {
    cache(scene).get(&seat::of(&of.into()), 0).expect("a seat")
}

fn assert_delivered(name: &str, scene: &Scene, f: &Family) {
    for (from, to, source, destination) in [(scene.a, scene.b, f.a, f.b), (scene.b, scene.a, f.b, f.a)] {
        let packet = Frame::udp((source, 1000), (destination, 53)).macs(from.mac, GATEWAY_MAC).bytes();
        let ran = scene.from(from, &packet);
        ran.assert_forwarded(name, &packet);
        assert_eq!(ran.macs(), (GATEWAY_MAC, to.mac), "{name}: {from:?} to {to:?}");
        let forged = Frame::udp((destination, 1000), (source, 53));
        scene.expect_drop(name, DropReason::SpoofedSource, |scene| scene.says(from, forged));
    }
}

fn pods_that_share_a_seat_are_found(f: Family) {
    let mut scene = Scene::new();
    let squatters = crowd(&mut scene, &f);
    assert_delivered("among others", &scene, &f);
    for (n, twin) in squatters.into_iter().enumerate() {
        if twin.is_ipv4() == f.is_v4() {
            let to_twin = Frame::udp((f.a, 1000), (twin, 53));
            let ran = scene.expect_no_drop("to who sits there", |scene| scene.a_says(to_twin));
            assert_eq!(ran.macs().1, [0; 6], "to squatter {n}");
        }
    }
    // To outside and back: source and destination are looked for by each program on the way.
    let question = scene.a_says(Talk::Udp.question((f.a, 40_000), f.outside));
    let seen = see(&question.packet);
    assert_eq!((question.code, seen.source), (REDIRECT, f.node));
    let answer = scene.router_says(Talk::Udp.answer(f.outside, (f.node, seen.source_port)));
    let back = see(&answer.packet);
    assert_eq!((back.destination, back.destination_port, answer.macs().1), (f.a, 40_000, scene.a.mac));
    // More than there are spare seats, in any order.
    for round in 0..40 {
        assert_delivered(&format!("round {round}"), &scene, &f);
    }
    scene.take_frames(scene.b);
    let packet = Frame::udp((f.a, 1000), (f.b, SERVER_PORT)).macs(scene.a.mac, GATEWAY_MAC).bytes();
    let ran = scene.run_xdp(Program::XdpPod, &packet, scene.a.ifindex);
    assert_eq!(ran.macs(), (GATEWAY_MAC, scene.b.mac), "by XDP");
}

fn who_is_left_of_a_seat_is_found_and_nobody_else(f: Family) {
    let mut scene = Scene::new();
    for twin in crowd(&mut scene, &f) {
        scene.datapath.remove_endpoint(twin).expect("endpoint");
        assert_delivered("a twin less", &scene, &f);
    }
    let (a, b) = (scene.a, scene.b);
    scene.remove_pod(b);
    let packet = Frame::udp((f.a, 1000), (f.b, 53)).macs(a.mac, GATEWAY_MAC).bytes();
    let ran = scene.from_a(&packet);
    assert_eq!(ran.code, NEXT, "to a pod that is gone: its block is the stack's");
    assert_eq!(cached(&scene, f.b), CachedEndpoint::default());
    scene.expect_drop("from a pod that is gone", DropReason::SpoofedSource, |scene| {
        scene.says(b, Frame::udp((f.b, 1000), (f.a, 53)))
    });
    scene.change_endpoint(b, |_| {});
    assert_delivered("back", &scene, &f);
    assert_eq!((cached(&scene, f.b).addr, cached(&scene, f.b).others), (addr(f.b), 0));
}

fn a_cache_that_says_something_else_is_put_right(f: Family) {
    let scene = Scene::new();
    let mut seats = cache(&scene);
    let whole = cached(&scene, f.a);
    let stranger = Addr([1, 2, 3, 4]);
    let damages = [
        ("emptied", f.a, CachedEndpoint::default()),
        ("another pod's", f.a, CachedEndpoint { endpoint: cached(&scene, f.b).endpoint, ..whole }),
        ("somebody who is gone", f.a, CachedEndpoint { addr: stranger, ..whole }),
        ("others who are not there", f.a, CachedEndpoint { others: 3, ..whole }),
        ("a stale seat", f.outside, CachedEndpoint { addr: addr(f.outside), ..whole }),
    ];
    let mut datapath = scene.load_again(1024);
    for (name, of, damage) in damages {
        let was = cached(&scene, of);
        seats.set(seat::of(&of.into()), damage, 0).expect("damaged");
        assert_eq!(datapath.check_endpoint_cache().expect("checked"), 1, "{name}");
        assert_eq!(cached(&scene, of), was, "{name}");
        assert_delivered(name, &scene, &f);
    }
    assert_eq!(datapath.check_endpoint_cache().expect("checked"), 0);
    // As a build without a cache leaves it: ENDPOINTS has changed, nothing else.
    let mut table: HashMap<_, Addr, Endpoint> =
        Map::HashMap(scene.table("ENDPOINTS")).try_into().expect("ENDPOINTS");
    let b = table.get(&addr(f.b), 0).expect("B");
    table.remove(&addr(f.b)).expect("removed");
    table.insert(addr(f.nobody), b, 0).expect("inserted");
    assert!(datapath.check_endpoint_cache().expect("checked") > 0);
    assert_eq!((cached(&scene, f.b).addr, cached(&scene, f.nobody).addr), (Addr::default(), addr(f.nobody)));

    assert!(
        seats.iter().take(CACHE_SEATS as usize).flatten().filter(|seat| seat.endpoint.pod != 0).count() > 2
    );
}

/// `::` is what an empty seat has for an address.
fn nobody_is_found_at_an_empty_seat(f: Family) {
    let scene = Scene::new();
    let unspecified = f.pick(IpAddr::from([0, 0, 0, 0]), Ipv6Addr::UNSPECIFIED.into());
    let to_nobody = Frame::udp((f.a, 1000), (unspecified, 53));
    scene.expect_drop("to ::", DropReason::MartianDestination, |scene| scene.a_says(to_nobody));
    let from_nobody = Frame::udp((unspecified, 1000), (f.b, 53));
    scene.expect_drop("from ::", DropReason::SpoofedSource, |scene| scene.a_says(from_nobody));
}
