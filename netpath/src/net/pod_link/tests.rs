use std::{net::UdpSocket, time::Duration};

use futures::FutureExt;

use super::*;
use crate::net::{
    sysctl,
    testing::{self, Pair},
};

mod guard;
mod refused;
mod second;

const HOST: &str = "np0";
const POD4: &str = "10.0.0.5";
const POD6: &str = "fd00::5";
const NODE4: &str = "192.0.2.1";
const NODE6: &str = "2001:db8::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4() -> PodLink {
    PodLink {
        host_name: HOST.to_owned(),
        host_mac: [0xee; 6],
        pod_name: "eth0".to_owned(),
        pod_mac: [2, 0, 0, 0, 0, 5],
        mtu: 1450,
        addresses: vec![ip(POD4)],
        gateways: vec![ip("169.254.1.1")],
        allowed: Vec::new(),
        to_pod: None,
        from_pod: None,
        sourced: None,
    }
}

fn dual() -> PodLink {
    PodLink { addresses: vec![ip(POD4), ip(POD6)], gateways: vec![ip("169.254.1.1"), ip("fe80::1")], ..v4() }
}

impl Pair {
    async fn ensure(&self, link: &PodLink) -> Result<u32, NetError> {
        link.ensure(&self.node, &self.node_ns, &self.pod_ns).await
    }

    /// A link of the node that is not ours, up, and its other end.
    async fn foreign(&self, name: &str) -> u32 {
        let peer = VethEnd { name: &format!("p{name}"), mac: None, netns: None };
        self.node.add_veth(&VethEnd { name, mac: None, netns: None }, &peer, None).await.unwrap();
        let index = self.node.link(name).await.unwrap().unwrap().index;
        self.node.set_up(index).await.unwrap();
        index
    }
}

/// Everything a pod's link consists of, as text, so that a difference is readable. Links may vanish meanwhile.
async fn state(pair: &Pair) -> Vec<String> {
    let mut lines = Vec::new();
    for (side, netlink, netns) in [("node", &pair.node, &pair.node_ns), ("pod", &pair.pod, &pair.pod_ns)] {
        for link in netlink.links().await.unwrap() {
            lines.push(format!("{side} {link:?}"));
            for address in [POD4, POD6, "10.0.0.6", "169.254.1.1", "fe80::1"] {
                let mac = netlink.permanent_neighbour(link.index, ip(address)).await.unwrap_or(None);
                lines.extend(mac.map(|mac| format!("{side} {} neighbour {address} {mac:?}", link.name)));
            }
            let name = link.name;
            for knob in [
                "ipv4/conf/NAME/forwarding",
                "ipv6/conf/NAME/forwarding",
                "ipv6/conf/NAME/disable_ipv6",
                "ipv6/conf/NAME/accept_ra",
            ] {
                let key = format!("net/{}", knob.replace("NAME", &name));
                let value = netns.enter(|| sysctl::read(&key)).unwrap();
                lines.extend(value.map(|value| format!("{side} {key} {value}")));
            }
        }
        // Link-local addresses and those of lo are the kernel's: they come and go by themselves, some later.
        let addresses = netlink.addresses().await.unwrap();
        lines.extend(
            addresses
                .iter()
                .filter(|one| one.ifindex != 1 && !one.net.to_string().starts_with("fe80"))
                .map(|one| format!("{side} #{} {}", one.ifindex, one.net)),
        );
        lines.extend(
            netlink.own_routes().await.unwrap().iter().map(|route| format!("{side} route {route:?}")),
        );
    }
    lines.sort();
    lines
}

/// A datagram from the pod to the node's address and back, by the routes and neighbours alone.
fn round_trip(pair: &Pair, node: &str, pod: &str) {
    let server = UdpSocket::bind((ip(node), 9000)).unwrap();
    let client = pair.pod_ns.enter(|| UdpSocket::bind((ip(pod), 0))).unwrap().unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut buffer = [0; 8];
    client.send_to(b"ping", (ip(node), 9000)).unwrap();
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"ping"[..], ip(pod)));
    server.send_to(b"pong", from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 4);
}

