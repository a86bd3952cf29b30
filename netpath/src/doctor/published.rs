//! Who reaches published ports.

use super::{Facts, Finding};

/// Which interfaces nobody comes by to a published port: the programs see what arrives at uplinks. For information, as
/// most of them are other networks of the node.
pub(super) fn reach(facts: &Facts) -> Finding {
    let count: usize = facts.agent.pods.iter().map(|pod| pod.published.len()).sum();
    if count == 0 {
        return Finding::not_applicable("nothing is published, or no agent tells");
    }
    let node = &facts.node;
    let is_other = |name: &str| {
        name != "lo"
            && !node.uplinks.iter().any(|uplink| uplink == name)
            && !node.interfaces().any(|interface| interface.host == name)
    };
    let has_address = |index| {
        let mut own = facts.net.addresses.iter().filter(|address| address.ifindex == index);
        own.any(
            |address| !matches!(address.net.addr(), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()),
        )
    };
    let links = facts.net.links.iter().map(|state| &state.link);
    let others: Vec<&str> = links
        .filter(|link| is_other(&link.name) && has_address(link.index))
        .map(|link| link.name.as_str())
        .collect();
    if others.is_empty() {
        return Finding::ok(format!("{count} published, reached from wherever the node is"));
    }
    Finding::ok(format!(
        "{count} published; who comes by {} does not reach them, as these are no uplinks: name them among `uplinks` of the \
         configuration if they are to be, and carry Ethernet frames",
        others.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::report::Outcome;

    #[test]
    fn interfaces_that_are_no_uplinks_are_named_where_something_is_published() {
        let mut facts = Facts::healthy();
        assert_eq!(reach(&facts).status, Outcome::NotApplicable);
        let pod = json!({
            "name": "a", "network": "default", "addresses": [], "mac": "", "interface": "np1", "ifindex": 5,
            "netns": "/run/netns/a", "state": "ready", "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0, "tx_bytes": 0,
            "mtu": 1500, "published": ["8080:80/tcp"],
        });
        facts.agent.pods.push(serde_json::from_value(pod).unwrap());
        let told = reach(&facts);
        assert!(told.status == Outcome::Ok && told.seen.contains("wherever the node is"), "{}", told.seen);
        let index = facts.net.link_mut("lo").link.index;
        facts.net.link_mut("lo").link.name = "wg0".into();
        assert!(
            reach(&facts).seen.contains("wg0") == facts.net.addresses.iter().any(|one| one.ifindex == index)
        );
        let mut address = facts.net.addresses[0];
        (address.ifindex, address.net) = (index, "10.9.0.1/24".parse().unwrap());
        facts.net.addresses.push(address);
        let told = reach(&facts);
        assert!(told.status == Outcome::Ok && told.seen.contains("wg0 does not"), "{}", told.seen);
    }
}
