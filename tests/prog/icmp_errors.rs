//! ICMP errors (RFC 792, RFC 4443; RFC 5508 for translators): they belong to the flow of the packet they embed.

use netpath_common::abi::{DropReason, TrafficClass};
use netpath_tests::{
    for_both_families,
    packet::{ETHERNET, ErrorKind, Extension, Frame, Seen, fragments, see, shown},
    scene::{DROP, Family, GATEWAY_MAC, NEXT, Opened, REDIRECT, Ran, SERVER_PORT, Scene, Talk, from_router},
};

for_both_families!(
    an_error_about_a_translated_flow_reaches_its_pod,
    options_and_extensions_inside_and_outside_do_not_hide_the_flow,
    an_embedded_udp_checksum_of_zero_stays,
    an_error_about_a_fragmented_datagram_reaches_its_pod,
    an_error_about_an_untranslated_flow_is_let_in,
    what_no_pod_sent_is_the_nodes,
    to_a_pods_own_address_only_about_its_flows,
    an_error_makes_no_flow_and_keeps_none_alive,
    the_last_hop_of_an_error_ends_here,
    an_error_of_a_pod_is_translated_as_its_flow_is,
    an_error_of_a_pod_about_nothing_it_got_is_refused,
    an_error_of_a_pod_about_what_came_to_its_own_address_keeps_it,
);

/// Every error that tells about a packet, with every code of "unreachable".
fn kinds(f: &Family) -> Vec<ErrorKind> {
    let codes = if f.is_v4() { 0..=15 } else { 0..=7 };
    // IPv4's code 4 is "too big".
    let mut kinds: Vec<_> =
        codes.filter(|code| !f.is_v4() || *code != 4).map(ErrorKind::Unreachable).collect();
    kinds.extend([1280, 1400, 9000].map(ErrorKind::TooBig));
    kinds.extend([ErrorKind::TimeExceeded(0), ErrorKind::TimeExceeded(1)]);
    kinds.extend([ErrorKind::ParameterProblem(0, 20), ErrorKind::ParameterProblem(1, 0)]);
    if f.is_v4() {
        kinds.push(ErrorKind::SourceQuench);
    }
    kinds
}

/// The second word of an error's header.
fn word(kind: ErrorKind, f: &Family) -> u32 {
    match kind {
        ErrorKind::TooBig(mtu) => mtu.into(),
        ErrorKind::ParameterProblem(_, pointer) => u32::from(pointer) << if f.is_v4() { 24 } else { 0 },
        _ => 0,
    }
}

/// An error of a router on the way, about the packet that left; it embeds this much behind the IP header.
fn error_about(opened: &Opened, f: &Family, kind: ErrorKind, embed: usize) -> Frame {
    Frame::error(f.router, f.node, kind, &opened.left, f.header().saturating_add(embed))
}

fn assert_reached_a(name: &str, scene: &Scene, f: &Family, ran: &Ran) -> Seen {
    assert_eq!(ran.code, REDIRECT, "{name}: {}", shown(&ran.packet));
    let seen = see(&ran.packet);
    assert_eq!(ran.macs(), (GATEWAY_MAC, scene.a.mac), "{name}: {seen:?}");
    assert_eq!((seen.source, seen.destination, seen.ttl), (f.router, f.a, 63), "{name}: {seen:?}");
    seen
}

