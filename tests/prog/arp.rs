//! `from_pod`, ARP.

use std::net::{IpAddr, Ipv4Addr};

use netpath_common::abi::{DropReason, TrafficClass};
use netpath_tests::{
    packet::arp,
    scene::{GATEWAY, GATEWAY_MAC, NEXT, REDIRECT, Scene},
};

fn octets(ip: IpAddr) -> [u8; 4] {
    let IpAddr::V4(v4) = ip else { panic!("{ip} is not IPv4") };
    v4.octets()
}

#[test]
fn any_request_but_for_its_own_address_is_answered_with_the_gateway() {
    let scene = Scene::new();
    let a = scene.a;
    for target in [GATEWAY, scene.b.ip, Ipv4Addr::new(8, 8, 8, 8).into()] {
        let ran = scene.from_a(&arp(true, a.mac, (a.mac, a.ip), target));
        assert_eq!(ran.code, REDIRECT, "{target}");
        let reply = &ran.packet;
        assert_eq!((&reply[..6], &reply[6..12]), (&a.mac[..], &GATEWAY_MAC[..]), "Ethernet addresses");
        assert_eq!(reply[20..22], [0, 2], "a reply");
        assert_eq!((&reply[22..28], &reply[28..32]), (&GATEWAY_MAC[..], &octets(target)[..]), "sender");
        assert_eq!((&reply[32..38], &reply[38..42]), (&a.mac[..], &octets(a.ip)[..]), "target");
    }
    assert_eq!(scene.traffic(TrafficClass::Neighbour), 3);
}

#[test]
fn a_probe_for_its_own_address_finds_it_free() {
    let scene = Scene::new();
    let a = scene.a;
    let rows = [
        ("probe (RFC 5227)", arp(true, a.mac, (a.mac, Ipv4Addr::UNSPECIFIED), a.ip)),
        ("announcement", arp(true, a.mac, (a.mac, a.ip), a.ip)),
        ("an answer to the node", arp(false, a.mac, (a.mac, a.ip), Ipv4Addr::new(198, 18, 0, 2))),
    ];
    for (name, packet) in rows {
        let ran = scene.from_a(&packet);
        assert_eq!((ran.code, &ran.packet), (NEXT, &packet), "{name}");
    }
}

#[test]
fn lies_are_refused() {
    let scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let stranger = [2, 9, 9, 9, 9, 9];
    let rows = [
        ("another pod's address", arp(true, a.mac, (a.mac, b.ip), GATEWAY), DropReason::SpoofedSource),
        (
            "nobody's address",
            arp(true, a.mac, (a.mac, Ipv4Addr::new(1, 2, 3, 4)), GATEWAY),
            DropReason::SpoofedSource,
        ),
        ("another MAC", arp(true, stranger, (stranger, a.ip), GATEWAY), DropReason::SpoofedSource),
        ("frame and ARP disagree", arp(true, a.mac, (stranger, a.ip), GATEWAY), DropReason::SpoofedSource),
        ("gratuitous for another", arp(false, a.mac, (a.mac, b.ip), b.ip), DropReason::SpoofedSource),
        ("truncated", arp(true, a.mac, (a.mac, a.ip), GATEWAY)[..40].to_vec(), DropReason::Malformed),
    ];
    for (name, packet, reason) in rows {
        let before = scene.all_drops();
        let ran = scene.from_a(&packet);
        scene.assert_dropped(name, &ran, &before, reason);
    }
}

/// One rule with the guard's: an address is the pod's on each of its interfaces.
#[test]
fn a_pod_of_two_interfaces_may_ask_by_one_in_the_name_of_the_other() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    let asks = |sender: IpAddr, target: IpAddr| arp(true, a.mac, (a.mac, sender), target);
    scene.expect_drop("another pod's", DropReason::SpoofedSource, |scene| scene.from_a(&asks(b.ip, GATEWAY)));
    // B's interface becomes A's second one.
    scene.set_pod_number(b, a.id);
    let ran = scene.expect_no_drop("its other address", |scene| scene.from_a(&asks(b.ip, GATEWAY)));
    assert_eq!(ran.code, REDIRECT);
    assert_eq!((&ran.packet[28..32], &ran.packet[38..42]), (&octets(GATEWAY)[..], &octets(b.ip)[..]));
    // Nobody else has its addresses: who looks finds them free, and who announces them is not contradicted.
    for (name, packet) in [
        ("announcement", asks(b.ip, b.ip)),
        ("probe", asks(Ipv4Addr::UNSPECIFIED.into(), b.ip)),
        ("question", asks(a.ip, b.ip)),
        ("answer to the node", arp(false, a.mac, (a.mac, b.ip), Ipv4Addr::new(198, 18, 0, 2))),
    ] {
        let ran = scene.expect_no_drop(name, |scene| scene.from_a(&packet));
        assert_eq!((ran.code, &ran.packet), (NEXT, &packet), "{name}");
    }
    let other_mac = arp(true, b.mac, (b.mac, b.ip), GATEWAY);
    scene.expect_drop("its other MAC", DropReason::SpoofedSource, |scene| scene.from_a(&other_mac));
}
