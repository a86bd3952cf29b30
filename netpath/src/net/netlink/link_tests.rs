use super::*;
use crate::net::{sysctl, testing};

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn end<'a>(name: &'a str, mac: Option<[u8; 6]>, netns: Option<&'a Netns>) -> VethEnd<'a> {
    VethEnd { name, mac, netns }
}

#[test]
fn veth_ends_are_made_where_they_belong() {
    testing::with_pair(|pair| async move {
        pair.node
            .add_veth(&end("a", Some(A), None), &end("b", Some(B), Some(&pair.pod_ns)), Some(1400))
            .await
            .unwrap();
        let a = pair.node.link_detail("a").await.unwrap().unwrap();
        let b = pair.pod.link_detail("b").await.unwrap().unwrap();
        assert_eq!(
            (a.link.mac, a.link.mtu, a.link.up, a.link.kind.as_deref()),
            (A, 1400, false, Some("veth"))
        );
        assert_eq!((b.link.mac, b.link.mtu), (B, 1400));
        assert_eq!((a.peer, b.peer), (Some(b.link.index), Some(a.link.index)));
        assert_eq!(a.peer_netns, pair.node.netns_number(&pair.pod_ns).await.unwrap());
        assert!(a.peer_netns.is_some());
        assert!(pair.node.link("b").await.unwrap().is_none() && pair.pod.link("a").await.unwrap().is_none());

        // The first end elsewhere, the second here; then both elsewhere.
        pair.node.add_veth(&end("c", None, Some(&pair.pod_ns)), &end("d", None, None), None).await.unwrap();
        assert!(pair.pod.link("c").await.unwrap().is_some() && pair.node.link("d").await.unwrap().is_some());
        let both = Some(&pair.pod_ns);
        pair.node.add_veth(&end("e", None, both), &end("f", None, both), None).await.unwrap();
        assert!(pair.pod.link("e").await.unwrap().is_some() && pair.pod.link("f").await.unwrap().is_some());
    });
}

#[test]
fn links_go_up_and_away() {
    testing::with_pair(|pair| async move {
        pair.node.add_veth(&end("a", None, None), &end("b", None, Some(&pair.pod_ns)), None).await.unwrap();
        let a = pair.node.link("a").await.unwrap().unwrap();
        pair.node.set_up(a.index).await.unwrap();
        pair.node.set_up(a.index).await.unwrap();
        assert!(pair.node.link("a").await.unwrap().unwrap().up);
        let names: Vec<_> = pair.node.links().await.unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo", "a"]);
        pair.node.delete_link(a.index).await.unwrap();
        pair.node.delete_link(a.index).await.unwrap();
        assert!(pair.node.link("a").await.unwrap().is_none() && pair.pod.link("b").await.unwrap().is_none());
        let error = pair.node.set_up(a.index).await.unwrap_err();
        assert!(error.is(Errno::ENODEV), "{error}");
    });
}

#[test]
fn bridges_take_ports() {
    testing::with_pair(|pair| async move {
        pair.node.add_bridge("br0", [2, 0, 0, 0, 0, 1]).await.unwrap();
        let low = Some([2, 0, 0, 0, 0, 0]);
        pair.node.add_veth(&end("a", low, None), &end("b", None, None), None).await.unwrap();
        let bridge = pair.node.link("br0").await.unwrap().unwrap();
        let port = pair.node.link("a").await.unwrap().unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        pair.node.set_master(port.index, bridge.index).await.unwrap();
        let now = pair.node.link("br0").await.unwrap().unwrap();
        assert_eq!(now.mac, [2, 0, 0, 0, 0, 1], "it took its port's");
        let error = pair.node.set_master(port.index, port.index).await.unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("put link #{0} into bridge #{0}: ", port.index)),
            "{error}"
        );
    });
}

#[test]
fn errors_say_why() {
    testing::with_pair(|pair| async move {
        let (a, b) = (end("a", None, None), end("b", None, Some(&pair.pod_ns)));
        let error = pair.node.add_veth(&a, &b, Some(20)).await.unwrap_err();
        assert_eq!(error.to_string(), "make veth pair a and b: an MTU of 20 is out of range (68 to 65535)");
        pair.node.add_veth(&a, &b, None).await.unwrap();
        let error = pair.node.add_veth(&end("z", None, None), &b, None).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "make veth pair z and b: File exists; one of the names is taken in its namespace"
        );
        assert!(pair.node.link("z").await.unwrap().is_none());
        for name in ["", "0123456789abcdef", "a/b", "a b", ".."] {
            assert!(pair.node.link(name).await.unwrap_err().reason.contains("the name"), "{name}");
        }
    });
}

#[test]
fn a_connection_stays_in_its_namespace_and_ends_with_its_last_clone() {
    testing::with_pair(|pair| async move {
        let clone = pair.pod.clone();
        drop(pair.pod);
        assert_eq!(clone.links().await.unwrap().len(), 1);
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        drop(clone);
        tokio::task::yield_now().await;
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks - 1);
        assert_eq!(sysctl::read("net.ipv4.ip_forward").unwrap(), "0");
    });
}

#[test]
fn a_device_for_tunnels_is_made_as_it_was_asked_for() {
    testing::with_pair(|pair| async move {
        pair.node.add_vxlan("v", A, 8472, 1450).await.unwrap();
        let made = pair.node.link_detail("v").await.unwrap().unwrap();
        assert_eq!((made.link.mac, made.link.mtu, made.link.up), (A, 1450, false));
        assert_eq!((made.link.kind.as_deref(), made.vxlan_port), (Some("vxlan"), Some(8472)));
        let again = pair.node.add_vxlan("v", A, 8472, 1450).await.unwrap_err();
        assert!(again.is(Errno::EEXIST), "{again}");
        let source = "192.0.2.1/24".parse::<ipnet::IpNet>().unwrap();
        pair.node.set_up(made.link.index).await.unwrap();
        pair.node.add_address(made.link.index, source).await.unwrap();
        let route = crate::net::Route {
            prefix: "10.1.0.0/24".parse().unwrap(),
            kind: crate::net::RouteKind::Unicast,
            via: Some("198.51.100.7".parse().unwrap()),
            ifindex: Some(made.link.index),
            onlink: true,
            source: Some(source.addr()),
            mtu: Some(1430),
            table: None,
        };
        pair.node.replace_route(&route).await.unwrap();
        assert_eq!(pair.node.own_routes().await.unwrap(), [route]);
    });
}
