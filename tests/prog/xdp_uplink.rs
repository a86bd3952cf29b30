//! `xdp_uplink`: the deny list.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netpath_common::abi::{DropReason, Program};
use netpath_tests::{
    for_both_families,
    packet::{ACK, ETHERNET, ErrorKind, Extension, Frame, RST, SYN, arp, protocol, solicitation},
    scene::{DROP, Family, NEXT, ROUTER_MAC, Ran, Scene, Talk, from_router},
};

for_both_families!(
    xdp_drops_and_counts_what_comes_from_a_denied_prefix,
    xdp_passes_everything_else_as_it_came,
    xdp_counts_by_the_longest_prefix,
    xdp_judges_a_damaged_packet_by_its_source,
    xdp_passes_what_cannot_be_read,
    xdp_denies_nobody_of_the_other_family,
);

fn deny(scene: &mut Scene, prefixes: &[(&str, u32)]) {
    let list = prefixes.iter().map(|(prefix, row)| (prefix.parse::<IpNet>().expect("prefix"), *row));
    scene.datapath.set_denied(&list.collect::<BTreeMap<_, _>>()).expect("deny list");
}

fn arrives(scene: &Scene, packet: &[u8]) -> Ran {
    scene.run_xdp(Program::XdpUplink, packet, scene.uplink)
}

/// What a prefix has counted: packets and bytes.
fn counted(scene: &Scene, row: u32) -> (u64, u64) {
    let counter = scene.datapath.readings().denied(row).expect("counter");
    (counter.packets, counter.bytes)
}

/// Every kind of packet from one sender.
fn all_kinds(f: &Family) -> Vec<(&'static str, Vec<u8>)> {
    let from = (f.outside, 443);
    let udp = || Frame::udp(from, (f.node, 40_000));
    let about = Frame::udp((f.node, 40_000), from).packet();
    let mut frames = vec![
        ("tcp", Frame::tcp(from, (f.node, 40_000), SYN)),
        ("an answer", Frame::tcp(from, (f.node, 40_000), ACK)),
        ("a reset", Frame::tcp(from, (f.node, 40_000), RST)),
        ("udp", udp()),
        ("to a pod", udp().to(f.a)),
        ("echo", Frame::echo(f.outside, f.node, true, 1, 1)),
        ("ICMP error", Frame::error(f.outside, f.node, ErrorKind::Unreachable(3), &about, usize::MAX)),
        ("first fragment", udp().fragment(0, true)),
        ("later fragment", udp().fragment(100, false)),
        ("SCTP", Frame::sctp(from, (f.node, 36412))),
        ("another protocol", Frame::raw(f.outside, f.node, 47).payload(vec![7; 1000])),
        ("nothing behind the header", Frame::raw(f.outside, f.node, protocol::NONE).payload(Vec::new())),
    ];
    if f.is_v4() {
        frames.push(("IP options", udp().options(&[1; 40])));
    } else {
        frames.push(("extension headers", udp().extension(Extension::Destination, &[0; 14])));
    }
    frames.into_iter().map(|(name, frame)| (name, from_router(frame))).collect()
}

fn xdp_drops_and_counts_what_comes_from_a_denied_prefix(f: Family) {
    let mut scene = Scene::new();
    deny(&mut scene, &[(f.outside_net, 3), (f.unmasked_net, 4)]);
    Talk::Udp.open(&scene, &f, 40_000);
    let (mut packets, mut bytes) = (0, 0);
    for (name, packet) in all_kinds(&f) {
        scene.expect_drop(name, DropReason::Denied, |scene| arrives(scene, &packet));
        (packets, bytes) = (packets + 1, bytes + packet.len() as u64);
        assert_eq!(counted(&scene, 3), (packets, bytes), "{name}");
    }
    let counter = scene.datapath.readings().drops(DropReason::Denied).expect("counter");
    assert_eq!((counter.packets, counter.bytes), (packets, bytes));
    assert_eq!(counted(&scene, 4), (0, 0), "nobody of the other prefix has sent");
    scene.datapath.clear_denied(3).expect("cleared");
    assert_eq!(counted(&scene, 3), (0, 0));
}

fn xdp_passes_everything_else_as_it_came(f: Family) {
    let mut scene = Scene::new();
    // The destination is not asked, nor is what an ICMP error embeds.
    deny(&mut scene, &[(f.unmasked_net, 0), (f.pick("198.18.0.2/32", "2001:db8:ff::2/128"), 1)]);
    for (name, packet) in all_kinds(&f) {
        scene.expect_no_drop(name, |scene| arrives(scene, &packet)).assert_untouched(name, &packet);
    }
    deny(&mut scene, &[]);
    for (name, packet) in all_kinds(&f) {
        arrives(&scene, &packet).assert_untouched(name, &packet);
    }
}

