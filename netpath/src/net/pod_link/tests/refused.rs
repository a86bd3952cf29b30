//! Descriptions that make no sense.

use super::*;

#[test]
fn nonsense_is_refused_before_anything_is_done() {
    testing::with_pair(|pair| async move {
        let before = state(&pair).await;
        let cases = [
            (PodLink { pod_mac: [0; 6], ..v4() }, "00:00:00:00:00:00 is not the address of one interface"),
            (PodLink { host_mac: [3; 6], ..v4() }, "03:03:03:03:03:03 is not the address of one interface"),
            (PodLink { mtu: 1279, ..dual() }, "IPv6 needs an MTU of at least 1280, this one is 1279"),
            (PodLink { gateways: dual().gateways, ..v4() }, "these addresses need no IPv6 gateway, not 1"),
            (
                PodLink { host_name: "much-too-long-name".to_owned(), ..v4() },
                "the name has to have 1 to 15 bytes",
            ),
        ];
        for (link, reason) in cases {
            let error = pair.ensure(&link).await.unwrap_err().to_string();
            assert!(error.ends_with(reason), "{error}");
        }
        let error = v4().ensure(&pair.node, &pair.node_ns, &pair.node_ns).await.unwrap_err();
        assert!(error.reason.contains("the node's own"), "{error}");
        assert_eq!(state(&pair).await, before);
    });
}