async fn give_node_addresses(pair: &Pair) {
    pair.node.set_up(1).await.unwrap();
    for address in [NODE4, NODE6] {
        pair.node.add_address(1, IpNet::from(ip(address))).await.unwrap();
    }
}

#[test]
fn carries_ipv4_and_keeps_ipv6_off() {
    testing::with_pair(|pair| async move {
        give_node_addresses(&pair).await;
        let index = pair.ensure(&v4()).await.unwrap();
        let outer = pair.node.link(HOST).await.unwrap().unwrap();
        let inner = pair.pod.link("eth0").await.unwrap().unwrap();
        assert_eq!((outer.index, outer.mac, outer.mtu, outer.up), (index, [0xee; 6], 1450, true));
        assert_eq!((inner.mac, inner.mtu, inner.up), ([2, 0, 0, 0, 0, 5], 1450, true));
        assert!(pair.pod.link("lo").await.unwrap().unwrap().up);
        assert_eq!(sysctl::read("net.ipv4.conf.np0.forwarding").unwrap(), "1");
        assert_eq!(sysctl::read("net.ipv6.conf.np0.disable_ipv6").unwrap(), "1");
        let read = |key: &'static str| pair.pod_ns.enter(move || sysctl::read(key)).unwrap().unwrap();
        assert_eq!(read("net.ipv6.conf.eth0.disable_ipv6"), "1");
        assert_eq!(read("net.ipv6.conf.default.disable_ipv6"), "0");
        round_trip(&pair, NODE4, POD4);
    });
}

#[test]
fn carries_both_families_ipv6() {
    testing::with_pair(|pair| async move {
        give_node_addresses(&pair).await;
        pair.ensure(&dual()).await.unwrap();
        assert_eq!(sysctl::read("net.ipv6.conf.np0.accept_ra").unwrap(), "0");
        assert_eq!(sysctl::read("net.ipv6.conf.np0.forwarding").unwrap(), "1");
        round_trip(&pair, NODE4, POD4);
        round_trip(&pair, NODE6, POD6);
    });
}

#[test]
fn a_second_time_changes_nothing() {
    use futures::StreamExt;
    use rtnetlink::MulticastGroup as Group;
    testing::with_pair(|pair| async move {
        for link in [v4(), dual()] {
            let index = pair.ensure(&link).await.unwrap();
            let before = state(&pair).await;
            let groups = [Group::Neigh, Group::Ipv4Ifaddr, Group::Ipv4Route, Group::Ipv4Netconf];
            let runtime = tokio::runtime::Handle::current();
            let mut seen = Vec::new();
            for netns in [&pair.node_ns, &pair.pod_ns] {
                let (connection, _, events) = netns
                    .enter(|| {
                        let _reactor = runtime.enter();
                        rtnetlink::new_multicast_connection(&groups).unwrap()
                    })
                    .unwrap();
                tokio::spawn(connection);
                seen.push(events);
            }
            assert_eq!(pair.ensure(&link).await.unwrap(), index);
            assert_eq!(state(&pair).await, before);
            for events in &mut seen {
                let event = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
                assert!(event.is_err(), "the kernel announced a change: {event:?}");
            }
        }
    });
}

/// What a pass would find.
async fn looks_right(pair: &Pair, link: &PodLink, index: u32) -> bool {
    let survey = pair.node.survey().await.unwrap();
    let inside = link.is_right_inside(survey.link(index).unwrap(), &pair.directory.join("pod")).unwrap();
    link.is_right_outside(index, &survey) && inside
}

