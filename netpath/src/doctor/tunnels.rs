//! Tunnels to other nodes of a cluster: their device, and who keeps their packets out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Facts, Finding,
    programs::complete,
    report::{Faults, Outcome},
    ruleset::{Hook, Packet, Place, Ruleset},
};
use crate::{
    api::types::ClusterNode,
    config::DEFAULT_VXLAN_PORT,
    model::{Backend, Transport, tunnel_name},
};

/// Our programs on the device: on what other nodes send, on what is sent to them.
const DEVICE: [&str; 2] = ["from_overlay", "to_overlay"];

/// The tunnels' UDP port, and the nodes that are reached by tunnels.
fn tunnelled(facts: &Facts) -> Option<(u16, Vec<&ClusterNode>)> {
    let cluster = facts.config.as_ref().ok().and_then(|config| config.cluster.as_ref());
    // What joins a cluster by flags alone has it as it is by itself.
    let port = cluster.map_or(DEFAULT_VXLAN_PORT, |cluster| cluster.vxlan_port);
    let by_tunnel = |node: &&ClusterNode| {
        let backend = node.backend.as_deref().unwrap_or_default();
        backend.split(',').any(|one| one == Backend::Vxlan.name())
    };
    let nodes: Vec<_> = facts.agent.nodes.iter().filter(by_tunnel).collect();
    (!nodes.is_empty()).then_some((port, nodes))
}

fn none() -> Finding {
    Finding::not_applicable("no other node is reached by a tunnel, or no agent tells")
}

/// Whether the device is there with its programs.
pub(super) fn device(facts: &Facts) -> Finding {
    match tunnelled(facts) {
        None => none(),
        Some(_) => complete(facts, &[&tunnel_name(facts.instance.name())], DEVICE),
    }
}

/// Whether the node's firewall lets in what other nodes send through tunnels, as far as its rules are understood.
pub(super) fn filtered(facts: &Facts) -> Finding {
    let Some((port, nodes)) = tunnelled(facts) else { return none() };
    let mut faults = Faults::default();
    let packets: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), packets(facts, node, port))).collect();
    let speaks = |v6| packets.iter().flat_map(|(_, all)| all).any(|packet| packet.source.is_ipv6() == v6);
    let legacy = || facts.firewall.legacy.iter().filter(|table| speaks(table.tool.starts_with("ip6")));
    for table in legacy() {
        let open = |rules: &str| rules.lines().any(|line| line.ends_with("-j ACCEPT") && names(line, port));
        if table.rules.as_ref().is_ok_and(|rules| rules.contains("-P INPUT DROP") && !open(rules)) {
            let tool = table.tool;
            faults.add(
                format!("the chain INPUT of {tool} has policy DROP, and no rule for UDP port {port}"),
                format!("`{tool} -I INPUT -p udp --dport {port} -j ACCEPT`"),
            );
        }
    }
    let set = match &facts.firewall.nft {
        Err(reason) => Err(Finding::unread(reason)),
        Ok(Some(json)) => Ruleset::parse(json).map_err(Finding::unread),
        Ok(None) => match facts.firewall.manager {
            Some(manager) => Err(without_nft(manager)),
            None => Ok(Ruleset::default()),
        },
    };
    let of_legacy = || legacy().find_map(|table| table.rules.as_ref().err()).map(Finding::unread);
    let unread = set.as_ref().err().cloned().or_else(of_legacy);
    for ((family, table, chain), nodes) in dropping(&set.unwrap_or_default(), &packets) {
        let more = match nodes.len() {
            1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        faults.add(
            format!(
                "the chain {chain} of the table {family} {table} drops what node {}{more} sends",
                nodes[0]
            ),
            format!("`nft insert rule {family} {table} {chain} udp dport {port} accept`"),
        );
    }
    if let Some(finding) = unread.filter(|_| faults.is_empty()) {
        return finding;
    }
    let but = if matches!(facts.firewall.nft, Ok(None)) { " (there is no `nft` to list others)" } else { "" };
    let fine = format!("no rule that was found drops what other nodes send to UDP port {port}{but}");
    faults.finding(Outcome::Warning, fine)
}

fn without_nft(manager: &str) -> Finding {
    Finding::warning(
        format!("{manager} is active, and there is no `nft` that tells its rules"),
        "install nftables",
    )
}