fn an_error_about_a_translated_flow_reaches_its_pod(f: Family) {
    let scene = Scene::new();
    let mut count = 0;
    for talk in Talk::ALL {
        // Kept and moved ports; eight bytes of transport are all that need be there, twelve end in TCP's header.
        for port in [40_000, 1000] {
            let opened = talk.open(&scene, &f, port);
            for kind in kinds(&f) {
                for embed in [8, 12, usize::MAX] {
                    let name = format!("{talk:?} {port} {kind:?} {embed}");
                    let error = error_about(&opened, &f, kind, embed);
                    let ran = scene.expect_no_drop(&name, |scene| scene.router_says(error));
                    let seen = assert_reached_a(&name, &scene, &f, &ran);
                    assert_about_what_a_sent(&name, &seen, &opened, talk, port, &f);
                    let icmp = seen.icmp.expect("an ICMP header");
                    let said = (icmp.numbers, icmp.word);
                    assert_eq!(said, (kind.numbers(f.is_v4()), word(kind, &f)), "{name}: {seen:?}");
                    count += 1;
                }
            }
        }
    }
    assert_eq!(scene.traffic(TrafficClass::Reply), count);
    assert_eq!(scene.datapath.readings().pod_counter(scene.a.id).unwrap().rx_packets, count);
}

/// The embedded packet is the pod's own again, byte for byte where the transport begins.
fn assert_about_what_a_sent(name: &str, seen: &Seen, opened: &Opened, talk: Talk, port: u16, f: &Family) {
    let inner = seen.inner.as_ref().unwrap_or_else(|| panic!("{name}: no embedded packet in {seen:?}"));
    assert_eq!((inner.source, inner.source_port), (f.a, port), "{name}: {inner:?}");
    let server = (f.outside, talk.server_port(port));
    assert_eq!((inner.destination, inner.destination_port), server, "{name}: {inner:?}");
    assert_eq!((inner.protocol, inner.ttl), (talk.number(f), 63), "{name}: {inner:?}");
    let sent = &opened.sent[f.header()..];
    assert_eq!(inner.segment, sent[..inner.segment.len()], "{name}: transport as the pod sent it");
}

fn options_and_extensions_inside_and_outside_do_not_hide_the_flow(f: Family) {
    let scene = Scene::new();
    let longer = |frame: Frame| {
        if f.is_v4() {
            frame.options(&[1; 40])
        } else {
            frame.extension(Extension::HopByHop, &[5, 2, 0, 0]).extension(Extension::Destination, &[0; 14])
        }
    };
    for talk in Talk::ALL {
        for (name, inside, outside) in
            [("inside", true, false), ("outside", false, true), ("both", true, true)]
        {
            let name = format!("{talk:?}, {name}");
            let question = talk.question((f.a, 1000), f.outside);
            let question = if inside { longer(question) } else { question };
            let left = scene.a_says(question).packet[ETHERNET..].to_vec();
            let error = Frame::error(f.router, f.node, ErrorKind::TooBig(1400), &left, usize::MAX);
            let error = if outside { longer(error) } else { error };
            let ran = scene.expect_no_drop(&name, |scene| scene.router_says(error));
            let inner = assert_reached_a(&name, &scene, &f, &ran).inner.expect("an embedded packet");
            assert_eq!((inner.source, inner.source_port, inner.mtu), (f.a, 1000, 1400), "{name}: {inner:?}");
        }
    }
}

fn an_embedded_udp_checksum_of_zero_stays(f: Family) {
    let scene = Scene::new();
    let question = Talk::Udp.question((f.a, 1000), f.outside).no_checksum();
    let left = scene.a_says(question).packet[ETHERNET..].to_vec();
    for embed in [f.header() + 8, usize::MAX] {
        let error = Frame::error(f.router, f.node, ErrorKind::Unreachable(1), &left, embed);
        let ran = scene.router_says(error);
        let seen = assert_reached_a("no checksum", &scene, &f, &ran);
        let inner = seen.inner.expect("an embedded packet");
        assert_eq!((inner.source_port, inner.checksum), (1000, Some(0)), "{inner:?}");
    }
}