#[test]
fn repairs_what_others_break_ipv4_and_ipv6() {
    testing::with_pair(|pair| async move {
        let link = dual();
        let index = pair.ensure(&link).await.unwrap();
        let whole = state(&pair).await;
        let eth0 = pair.pod.link("eth0").await.unwrap().unwrap().index;
        assert!(looks_right(&pair, &link, index).await);
        for damage in 0..23 {
            let (v4, v6) = (ip(POD4), ip(POD6));
            let inner = link.inner_routes(eth0);
            match damage {
                0 => pair.pod.delete_address(eth0, v4.into()).await,
                1 => pair.pod.delete_address(eth0, v6.into()).await,
                2..=5 => pair.pod.delete_route(&inner[damage - 2]).await,
                6 => pair.pod.delete_neighbour(eth0, link.gateways[0]).await,
                7 => pair.pod.replace_neighbour(eth0, link.gateways[1], [2; 6]).await,
                8 => pair.pod.set_flag_up(eth0, false).await,
                9 => pair.pod.set_mac(eth0, [2, 0, 0, 0, 0, 9]).await,
                10 => pair.node.set_mtu(index, 1300).await,
                11 => pair.node.set_flag_up(index, false).await,
                12 => pair.node.delete_neighbour(index, v6).await,
                13 => pair.node.delete_route(&direct(v4.into(), index)).await,
                14 => pair.node.replace_route(&Route { mtu: Some(1300), ..direct(v6.into(), index) }).await,
                15 => sysctl::write("net/ipv4/conf/np0/forwarding", "0").map(drop),
                16 => sysctl::write("net/ipv6/conf/np0/forwarding", "0").map(drop),
                17 => pair.node.rename(index, "moved").await,
                18 => pair.pod.rename(eth0, "moved").await,
                19 => pair.node.set_mac(index, [2, 0, 0, 0, 0, 9]).await,
                20 => sysctl::write("net/ipv6/conf/np0/accept_ra", "2").map(drop),
                21 => sysctl::write("net/ipv6/conf/np0/disable_ipv6", "1").map(drop),
                _ => pair.pod.set_flag_up(1, false).await,
            }
            .unwrap();
            assert!(!looks_right(&pair, &link, index).await, "damage {damage} goes unseen");
            assert_eq!(pair.ensure(&link).await.unwrap(), index, "damage {damage}");
            assert_eq!(state(&pair).await, whole, "damage {damage}");
            assert!(looks_right(&pair, &link, index).await, "damage {damage}");
        }
    });
}

#[test]
fn a_changed_address_leaves_no_old_route() {
    testing::with_pair(|pair| async move {
        let index = pair.ensure(&dual()).await.unwrap();
        let changed = PodLink { addresses: vec![ip("10.0.0.6"), ip("fd00::6")], ..dual() };
        assert_eq!(pair.ensure(&changed).await.unwrap(), index);
        let prefixes: Vec<_> =
            pair.node.own_routes().await.unwrap().iter().map(|route| route.prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.0.0.6/32", "fd00::6/128"]);
    });
}

#[test]
fn replaces_a_pair_that_leads_to_another_pod() {
    testing::with_pair(|pair| async move {
        let other_ns = Netns::create(&pair.directory.join("other")).unwrap();
        let other = Netlink::connect(&other_ns).await.unwrap();
        v4().ensure(&pair.node, &pair.node_ns, &other_ns).await.unwrap();
        let index = pair.ensure(&v4()).await.unwrap();
        assert!(other.link("eth0").await.unwrap().is_none());
        assert!(pair.pod.link("eth0").await.unwrap().is_some());
        // Renamed inside the pod: the same link with the name that was asked for.
        let renamed = PodLink { pod_name: "net1".to_owned(), ..v4() };
        assert_eq!(pair.ensure(&renamed).await.unwrap(), index);
        assert!(pair.pod.link("eth0").await.unwrap().is_none());
    });
}

#[test]
fn takes_the_place_of_an_unreachable_route_and_gives_it_back() {
    testing::with_pair(|pair| async move {
        let prefix = IpNet::from(ip(POD4));
        let placeholder = Route {
            prefix,
            kind: RouteKind::Unreachable,
            via: None,
            ifindex: None,
            onlink: false,
            source: None,
            mtu: None,
            table: None,
        };
        pair.node.replace_route(&placeholder).await.unwrap();
        let busy = pair.foreign("busy").await;
        pair.node.replace_route(&direct("10.0.0.6/32".parse().unwrap(), busy)).await.unwrap();
        let before = state(&pair).await;
        let failing = PodLink { addresses: vec![ip(POD4), ip("10.0.0.6")], ..v4() };
        pair.ensure(&failing).await.unwrap_err();
        assert_eq!(state(&pair).await, before);
        let index = pair.ensure(&v4()).await.unwrap();
        assert!(pair.node.own_routes().await.unwrap().contains(&direct(prefix, index)));
    });
}

#[test]
fn a_failure_leaves_nothing_ipv4_and_ipv6() {
    testing::with_pair(|pair| async move {
        let busy = pair.foreign("busy").await;
        for address in [POD4, POD6] {
            let taken = direct(ip(address).into(), busy);
            pair.node.replace_route(&taken).await.unwrap();
            let before = state(&pair).await;
            let error = pair.ensure(&dual()).await.unwrap_err().to_string();
            let net = IpNet::from(ip(address));
            let expected = format!("attach pod link np0: add route {net} dev #");
            assert!(error.starts_with(&expected), "{error}");
            let reason = format!(
                "File exists; another pod has the route {net} dev #{busy}; use another address, or remove that route"
            );
            assert!(error.ends_with(&reason), "{error}");
            assert_eq!(state(&pair).await, before, "{address}");
            pair.node.delete_route(&taken).await.unwrap();
        }
        let before = state(&pair).await;
        let error = pair.ensure(&PodLink { mtu: 40, ..v4() }).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "attach pod link np0: make veth pair np0 and eth0: an MTU of 40 is out of range (68 to 65535)"
        );
        assert_eq!(state(&pair).await, before);
    });
}