/// Chains that drop what nodes send, by whichever uplink it comes, with these nodes.
fn dropping<'a>(set: &Ruleset, packets: &[(&'a str, Vec<Packet<'_>>)]) -> BTreeMap<Place, Vec<&'a str>> {
    let mut all: BTreeMap<Place, Vec<&str>> = BTreeMap::new();
    for (node, packets) in packets {
        let by_uplink = packets.iter().map(|packet| BTreeSet::from_iter(set.dropping(Hook::Input, packet)));
        for place in by_uplink.reduce(|one, other| &one & &other).unwrap_or_default() {
            all.entry(place).or_default().push(node);
        }
    }
    all
}

/// What comes of a node by its tunnel, by each uplink that it may come by: IPv4 if both have that.
fn packets<'a>(facts: &'a Facts, node: &ClusterNode, port: u16) -> Vec<Packet<'a>> {
    let uplinks = facts.node.uplinks.iter().filter_map(|name| facts.net.link(name));
    let own: Vec<_> = uplinks
        .flat_map(|uplink| {
            let own = facts.net.addresses.iter().filter(|own| own.ifindex == uplink.link.index);
            own.map(|own| (uplink.link.name.as_str(), own.net.addr()))
        })
        .filter(|(_, own)| !is_local(*own))
        .collect();
    let of_family = |v6: bool| {
        let source = *node.addresses.iter().find(|theirs| theirs.is_ipv6() == v6)?;
        let own = own.iter().filter(|(_, own)| own.is_ipv6() == v6);
        let packet = |&(iif, destination)| Packet {
            iif,
            oif: "",
            source,
            destination,
            port: Some((Transport::Udp, port)),
        };
        Some(own.map(packet).collect::<Vec<_>>()).filter(|packets| !packets.is_empty())
    };
    of_family(false).or_else(|| of_family(true)).unwrap_or_default()
}