/// Path MTU discovery of large datagrams embeds the first part.
fn an_error_about_a_fragmented_datagram_reaches_its_pod(f: Family) {
    let scene = Scene::new();
    let question = Talk::Udp.question((f.a, 1000), f.outside).payload(vec![7; 4000]).identification(77);
    let parts = fragments(question.macs(scene.a.mac, GATEWAY_MAC), 1500);
    let left: Vec<_> = parts.iter().map(|part| scene.from_a(part).packet[ETHERNET..].to_vec()).collect();
    let error = Frame::error(f.router, f.node, ErrorKind::TimeExceeded(1), &left[0], 548);
    let ran = scene.expect_no_drop("first part", |scene| scene.router_says(error));
    let inner = assert_reached_a("first part", &scene, &f, &ran).inner.expect("an embedded packet");
    assert_eq!((inner.source, inner.source_port), (f.a, 1000), "{inner:?}");
    // A later part has no ports to tell the flow by.
    let about_later = Frame::error(f.router, f.node, ErrorKind::TimeExceeded(1), &left[1], 548);
    let error = from_router(about_later);
    let ran = scene.expect_no_drop("later part", |scene| scene.from_wire(&error));
    ran.assert_untouched("later part", &error);
}

fn an_error_about_an_untranslated_flow_is_let_in(f: Family) {
    let scene = Scene::new();
    for talk in Talk::ALL {
        let name = format!("{talk:?}");
        let ran = scene.a_says(talk.question((f.a, 1000), f.unmasked));
        let error = Frame::error(f.router, f.a, ErrorKind::TooBig(1400), &ran.packet[ETHERNET..], usize::MAX);
        let packet = from_router(error);
        let ran = scene.expect_no_drop(&name, |scene| scene.from_wire(&packet));
        ran.assert_forwarded(&name, &packet);
        assert_eq!(ran.macs(), (GATEWAY_MAC, scene.a.mac), "{name}");
    }
}

fn what_no_pod_sent_is_the_nodes(f: Family) {
    let scene = Scene::new();
    Talk::Udp.open(&scene, &f, 40_000);
    Talk::Echo.open(&scene, &f, 40_001);
    scene.a_says(Talk::Udp.question((f.a, 1000), f.unmasked));
    let untranslated = Talk::Udp.question((f.a, 1000), f.unmasked).packet();
    let header = f.header();
    let about =
        |packet: &[u8], embed| Frame::error(f.router, f.node, ErrorKind::Unreachable(1), packet, embed);
    let udp = |from, to| Frame::udp(from, to).packet();
    let right = udp((f.node, 40_000), (f.outside, SERVER_PORT));
    let mut version = right.clone();
    version[0] = 0x55;
    let mut rows = vec![
        ("another port", about(&udp((f.node, 40_009), (f.outside, SERVER_PORT)), usize::MAX)),
        ("another port of the server", about(&udp((f.node, 40_000), (f.outside, 80)), usize::MAX)),
        ("another server", about(&udp((f.node, 40_000), (f.other, SERVER_PORT)), usize::MAX)),
        ("another protocol", about(&Frame::raw(f.node, f.outside, 47).packet(), usize::MAX)),
        ("an identifier of nobody", about(&Frame::echo(f.node, f.outside, true, 9, 1).packet(), usize::MAX)),
        // The pod asked; it never answered.
        (
            "the answer to an echo",
            about(&Frame::echo(f.node, f.outside, false, 40_001, 1).packet(), usize::MAX),
        ),
        ("a pod's packet that the node did not send", about(&untranslated, usize::MAX)),
        ("another sender", about(&udp((f.other, 40_000), (f.outside, SERVER_PORT)), usize::MAX)),
        ("seven bytes of the transport", about(&right, header + 7)),
        ("only an IP header", about(&right, header)),
        ("part of an IP header", about(&right, header - 1)),
        ("nothing", about(&right, 0)),
        ("version 5", about(&version, usize::MAX)),
    ];
    if f.is_v4() {
        let redirect = ErrorKind::Redirect([198, 18, 0, 9].into());
        rows.push(("a redirect", Frame::error(f.router, f.node, redirect, &right, usize::MAX)));
    }
    for (name, frame) in rows {
        let packet = from_router(frame);
        let ran = scene.expect_no_drop(name, |scene| scene.from_wire(&packet));
        ran.assert_untouched(name, &packet);
    }
    assert_eq!(scene.pairs().len(), 3, "{:?}", scene.pairs());
}