#[test]
fn a_failed_repair_takes_back_only_its_own_steps() {
    testing::with_pair(|pair| async move {
        let busy = pair.foreign("busy").await;
        pair.ensure(&v4()).await.unwrap();
        pair.node.replace_route(&direct("10.0.0.6/32".parse().unwrap(), busy)).await.unwrap();
        let before = state(&pair).await;
        let more = PodLink {
            addresses: vec![ip(POD4), ip("10.0.0.6"), ip(POD6)],
            gateways: dual().gateways,
            mtu: 1400,
            pod_mac: [2, 0, 0, 0, 0, 7],
            ..v4()
        };
        pair.ensure(&more).await.unwrap_err();
        assert_eq!(state(&pair).await, before);
    });
}

#[test]
fn a_cancelled_attach_leaves_nothing() {
    testing::with_pair(|pair| async move {
        let before = state(&pair).await;
        let link = dual();
        for steps in 0.. {
            let mut attach = pair.ensure(&link).boxed();
            let mut finished = false;
            for _ in 0..steps {
                finished |= futures::poll!(&mut attach).is_ready();
                if finished {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(attach);
            if finished {
                break;
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            while state(&pair).await != before {
                assert!(Instant::now() < deadline, "after {steps} polls: {:#?}", state(&pair).await);
            }
        }
    });
}

#[test]
fn foreign_links_are_never_touched() {
    testing::with_pair(|pair| async move {
        pair.foreign(HOST).await;
        let before = state(&pair).await;
        for error in [pair.ensure(&v4()).await.unwrap_err(), v4().remove(&pair.node).await.unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.contains("check link np0: a link of this name is there that netpath did not make"),
                "{error}"
            );
            assert!(error.contains("ours is a veth with ee:ee:ee:ee:ee:ee"), "{error}");
        }
        assert_eq!(state(&pair).await, before);

        pair.pod_ns.enter_async(|| ()).await.unwrap();
        let end = |name| VethEnd { name, mac: None, netns: None };
        pair.pod.add_veth(&end("eth0"), &end("peer"), None).await.unwrap();
        let before = state(&pair).await;
        let error = pair.ensure(&PodLink { host_name: "np1".to_owned(), ..v4() }).await.unwrap_err();
        assert!(
            error.to_string().contains("make eth0 in the pod: the pod has another interface of this name")
        );
        assert_eq!(state(&pair).await, before);
    });
}

#[test]
fn remove_takes_everything_and_can_be_repeated() {
    testing::with_pair(|pair| async move {
        pair.pod.set_up(1).await.unwrap();
        let before = state(&pair).await;
        pair.ensure(&dual()).await.unwrap();
        dual().remove(&pair.node).await.unwrap();
        dual().remove(&pair.node).await.unwrap();
        assert_eq!(state(&pair).await, before);
    });
}