fn is_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether a rule of the old iptables is for a port.
fn names(line: &str, port: u16) -> bool {
    line.contains("-p udp") && line.contains(&format!("--dport {port} "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        config::ClusterConfig,
        doctor::facts::{Attached, Hook as Attachment, Legacy},
        model::EtcdAccess,
    };

    /// A node of a cluster, with another one behind a router.
    fn facts() -> Facts {
        let mut facts = Facts::healthy();
        let config = facts.config.as_mut().expect("a configuration");
        config.cluster = Some(ClusterConfig {
            name: "default".into(),
            etcd: EtcdAccess::default(),
            pools: Vec::new(),
            release_after: Duration::from_secs(1),
            backend: Backend::Auto,
            vxlan_port: 8472,
            vni: 110,
        });
        let node = json!({"name": "two", "addresses": ["203.0.113.2", "2001:db8:1::2"], "blocks": [],
                          "backend": "direct,vxlan", "state": "ready", "own": false});
        facts.agent.nodes = vec![serde_json::from_value(node).expect("a node")];
        facts.net.link_mut("lo").link.name = "np-vxlan".into();
        for (egress, name) in [(false, "from_overlay"), (true, "to_overlay")] {
            let (interface, hook) = ("np-vxlan".into(), Attachment::Tcx(12));
            facts.net.attached.push(Attached { interface, egress, hook, name: name.into() });
        }
        facts
    }

    #[test]
    fn the_device_has_its_programs() {
        let mut facts = facts();
        assert_eq!(device(&facts).status, Outcome::Ok);
        facts.net.attached.retain(|one| one.name != "from_overlay");
        assert_eq!(device(&facts).seen, "np-vxlan lacks from_overlay");
        facts.net.link_mut("np-vxlan").link.name = "other".into();
        assert_eq!(device(&facts).seen, "np-vxlan is gone");
        facts.agent.nodes[0].backend = Some("direct".into());
        assert_eq!(device(&facts).status, Outcome::NotApplicable);
        assert_eq!(filtered(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn who_drops_tunnels_is_named() {
        let mut facts = facts();
        assert_eq!(filtered(&facts).status, Outcome::Ok);
        let rule = |port: u16, source: &str| {
            let payload =
                |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
            let equal =
                |left, right: serde_json::Value| json!({"match": {"op": "==", "left": left, "right": right}});
            let expr = [
                equal(payload("ip", "saddr"), json!(source)),
                equal(payload("udp", "dport"), json!(port)),
                json!({"accept": null}),
            ];
            json!({"rule": {"family": "inet", "table": "fw", "chain": "in", "expr": expr}})
        };
        let mut with = |rules: &[serde_json::Value]| {
            let chain = json!({"chain": {"family": "inet", "table": "fw", "name": "in", "hook": "input", "policy": "drop"}});
            let all: Vec<_> = [chain].iter().chain(rules).cloned().collect();
            facts.firewall.nft = Ok(Some(json!({ "nftables": all }).to_string()));
            filtered(&facts)
        };
        let finding = with(&[]);
        assert_eq!(finding.status, Outcome::Warning);
        assert_eq!(finding.seen, "the chain in of the table inet fw drops what node two sends");
        assert_eq!(finding.advice.unwrap(), "`nft insert rule inet fw in udp dport 8472 accept`");
        assert_eq!(with(&[rule(8472, "203.0.113.2")]).status, Outcome::Ok, "let in for that node");
        assert_eq!(with(&[rule(4789, "203.0.113.2")]).status, Outcome::Warning, "another port");
        assert_eq!(with(&[rule(8472, "203.0.113.3")]).status, Outcome::Warning, "another node");
        let by = |link: &str| {
            let left = json!({"meta": {"key": "iifname"}});
            let expr = [json!({"match": {"op": "==", "left": left, "right": link}}), json!({"accept": null})];
            json!({"rule": {"family": "inet", "table": "fw", "chain": "in", "expr": expr}})
        };
        assert_eq!(with(&[by("eth1")]).status, Outcome::Warning);
        assert_eq!(with(&[by("eth0")]).status, Outcome::Ok);
        let second = serde_json::json!({"name": "three", "addresses": ["203.0.113.3"], "blocks": [],
                                        "backend": "vxlan", "state": "ready", "own": false});
        facts.agent.nodes.push(serde_json::from_value(second).expect("a node"));
        facts.firewall.nft = Ok(Some(
            json!({ "nftables": [{"chain": {"family": "ip", "table": "fw", "name": "in",
            "hook": "input", "policy": "drop"}}] })
            .to_string(),
        ));
        assert_eq!(
            filtered(&facts).seen,
            "the chain in of the table ip fw drops what node two (and 1 more) sends"
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_reason_to_be_content() {
        let mut facts = facts();
        facts.firewall.nft = Ok(None);
        assert_eq!(filtered(&facts).status, Outcome::Ok);
        facts.firewall.manager = Some("ufw");
        assert!(filtered(&facts).seen.contains("ufw is active"), "{:?}", filtered(&facts));
        facts.firewall.manager = None;
        facts.firewall.legacy =
            vec![Legacy { tool: "ip6tables-legacy", rules: Ok("-P INPUT DROP\n".into()) }];
        assert_eq!(filtered(&facts).status, Outcome::Ok, "tunnels are of IPv4");
        let mut with = |rules: &str| {
            facts.firewall.legacy = vec![Legacy { tool: "iptables-legacy", rules: Ok(rules.into()) }];
            filtered(&facts)
        };
        let finding = with("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 84721 -j ACCEPT\n");
        assert_eq!(finding.advice.unwrap(), "`iptables-legacy -I INPUT -p udp --dport 8472 -j ACCEPT`");
        let open = "-P INPUT DROP\n-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\n";
        assert_eq!(with(open).status, Outcome::Ok);
        facts.firewall.nft = Err("no rights".to_owned());
        assert_eq!(filtered(&facts).seen, "it cannot be read: no rights");
        facts.firewall.legacy[0].rules = Ok("-P INPUT DROP\n".into());
        assert!(filtered(&facts).seen.contains("policy DROP"), "what was found is told all the same");
        facts.firewall.nft = Ok(None);
        facts.firewall.legacy[0].rules = Err("not found".into());
        assert_eq!(filtered(&facts).seen, "it cannot be read: not found");
        facts.firewall.legacy[0].tool = "ip6tables-legacy";
        assert!(filtered(&facts).seen.ends_with("(there is no `nft` to list others)"), "tunnels are of IPv4");
    }
}