fn to_a_pods_own_address_only_about_its_flows(f: Family) {
    let mut scene = Scene::new();
    scene.a_says(Talk::Udp.question((f.a, 1000), f.unmasked));
    let translated = Talk::Udp.open(&scene, &f, 40_000).left;
    let udp = |from: u16, to| Frame::udp((f.a, from), (to, SERVER_PORT)).packet();
    let about = |packet: &[u8], embed| Frame::error(f.router, f.a, ErrorKind::Unreachable(1), packet, embed);
    let rows = [
        ("a flow it does not have", about(&udp(2000, f.unmasked), usize::MAX)),
        ("a server it did not ask", about(&udp(1000, f.outside), usize::MAX)),
        (
            "what another pod sent",
            about(&Frame::udp((f.b, 1000), (f.unmasked, SERVER_PORT)).packet(), usize::MAX),
        ),
        ("what left with the node's address", about(&translated, usize::MAX)),
        ("nothing", about(&udp(1000, f.unmasked), 0)),
        ("too little", about(&udp(1000, f.unmasked), f.header() + 4)),
    ];
    for (name, frame) in rows.clone() {
        scene.expect_drop(name, DropReason::InboundDenied, |scene| scene.router_says(frame));
    }
    assert_eq!(scene.pairs().len(), 2, "{:?}", scene.pairs());
    scene.allow_inbound();
    for (name, frame) in rows {
        let packet = from_router(frame);
        scene.from_wire(&packet).assert_forwarded(name, &packet);
    }
    assert_eq!(scene.pairs().len(), 2, "an error makes no flow: {:?}", scene.pairs());
}

fn an_error_makes_no_flow_and_keeps_none_alive(f: Family) {
    let scene = Scene::new();
    let opened = Talk::Udp.open(&scene, &f, 1000);
    let state = || {
        let pairs = scene.pairs();
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        let reply = pairs[0].reply.expect("reply");
        (pairs[0].state().name(), pairs[0].last_seen(), pairs[0].original.packets, reply.packets)
    };
    let before = state();
    for kind in kinds(&f) {
        assert_eq!(scene.router_says(error_about(&opened, &f, kind, usize::MAX)).code, REDIRECT, "{kind:?}");
    }
    assert_eq!(state(), before, "state, last seen, packets of both halves");
}

fn the_last_hop_of_an_error_ends_here(f: Family) {
    let scene = Scene::new();
    let opened = Talk::Udp.open(&scene, &f, 1000);
    let error = error_about(&opened, &f, ErrorKind::Unreachable(1), usize::MAX).ttl(1);
    scene.expect_drop("TTL 1", DropReason::TtlExpired, |scene| scene.router_says(error));
}

/// A port that nobody listens on any more, a datagram that was never complete: the pod's kernel says so to the server.
fn an_error_of_a_pod_is_translated_as_its_flow_is(f: Family) {
    let scene = Scene::new();
    for talk in Talk::ALL {
        for port in [40_000, 1000] {
            let binding = talk.open(&scene, &f, port).seen.source_port;
            let answer = talk.answer(f.outside, (f.node, binding));
            let on_the_wire = answer.clone().packet();
            let received = scene.router_says(answer).packet[ETHERNET..].to_vec();
            let flows = scene.pairs().len();
            for kind in
                [ErrorKind::Unreachable(3), ErrorKind::TimeExceeded(1), ErrorKind::ParameterProblem(1, 6)]
            {
                for embed in [f.header() + 8, f.header() + 12, usize::MAX] {
                    let name = format!("{talk:?} {port} {kind:?} {embed}");
                    let error = Frame::error(f.a, f.outside, kind, &received, embed);
                    let ran = scene.expect_no_drop(&name, |scene| scene.a_says(error));
                    assert_eq!(ran.code, REDIRECT, "{name}");
                    let seen = see(&ran.packet);
                    assert_eq!((seen.source, seen.destination, seen.ttl), (f.node, f.outside, 63), "{name}");
                    let inner = seen.inner.clone().unwrap_or_else(|| panic!("{name}: {seen:?}"));
                    let server = (f.outside, talk.server_port(binding));
                    assert_eq!((inner.source, inner.source_port), server, "{name}: {inner:?}");
                    let own = (f.node, binding);
                    assert_eq!((inner.destination, inner.destination_port), own, "{name}: {inner:?}");
                    let wanted = &on_the_wire[f.header()..][..inner.segment.len()];
                    assert_eq!(inner.segment, wanted, "{name}: transport as it came by the wire");
                }
            }
            assert_eq!(scene.pairs().len(), flows, "{talk:?} {port}: an error makes no flow");
        }
    }
}

