//! `from_pod`, neighbour discovery: what ARP is to IPv4. All names have "ipv6" in them by the module of the test.

mod ipv6 {
    use std::net::{IpAddr, Ipv6Addr};

    use netpath_common::abi::{DropReason, TrafficClass};
    use netpath_tests::{
        packet::{
            Extension, Frame, OVERRIDE, SOLICITED, advertisement, listener_report, probe,
            router_advertisement, router_solicitation, see, see_advertisement, solicitation,
        },
        scene::{Family, GATEWAY_MAC, GATEWAY6, REDIRECT, Scene},
    };

    const F: Family = Family::V6;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn any_solicitation_but_for_its_own_address_is_answered_with_the_gateway() {
        let scene = Scene::new();
        let a = scene.a;
        let mut count = 0;
        for target in [GATEWAY6, F.b, F.nobody, F.outside, scene.b.link_local, ip("fe80::5")] {
            for source in [a.ip6, a.link_local] {
                // By multicast to find the neighbour, by unicast to see that it is still there (RFC 4861, 7.3.3).
                let asked = solicitation(a.mac, source, target, Some(a.mac));
                let again = asked.clone().to(target).macs(a.mac, GATEWAY_MAC);
                for frame in [asked, again] {
                    let name = format!("{source} asks for {target}: {frame:?}");
                    let ran = scene.expect_no_drop(&name, |scene| scene.from_a(&frame.bytes()));
                    assert_eq!(ran.code, REDIRECT, "{name}");
                    let answer = see_advertisement(&ran.packet);
                    assert_eq!(ran.macs(), (GATEWAY_MAC, a.mac), "{name}: {answer:?}");
                    assert_eq!((answer.seen.source, answer.seen.destination), (target, source), "{name}");
                    assert_eq!(answer.target, target, "{name}: {answer:?}");
                    assert_eq!(answer.link_address, Some(GATEWAY_MAC), "{name}: {answer:?}");
                    assert_eq!(answer.flags & SOLICITED, SOLICITED, "{name}: {answer:?}");
                    count += 1;
                }
            }
        }
        assert_eq!(scene.traffic(TrafficClass::Neighbour), count);
    }

    /// RFC 4861, 7.2.4: only the answer to a question by unicast may do without the link-layer address. With no option in
    /// the question there may be no room for it, and then a question by multicast may not be answered wrongly.
    #[test]
    fn a_solicitation_without_a_link_address_gets_no_wrong_answer() {
        let scene = Scene::new();
        let a = scene.a;
        let frame = solicitation(a.mac, a.ip6, GATEWAY6, None).to(GATEWAY6).macs(a.mac, GATEWAY_MAC);
        let ran = scene.expect_no_drop("by unicast", |scene| scene.from_a(&frame.bytes()));
        let answer = see_advertisement(&ran.packet);
        assert_eq!((ran.code, answer.target, answer.seen.destination), (REDIRECT, GATEWAY6, a.ip6));
        assert!(matches!(answer.link_address, None | Some(GATEWAY_MAC)), "{answer:?}");
    }

