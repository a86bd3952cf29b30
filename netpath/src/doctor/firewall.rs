//! Rules of others that drop what is forwarded.
//!
//! What pods exchange with each other and with outside does not meet them. What the host stack forwards does: fragments,
//! packets to and from interfaces that are no uplinks (a VPN, docker0), and what arrives for a pod by such an interface.

use std::net::IpAddr;

use super::{
    Facts, Finding,
    report::{Faults, Outcome},
    ruleset::{Hook, Packet, Place, Ruleset},
};
use crate::model::interface_name;

/// Somebody outside, of each family (RFC 5737, RFC 3849).
const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// Chains of nftables, which iptables has its rules in as well.
pub(super) fn nftables(facts: &Facts) -> Finding {
    let json = match &facts.firewall.nft {
        Err(reason) => return Finding::unread(reason),
        Ok(None) => {
            return Finding::not_applicable("nft is not installed; with it, this would look at the rules");
        }
        Ok(Some(json)) => json,
    };
    let set = match Ruleset::parse(json) {
        Err(error) => return Finding::unread(error),
        Ok(set) => set,
    };
    let mut places: Vec<Place> = Vec::new();
    for v6 in [false, true].into_iter().filter(|v6| facts.node.has(*v6)) {
        places.extend(both_ways(facts, v6, &set));
    }
    places.sort();
    places.dedup();
    let mut faults = Faults::default();
    let pods = pattern(facts);
    for (family, table, chain) in &places {
        // Docker keeps what is in this chain, and looks at it first.
        let user = (family.clone(), table.clone(), "DOCKER-USER".to_owned());
        let target = if set.has(&user) { &user.2 } else { chain };
        let rule =
            |way: &str| format!("`nft insert rule {family} {table} {target} {way} \"{pods}*\" accept`");
        faults.add(
            format!("the chain {chain} of the table {family} {table} drops what is forwarded for pods"),
            format!("{} and {}", rule("iifname"), rule("oifname")),
        );
    }
    faults.finding(Outcome::Failed, "no chain drops what is forwarded for pods")
}

/// Forward chains that drop what a pod sends, or what comes for it.
fn both_ways(facts: &Facts, v6: bool, set: &Ruleset) -> Vec<Place> {
    let uplink = facts.node.uplinks.first().map_or("eth0", String::as_str);
    let outside: IpAddr = OUTSIDE[usize::from(v6)].parse().expect("an address");
    let known = facts.node.interfaces().find_map(|interface| {
        let address = interface.addresses.iter().find(|address| address.is_ipv6() == v6)?;
        Some((interface.host.clone(), *address))
    });
    let block =
        || facts.node.blocks.iter().map(|(_, block)| block.addr()).find(|address| address.is_ipv6() == v6);
    let (pod, address) =
        known.unwrap_or_else(|| (format!("{}1", pattern(facts)), block().unwrap_or(outside)));
    let from = Packet { iif: &pod, oif: uplink, source: address, destination: outside, port: None };
    let to = Packet { iif: uplink, oif: &pod, source: outside, destination: address, port: None };
    [from, to].iter().flat_map(|packet| set.dropping(Hook::Forward, packet)).collect()
}

/// What the names of pods' interfaces start with.
fn pattern(facts: &Facts) -> String {
    interface_name(facts.instance.name(), 1, 0).trim_end_matches('1').to_owned()
}

/// The old iptables, whose rules nft does not show.
pub(super) fn iptables(facts: &Facts) -> Finding {
    if facts.firewall.legacy.is_empty() {
        return Finding::ok("there is no filter table of the old iptables");
    }
    let mut faults = Faults::default();
    let pods = pattern(facts);
    for table in &facts.firewall.legacy {
        let tool = table.tool;
        match &table.rules {
            Err(reason) => faults.add(
                format!("there is a filter table of the old iptables, and it cannot be read ({reason})"),
                format!("see whether `{tool} -S FORWARD` has policy DROP"),
            ),
            Ok(rules) => {
                let lets = |way: &str| {
                    rules.lines().any(|line| line == format!("-A FORWARD {way} {pods}+ -j ACCEPT"))
                };
                if rules.lines().any(|line| line == "-P FORWARD DROP") && !(lets("-i") && lets("-o")) {
                    let rule = |way: &str| format!("`{tool} -I FORWARD {way} {pods}+ -j ACCEPT`");
                    faults.add(
                        format!("the chain FORWARD of {tool} drops what is forwarded for pods"),
                        format!("{} and {}", rule("-i"), rule("-o")),
                    );
                }
            }
        }
    }
    faults.finding(Outcome::Failed, "the filter table of the old iptables lets through what is forwarded")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::facts::Legacy;

    #[test]
    fn docker_is_told_its_own_chain() {
        let chain = |family: &str, name: &str, policy: &str| {
            json!({"chain": {"family": family, "table": "filter",
            "name": name, "hook": "forward", "policy": policy}})
        };
        let user = json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}});
        let mut facts = Facts::healthy();
        let mut with = |chains: &[serde_json::Value]| {
            facts.firewall.nft = Ok(Some(json!({ "nftables": chains }).to_string()));
            nftables(&facts)
        };
        assert_eq!(with(&[chain("ip", "FORWARD", "accept")]).status, Outcome::Ok);
        let finding = with(&[chain("ip", "FORWARD", "drop"), user]);
        assert_eq!(finding.seen, "the chain FORWARD of the table ip filter drops what is forwarded for pods");
        assert_eq!(
            finding.advice.unwrap(),
            "`nft insert rule ip filter DOCKER-USER iifname \"np*\" accept` and \
             `nft insert rule ip filter DOCKER-USER oifname \"np*\" accept`"
        );
        let finding = with(&[chain("ip6", "forward", "drop")]);
        assert!(finding.advice.unwrap().starts_with("`nft insert rule ip6 filter forward iifname"));
        facts.firewall.nft = Ok(None);
        assert_eq!(nftables(&facts).status, Outcome::NotApplicable);
        facts.firewall.nft = Ok(Some("{".into()));
        assert_eq!(nftables(&facts).status, Outcome::Warning);
    }

    #[test]
    fn the_old_iptables_has_a_policy_and_rules() {
        let mut facts = Facts::healthy();
        let mut with = |rules: &str| {
            facts.firewall.legacy = vec![Legacy { tool: "iptables-legacy", rules: Ok(rules.into()) }];
            iptables(&facts)
        };
        assert_eq!(with("-P FORWARD ACCEPT\n").status, Outcome::Ok);
        let finding = with("-P FORWARD DROP\n-A FORWARD -i np+ -j ACCEPT\n");
        assert!(finding.advice.unwrap().contains("`iptables-legacy -I FORWARD -o np+ -j ACCEPT`"));
        let open = "-P FORWARD DROP\n-A FORWARD -i np+ -j ACCEPT\n-A FORWARD -o np+ -j ACCEPT\n";
        assert_eq!(with(open).status, Outcome::Ok);
        facts.firewall.legacy[0].rules = Err("not found".into());
        assert_eq!(iptables(&facts).status, Outcome::Failed);
    }
}
