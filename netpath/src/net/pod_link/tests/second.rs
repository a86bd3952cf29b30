//! A pod's second link.

use super::*;

/// A second link beside that of [`dual`].
fn second() -> PodLink {
    PodLink {
        host_name: "np0B".to_owned(),
        pod_name: "eth1".to_owned(),
        addresses: vec![ip("10.1.0.5"), ip("fd01::5")],
        gateways: Vec::new(),
        allowed: vec![ip("192.0.2.77")],
        sourced: Some(Sourced { table: 111, gateways: dual().gateways }),
        ..dual()
    }
}

#[test]
fn a_second_link_answers_by_itself_ipv4_and_ipv6() {
    testing::with_pair(|pair| async move {
        give_node_addresses(&pair).await;
        pair.ensure(&dual()).await.unwrap();
        let before = state(&pair).await;
        let index = pair.ensure(&second()).await.unwrap();
        let whole = state(&pair).await;
        assert_eq!(pair.ensure(&second()).await.unwrap(), index);
        assert_eq!(state(&pair).await, whole);
        for (node, pod) in [(NODE4, POD4), (NODE6, POD6), (NODE4, "10.1.0.5"), (NODE6, "fd01::5")] {
            round_trip(&pair, node, pod);
        }
        assert!(pair.node.own_routes().await.unwrap().contains(&direct(ip("192.0.2.77").into(), index)));
        // With the first link down only the second one's own table leads anywhere.
        let eth0 = pair.pod.link("eth0").await.unwrap().unwrap().index;
        pair.pod.set_flag_up(eth0, false).await.unwrap();
        round_trip(&pair, NODE4, "10.1.0.5");
        round_trip(&pair, NODE6, "fd01::5");
        pair.ensure(&dual()).await.unwrap();
        let moved = PodLink { addresses: vec![ip("10.1.0.6"), ip("fd01::5")], ..second() };
        pair.ensure(&moved).await.unwrap();
        let froms: Vec<_> = pair.pod.own_rules(111).await.unwrap().iter().map(|rule| rule.from).collect();
        assert!(froms.len() == 2 && froms.contains(&ip("10.1.0.6")), "{froms:?}");
        second().remove(&pair.node).await.unwrap();
        for _ in 0..2 {
            second().remove_rules(&pair.pod_ns).await.unwrap();
        }
        assert!(pair.pod.own_rules(111).await.unwrap().is_empty());
        assert_eq!(state(&pair).await, before);
    });
}

#[test]
fn a_second_link_that_fails_leaves_no_rule() {
    testing::with_pair(|pair| async move {
        pair.ensure(&dual()).await.unwrap();
        let busy = pair.foreign("busy").await;
        pair.node.replace_route(&direct("192.0.2.77/32".parse().unwrap(), busy)).await.unwrap();
        let before = state(&pair).await;
        pair.ensure(&second()).await.unwrap_err();
        assert_eq!(state(&pair).await, before);
        assert!(pair.pod.own_rules(111).await.unwrap().is_empty());
    });
}
