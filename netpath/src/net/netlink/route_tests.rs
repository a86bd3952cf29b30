use super::*;
use crate::net::{VethEnd, testing};

fn route(prefix: &str) -> Route {
    Route {
        prefix: prefix.parse().unwrap(),
        kind: RouteKind::Unicast,
        via: None,
        ifindex: None,
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}

/// Two links of the node, up, the first with addresses of both families.
async fn links(pair: &testing::Pair) -> (u32, u32) {
    let mut indexes = Vec::new();
    for (name, peer) in [("a", "pa"), ("b", "pb")] {
        let end = VethEnd { name: peer, mac: None, netns: Some(&pair.pod_ns) };
        pair.node.add_veth(&VethEnd { name, mac: None, netns: None }, &end, None).await.unwrap();
        let index = pair.node.link(name).await.unwrap().unwrap().index;
        pair.node.set_up(index).await.unwrap();
        indexes.push(index);
    }
    for net in ["192.0.2.1/24", "2001:db8::1/64"] {
        pair.node.add_address(indexes[0], net.parse().unwrap()).await.unwrap();
    }
    (indexes[0], indexes[1])
}

#[test]
fn routes_of_every_kind_are_made_listed_and_removed() {
    testing::with_pair(|pair| async move {
        assert!(pair.node.own_routes().await.unwrap().is_empty());
        let (a, _) = links(&pair).await;
        let via = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let all = [
            Route { ifindex: Some(a), ..route("10.1.0.1/32") },
            Route { ifindex: Some(a), via: via("192.0.2.2"), mtu: Some(1400), ..route("10.2.0.0/16") },
            Route { ifindex: Some(a), via: via("203.0.113.7"), onlink: true, ..route("10.3.0.0/16") },
            Route { ifindex: Some(a), via: via("fe80::1"), ..route("10.4.0.0/16") },
            Route { kind: RouteKind::Unreachable, ..route("10.5.0.0/26") },
            Route { kind: RouteKind::Blackhole, ..route("10.6.0.0/26") },
            Route { ifindex: Some(a), via: via("192.0.2.2"), ..route("0.0.0.0/0") },
            Route { ifindex: Some(a), ..route("fd01::1/128") },
            Route { ifindex: Some(a), via: via("2001:db8::2"), mtu: Some(1400), ..route("fd02::/64") },
            Route { ifindex: Some(a), via: via("fe80::1"), onlink: true, ..route("fd03::/64") },
            Route { kind: RouteKind::Unreachable, ..route("fd05::/122") },
            Route { kind: RouteKind::Blackhole, ..route("fd06::/122") },
            Route { ifindex: Some(a), via: via("fe80::1"), ..route("::/0") },
        ];
        for route in &all {
            pair.node.replace_route(route).await.unwrap();
            pair.node.replace_route(route).await.unwrap();
        }
        let mut own = pair.node.own_routes().await.unwrap();
        for route in &all {
            let at = own.iter().position(|own| own == route);
            own.remove(at.unwrap_or_else(|| panic!("{route} is not in {own:#?}")));
        }
        assert_eq!(own, [], "nothing else is ours");
        for route in &all {
            pair.node.delete_route(route).await.unwrap();
            pair.node.delete_route(route).await.unwrap();
        }
        assert_eq!(pair.node.own_routes().await.unwrap(), []);
    });
}

#[test]
fn replace_changes_next_hop_and_kind() {
    testing::with_pair(|pair| async move {
        let (a, b) = links(&pair).await;
        for prefix in ["10.0.0.1/32", "fd00::1/128"] {
            let variants = [
                Route { ifindex: Some(a), ..route(prefix) },
                Route { ifindex: Some(b), ..route(prefix) },
                Route { kind: RouteKind::Unreachable, ..route(prefix) },
                Route { ifindex: Some(b), mtu: Some(1300), ..route(prefix) },
            ];
            for variant in variants {
                pair.node.replace_route(&variant).await.unwrap();
                let own = pair.node.own_routes().await.unwrap();
                assert_eq!(
                    own.into_iter().filter(|own| own.prefix == variant.prefix).collect::<Vec<_>>(),
                    [variant]
                );
            }
        }
    });
}

#[test]
fn never_lists_or_removes_other_peoples_routes() {
    testing::with_pair(|pair| async move {
        let (a, _) = links(&pair).await;
        // The kernel's own route to the address's prefix has another protocol.
        let connected = Route { ifindex: Some(a), ..route("192.0.2.0/24") };
        assert_eq!(pair.node.own_routes().await.unwrap(), []);
        pair.node.delete_route(&connected).await.unwrap();
        assert!(
            pair.node
                .routes_by(a, false, None)
                .await
                .unwrap()
                .iter()
                .any(|known| known.route.suits(&connected))
        );
    });
}

#[test]
fn the_default_route_tells_the_uplink() {
    testing::with_pair(|pair| async move {
        let (a, b) = links(&pair).await;
        for (default, gateway, other) in
            [("0.0.0.0/0", "192.0.2.254", "192.0.2.253"), ("::/0", "2001:db8::fe", "fe80::fd")]
        {
            let v6 = default == "::/0";
            assert_eq!(pair.node.default_route_interface(v6).await.unwrap(), None);
            let via = Some(gateway.parse().unwrap());
            pair.node.replace_route(&Route { ifindex: Some(a), via, ..route(default) }).await.unwrap();
            assert_eq!(pair.node.default_route_interface(v6).await.unwrap(), Some(a));
            let via = Some(other.parse().unwrap());
            let by_b = Route { ifindex: Some(b), via, onlink: true, ..route(default) };
            pair.node.replace_route(&by_b).await.unwrap();
            assert_eq!(pair.node.default_route_interface(v6).await.unwrap(), Some(b));
        }
    });
}

#[test]
fn errors_name_the_route_and_what_to_try() {
    testing::with_pair(|pair| async move {
        let (a, _) = links(&pair).await;
        let via = Some("203.0.113.9".parse().unwrap());
        let error = pair
            .node
            .replace_route(&Route { ifindex: Some(a), via, ..route("10.0.0.0/8") })
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "set route 10.0.0.0/8 via 203.0.113.9 dev #{a}: Network is unreachable (Nexthop has invalid gateway); \
                 no route leads to the next hop; is its prefix on the interface, or should it be onlink?"
            )
        );
        let error =
            pair.node.replace_route(&Route { ifindex: Some(a), via, ..route("fd00::/8") }).await.unwrap_err();
        assert!(error.to_string().ends_with("an IPv6 route cannot have an IPv4 next hop"), "{error}");
        let taken = Route { ifindex: Some(a), ..route("10.0.0.1/32") };
        pair.node.add_route(&taken).await.unwrap();
        assert!(pair.node.add_route(&taken).await.unwrap_err().is(Errno::EEXIST));
    });
}