fn an_error_of_a_pod_about_nothing_it_got_is_refused(f: Family) {
    let scene = Scene::new();
    Talk::Udp.open(&scene, &f, 40_000);
    scene.says(scene.b, Talk::Udp.question((f.b, 40_001), f.outside));
    let about = |from, to| {
        let received = Frame::udp((from, SERVER_PORT), to).packet();
        Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &received, usize::MAX)
    };
    let sent_itself = Talk::Udp.question((f.a, 40_000), f.outside).packet();
    let received = Talk::Udp.answer(f.outside, (f.a, 40_000)).packet();
    let to_another = Frame::error(f.a, f.other, ErrorKind::Unreachable(3), &received, usize::MAX);
    let to_itself = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &sent_itself, usize::MAX);
    let rows = [
        ("a port it does not use", about(f.outside, (f.a, 40_009))),
        ("a server it did not ask", about(f.other, (f.a, 40_000))),
        ("what another host sent", to_another),
        ("what it sent itself", to_itself),
        ("what came for another pod", about(f.outside, (f.b, 40_001))),
        ("what came for the node", about(f.outside, (f.node, 40_000))),
    ];
    for (name, frame) in rows {
        let reasons = [DropReason::ProtocolNotTranslated, DropReason::SpoofedSource];
        let before = reasons.map(|reason| scene.drops(reason));
        let ran = scene.a_says(frame);
        let dropped: u64 =
            reasons.iter().zip(before).map(|(&reason, before)| scene.drops(reason) - before).sum();
        assert_eq!((ran.code, dropped), (DROP, 1), "{name}: {}", shown(&ran.packet));
    }
    assert_eq!(scene.pairs().len(), 2, "{:?}", scene.pairs());
}

fn an_error_of_a_pod_about_what_came_to_its_own_address_keeps_it(f: Family) {
    let mut scene = Scene::new();
    scene.allow_inbound();
    let knock = Frame::udp((f.outside, 5000), (f.a, 80));
    let received = scene.router_says(knock).packet[ETHERNET..].to_vec();
    let error = Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &received, usize::MAX);
    let packet = error.macs(scene.a.mac, GATEWAY_MAC).bytes();
    let ran = scene.expect_no_drop("port unreachable", |scene| scene.from_a(&packet));
    ran.assert_forwarded("port unreachable", &packet);

    scene.a_says(Talk::Udp.question((f.a, 1000), f.vpn));
    let received = Talk::Udp.answer(f.vpn, (f.a, 1000)).packet();
    let error = Frame::error(f.a, f.vpn, ErrorKind::Unreachable(3), &received, usize::MAX);
    let packet = error.macs(scene.a.mac, GATEWAY_MAC).bytes();
    let ran = scene.expect_no_drop("by the VPN", |scene| scene.from_a(&packet));
    assert_eq!(ran.code, NEXT, "by the VPN");
    ran.assert_untouched("by the VPN", &packet);
}