fn xdp_counts_by_the_longest_prefix(f: Family) {
    let mut scene = Scene::new();
    let (one, wide) = (f.pick("203.0.113.9/32", "2001:db8:9::9/128"), f.pick("200.0.0.0/5", "2000::/3"));
    deny(&mut scene, &[(one, 1), (f.outside_net, 2), (wide, 0)]);
    let send = |scene: &Scene, from| arrives(scene, &from_router(Frame::udp((from, 1), (f.node, 2)))).code;
    for (from, rows) in [(f.outside, [0, 1, 0]), (f.other, [0, 1, 1])] {
        assert_eq!(send(&scene, from), DROP, "{from}");
        assert_eq!([0, 1, 2].map(|row| counted(&scene, row).0), rows, "{from}");
    }
    deny(&mut scene, &[(wide, 0)]);
    assert_eq!(send(&scene, f.outside), DROP);
    assert_eq!(counted(&scene, 0).0, 1, "the longer ones are gone");
    deny(&mut scene, &[(one, 1)]);
    assert_eq!((send(&scene, f.outside), send(&scene, f.other)), (DROP, NEXT));
}

fn xdp_judges_a_damaged_packet_by_its_source(f: Family) {
    let mut scene = Scene::new();
    deny(&mut scene, &[(f.outside_net, 0)]);
    let udp = from_router(Frame::udp((f.outside, 1), (f.node, 2)).payload(vec![0; 40]));
    let mut rows = vec![
        ("cut in the UDP header", udp[..f.transport() + 4].to_vec()),
        ("length beyond the packet", patched(&udp, f.pick(16, 18), &[0xff, 0xff])),
        ("UDP length below its header", patched(&udp, f.transport() + 4, &[0, 7])),
    ];
    if f.is_v4() {
        rows.push(("header of 16 bytes", patched(&udp, ETHERNET, &[0x44])));
    }
    for (name, packet) in rows {
        scene.expect_drop(name, DropReason::Denied, |scene| arrives(scene, &packet));
    }
}

fn xdp_passes_what_cannot_be_read(f: Family) {
    let mut scene = Scene::new();
    deny(
        &mut scene,
        &[(f.outside_net, 0), ("128.0.0.0/1", 1), ("0.0.0.0/1", 2), ("::/1", 3), ("8000::/1", 4)],
    );
    let udp = from_router(Frame::udp((f.outside, 1), (f.node, 2)));
    let vlan = [&udp[..12], &[0x81, 0, 0, 7], &udp[12..]].concat();
    let mut rows = vec![
        ("a frame without a packet", udp[..ETHERNET].to_vec()),
        ("cut in the IP header", udp[..f.transport() - 1].to_vec()),
        ("another version", patched(&udp, ETHERNET, &[0x55])),
        ("the other family's EtherType", patched(&udp, 12, f.pick(&[0x86, 0xdd], &[8, 0]))),
        ("another EtherType", patched(&udp, 12, &[0x88, 0xcc])),
        ("a VLAN's", vlan),
    ];
    if f.is_v4() {
        rows.push(("ARP", arp(true, ROUTER_MAC, (ROUTER_MAC, f.outside), f.node)));
    } else {
        let mapped = "::ffff:203.0.113.9".parse::<std::net::Ipv6Addr>().expect("address").octets();
        rows.push(("a v4-mapped source", patched(&udp, 22, &mapped)));
    }
    for (name, packet) in rows {
        scene.expect_no_drop(name, |scene| arrives(scene, &packet)).assert_untouched(name, &packet);
    }
    if !f.is_v4() {
        let asked = solicitation(ROUTER_MAC, f.outside, f.node, Some(ROUTER_MAC));
        scene.expect_drop("neighbour discovery", DropReason::Denied, |scene| arrives(scene, &asked.bytes()));
    }
}

fn xdp_denies_nobody_of_the_other_family(f: Family) {
    let mut scene = Scene::new();
    // All of the other family, as far as prefixes of a bit's length tell.
    let all = f.pick(["::/1", "8000::/1"], ["0.0.0.0/1", "128.0.0.0/1"]);
    deny(&mut scene, &[(all[0], 0), (all[1], 1)]);
    for (name, packet) in all_kinds(&f) {
        arrives(&scene, &packet).assert_untouched(name, &packet);
    }
}

fn patched(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}
