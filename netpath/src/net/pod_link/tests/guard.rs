//! What is attached before a link is up.

use super::*;

#[test]
fn the_guard_comes_before_a_new_link_is_up_on_either_side() {
    testing::with_pair(|pair| async move {
        let up = async |name: &str, netlink: &Netlink| netlink.link(name).await.unwrap().unwrap().up;
        for there_already in [false, true] {
            let mut seen = None;
            let guard = async |ifindex: u32| {
                seen = Some((ifindex, up(HOST, &pair.node).await, up("eth0", &pair.pod).await));
                Ok::<_, String>(())
            };
            let made = dual().ensure_guarded(&pair.node, &pair.node_ns, &pair.pod_ns, guard).await.unwrap();
            assert_eq!(seen, Some((made, there_already, there_already)));
            assert!(up(HOST, &pair.node).await && up("eth0", &pair.pod).await);
        }
    });
}

#[test]
fn without_its_guard_a_link_is_not_made() {
    testing::with_pair(|pair| async move {
        let before = state(&pair).await;
        let refused = async |_| Err("no room");
        let error =
            dual().ensure_guarded(&pair.node, &pair.node_ns, &pair.pod_ns, refused).await.unwrap_err();
        assert!(
            error.to_string().contains("attach pod link np0") && error.reason.contains("no room"),
            "{error}"
        );
        assert_eq!(state(&pair).await, before);
    });
}