    #[test]
    fn a_probe_for_its_own_address_finds_it_free() {
        let scene = Scene::new();
        let a = scene.a;
        // RFC 7527: a nonce tells the prober's own probe from another's.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let target = |address: IpAddr| match address {
            IpAddr::V6(v6) => v6.octets().to_vec(),
            IpAddr::V4(_) => panic!("{address} is IPv4"),
        };
        let rows = [
            ("probe", probe(a.mac, a.ip6)),
            ("probe of the link-local address", probe(a.mac, a.link_local)),
            ("probe with a nonce", probe(a.mac, a.ip6).payload([target(a.ip6), nonce.to_vec()].concat())),
            ("it asks for itself", solicitation(a.mac, a.link_local, a.ip6, Some(a.mac))),
            ("announcement", advertisement(a.mac, a.ip6, ip("ff02::1"), a.ip6, OVERRIDE)),
            (
                "announcement of the link-local address",
                advertisement(a.mac, a.link_local, ip("ff02::1"), a.link_local, OVERRIDE),
            ),
            (
                "an answer to the node",
                advertisement(a.mac, a.ip6, F.node, a.ip6, SOLICITED).macs(a.mac, GATEWAY_MAC),
            ),
        ];
        assert_left_alone(&scene, rows);
    }

    #[test]
    fn what_a_kernel_says_by_itself_is_left_alone() {
        let scene = Scene::new();
        let a = scene.a;
        let (unspecified, group) = (Ipv6Addr::UNSPECIFIED, "ff02::1:ff00:2".parse().expect("group"));
        let rows = [
            ("router solicitation", router_solicitation(a.mac, a.link_local, Some(a.mac))),
            ("router solicitation without an address", router_solicitation(a.mac, unspecified, None)),
            ("listener report", listener_report(a.mac, a.link_local, group)),
            ("listener report without an address", listener_report(a.mac, unspecified, group)),
        ];
        assert_left_alone(&scene, rows);
    }

    fn assert_left_alone(scene: &Scene, rows: impl IntoIterator<Item = (&'static str, Frame)>) {
        for (name, frame) in rows {
            let packet = frame.bytes();
            let ran = scene.expect_no_drop(name, |scene| scene.from_a(&packet));
            ran.assert_untouched(name, &packet);
        }
        assert_eq!(scene.traffic(TrafficClass::Neighbour), 0, "nothing was answered");
        assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
    }

    #[test]
    fn lies_are_refused() {
        let scene = Scene::new();
        let (a, b) = (scene.a, scene.b);
        let stranger = [2, 9, 9, 9, 9, 9];
        let all = ip("ff02::1");
        let rows = [
            ("another pod's address", solicitation(a.mac, b.ip6, GATEWAY6, Some(a.mac))),
            ("nobody's address", solicitation(a.mac, F.outside, GATEWAY6, Some(a.mac))),
            ("the node's address", solicitation(a.mac, F.node, GATEWAY6, Some(a.mac))),
            ("another MAC", solicitation(stranger, a.ip6, GATEWAY6, Some(stranger))),
            ("another MAC, link-local", solicitation(stranger, a.link_local, GATEWAY6, Some(stranger))),
            ("another MAC, probe", probe(stranger, a.ip6)),
            ("frame and option disagree", solicitation(a.mac, a.ip6, GATEWAY6, Some(stranger))),
            ("it speaks for another pod", advertisement(a.mac, a.ip6, all, b.ip6, OVERRIDE)),
            ("it speaks for nobody", advertisement(a.mac, a.ip6, all, F.nobody, OVERRIDE)),
            ("it speaks for the node", advertisement(a.mac, a.link_local, F.node, F.node, OVERRIDE)),
            ("it speaks for another pod, unasked by it", advertisement(a.mac, b.ip6, all, b.ip6, OVERRIDE)),
            ("it would be a router", router_advertisement(a.mac, a.link_local)),
            (
                "it sends others elsewhere",
                Frame::message(a.link_local, F.node, [137, 0], [0; 4])
                    .macs(a.mac, GATEWAY_MAC)
                    .ttl(255)
                    .payload(vec![0; 32]),
            ),
        ];
        for (name, frame) in rows {
            let packet = frame.bytes();
            scene.expect_drop(name, DropReason::SpoofedSource, |scene| scene.from_a(&packet));
        }
    }

    /// One rule with the guard's: an address is the pod's on each of its interfaces.
    #[test]
    fn a_pod_of_two_interfaces_may_ask_by_one_in_the_name_of_the_other() {
        let mut scene = Scene::new();
        let (a, b) = (scene.a, scene.b);
        let asks = |source: IpAddr, target: IpAddr| solicitation(a.mac, source, target, Some(a.mac)).bytes();
        let spoofed = DropReason::SpoofedSource;
        scene.expect_drop("another pod's", spoofed, |scene| scene.from_a(&asks(b.ip6, GATEWAY6)));
        // B's interface becomes A's second one.
        scene.set_pod_number(b, a.id);
        let ran = scene.expect_no_drop("its other address", |scene| scene.from_a(&asks(b.ip6, GATEWAY6)));
        let answer = see_advertisement(&ran.packet);
        assert_eq!((ran.code, answer.target, answer.seen.destination), (REDIRECT, GATEWAY6, b.ip6));
        for (name, packet) in [
            ("question", asks(a.ip6, b.ip6)),
            ("announcement", advertisement(a.mac, b.ip6, ip("ff02::1"), b.ip6, OVERRIDE).bytes()),
            ("of the other", advertisement(a.mac, a.ip6, F.node, b.ip6, SOLICITED).bytes()),
        ] {
            let ran = scene.expect_no_drop(name, |scene| scene.from_a(&packet));
            ran.assert_untouched(name, &packet);
        }
        let other_mac = solicitation(b.mac, b.ip6, GATEWAY6, Some(b.mac)).bytes();
        scene.expect_drop("its other MAC", spoofed, |scene| scene.from_a(&other_mac));
    }

    /// RFC 4861, 7.1.1: whoever is not on the link cannot send with the full hop limit.
    #[test]
    fn damaged_solicitations_are_refused() {
        let scene = Scene::new();
        let a = scene.a;
        let asked = || solicitation(a.mac, a.ip6, GATEWAY6, Some(a.mac));
        let rows = [
            ("a router was on the way", asked().ttl(254)),
            ("nothing in it", asked().payload(Vec::new())),
            ("cut in the target", asked().payload(vec![0xfe; 15])),
        ];
        for (name, frame) in rows {
            let packet = frame.bytes();
            scene.expect_drop(name, DropReason::Malformed, |scene| scene.from_a(&packet));
        }
    }

    /// A link-local address is nobody's on any other link: nothing of it is routed.
    #[test]
    fn link_local_sources_only_talk_on_the_link() {
        let scene = Scene::new();
        let a = scene.a;
        let from = a.link_local;
        for (name, to) in
            [("another pod", F.b), ("outside", F.outside), ("the node", F.node), ("the VPN", F.vpn)]
        {
            for frame in [Frame::udp((from, 1), (to, 2)), Frame::echo(from, to, true, 1, 1)] {
                scene.expect_drop(name, DropReason::SpoofedSource, |scene| scene.a_says(frame));
            }
        }
        let ran = scene
            .expect_no_drop("the gateway", |scene| scene.a_says(Frame::echo(from, GATEWAY6, true, 9, 1)));
        let seen = see(&ran.packet);
        assert_eq!((ran.code, ran.macs()), (REDIRECT, (GATEWAY_MAC, a.mac)), "{seen:?}");
        assert_eq!((seen.source, seen.destination, seen.source_port), (GATEWAY6, from, 9), "{seen:?}");
        assert!(scene.pairs().is_empty(), "{:?}", scene.pairs());
    }

    #[test]
    fn other_multicast_is_refused() {
        let scene = Scene::new();
        let a = scene.a;
        let mdns = || Frame::udp((a.ip6, 5353), (ip("ff02::fb"), 5353));
        for (name, frame) in [
            ("mDNS", mdns()),
            ("mDNS behind a hop-by-hop header", mdns().extension(Extension::HopByHop, &[5, 2, 0, 0])),
            ("echo to all nodes", Frame::echo(a.ip6, ip("ff02::1"), true, 1, 1)),
            ("part of a datagram", mdns().fragment(9, true)),
        ] {
            scene.expect_drop(name, DropReason::Multicast, |scene| scene.a_says(frame));
        }
    }
}
