//! Interfaces, sockets and rules, with a pod web that publishes.

use serde_json::{Value, json};

use super::*;
use crate::doctor::{CHECKS, facts::Legacy};

fn publishing(published: &[&str]) -> Facts {
    let mut facts = Facts::healthy();
    let pod = json!({
        "name": "web", "network": "default", "addresses": [], "mac": "", "interface": "np1", "ifindex": 3,
        "netns": "/run/netns/web", "state": "ready", "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0, "tx_bytes": 0,
        "mtu": 1500, "published": published,
    });
    facts.agent.pods.push(serde_json::from_value(pod).unwrap());
    facts
}

/// The same with an interface that is no uplink.
fn with_wg0(published: &[&str]) -> Facts {
    let mut facts = publishing(published);
    let index = facts.net.link_mut("lo").link.index;
    facts.net.link_mut("lo").link.name = "wg0".into();
    let mut address = facts.net.addresses[0];
    (address.ifindex, address.net) = (index, "10.9.0.1/24".parse().unwrap());
    facts.net.addresses.push(address);
    facts
}

#[test]
fn interfaces_that_are_no_uplinks_are_named_where_something_is_published() {
    assert_eq!(reach(&Facts::healthy()).status, Outcome::NotApplicable);
    let told = reach(&publishing(&["8080:80/tcp"]));
    assert!(told.status == Outcome::Ok && told.seen.contains("wherever the node is"), "{}", told.seen);
    let told = reach(&with_wg0(&["8080:80/tcp"]));
    assert!(told.status == Outcome::Ok && told.seen.contains("wg0 does not"), "{}", told.seen);
}

#[test]
fn a_socket_that_a_client_would_meet_there_in_place_of_the_pod_is_a_warning() {
    for (published, transport, socket, warns) in [
        ("8080:80/tcp", Transport::Tcp, "0.0.0.0:8080", true),
        ("8080:80/tcp", Transport::Tcp, "[::]:8080", true),
        ("8080:80/tcp", Transport::Tcp, "192.0.2.5:8080", true),
        ("8080-8089:80-89/tcp", Transport::Tcp, "0.0.0.0:8085", true),
        ("0.0.0.0:8080:80/tcp", Transport::Tcp, "[::]:8080", true),
        ("0.0.0.0:8080:80/tcp", Transport::Tcp, "[2001:db8::5]:8080", false),
        ("192.0.2.5:8080:80/tcp", Transport::Tcp, "0.0.0.0:8080", true),
        ("192.0.2.5:8080:80/tcp", Transport::Tcp, "192.0.2.6:8080", false),
        ("8080:80/tcp", Transport::Tcp, "127.0.0.1:8080", false),
        ("8080:80/tcp", Transport::Tcp, "0.0.0.0:8081", false),
        ("8080:80/tcp", Transport::Udp, "0.0.0.0:8080", false),
        ("8080:80/udp", Transport::Udp, "0.0.0.0:8080", true),
    ] {
        let mut facts = with_wg0(&[published]);
        facts.net.sockets = vec![(transport, socket.parse().unwrap())];
        let told = reach(&facts);
        let expected = if warns { Outcome::Warning } else { Outcome::Ok };
        assert_eq!(told.status, expected, "{published} {socket}: {told:?}");
        assert_eq!(told.seen.contains(&format!("({socket}), not pod web")), warns, "{told:?}");
        // Who comes by an uplink reaches the pod, whoever has the port.
        let mut facts = publishing(&[published]);
        facts.net.sockets = vec![(transport, socket.parse().unwrap())];
        assert_eq!(reach(&facts).status, Outcome::Ok);
    }
}

/// A base chain of the table inet fw, and rules in it.
fn ruleset(hook: &str, policy: &str, rules: &[Value]) -> String {
    let chain =
        json!({"chain": {"family": "inet", "table": "fw", "name": "main", "hook": hook, "policy": policy}});
    let rule =
        |rule: &Value| json!({"rule": {"family": "inet", "table": "fw", "chain": "main", "expr": rule}});
    json!({"nftables": std::iter::once(chain).chain(rules.iter().map(rule)).collect::<Vec<_>>()}).to_string()
}

#[test]
fn a_chain_that_would_stop_a_published_port_is_a_warning() {
    let to = |port: u16, verdict: &str| json!([{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}}, {verdict: null}]);
    let by = |name: &str| json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}}, {"accept": null}]);
    for (hook, policy, rules, warns) in [
        ("input", "accept", vec![], false),
        ("input", "drop", vec![], true),
        ("input", "drop", vec![to(8080, "accept")], false),
        ("input", "drop", vec![to(80, "accept")], true),
        ("input", "drop", vec![by("lo")], true),
        ("input", "drop", vec![by("eth0")], false),
        ("input", "accept", vec![to(8080, "drop")], true),
        ("input", "accept", vec![to(22, "drop")], false),
        ("input", "accept", vec![json!([{"reject": null}])], true),
        ("forward", "drop", vec![], true),
        ("forward", "drop", vec![to(80, "accept")], false),
        ("output", "drop", vec![], false),
    ] {
        let mut facts = publishing(&["8080:80/tcp"]);
        facts.firewall.nft = Ok(Some(ruleset(hook, policy, &rules)));
        let told = filtered(&facts);
        let expected = if warns { Outcome::Warning } else { Outcome::Ok };
        assert_eq!(told.status, expected, "{hook} {policy} {rules:?}: {told:?}");
    }
    let mut facts = publishing(&["8080:80/tcp", "9090:90/udp", "127.0.0.1:7070:70/tcp"]);
    facts.firewall.nft = Ok(Some(ruleset("input", "drop", &[])));
    let told = filtered(&facts);
    assert_eq!(
        told.seen,
        "the chain main of the table inet fw drops what comes for 8080:80/tcp, 9090:90/udp, which is published and does not pass it"
    );
    let advice = told.advice.unwrap();
    for part in
        ["`nft insert rule inet fw main tcp dport 8080 accept`", "`netpath deny add PREFIX`", "hostIP"]
    {
        assert!(advice.contains(part), "{part}: {advice}");
    }
    facts.agent.pods.clear();
    assert_eq!(filtered(&facts).status, Outcome::NotApplicable, "nothing is published");
}

#[test]
fn chains_of_forward_that_are_asked_are_passed() {
    for (hook, rules, expected) in
        [("forward", "-P FORWARD DROP\n", Outcome::Ok), ("input", "-P INPUT DROP\n", Outcome::Warning)]
    {
        let mut facts = publishing(&["8080:80/tcp"]);
        facts.agent.status.as_mut().unwrap().asks_firewall = true;
        facts.firewall.nft = Ok(Some(ruleset(hook, "drop", &[])));
        assert_eq!(filtered(&facts).status, expected, "{hook}");
        facts.firewall.nft = Ok(None);
        facts.firewall.legacy = vec![Legacy { tool: "iptables-legacy", rules: Ok(rules.into()) }];
        assert_eq!(filtered(&facts).status, expected, "{rules}");
    }
}

#[test]
fn without_nft_a_firewall_is_told_by_its_name_or_by_the_old_iptables() {
    let mut facts = publishing(&["8080:80/tcp"]);
    facts.firewall.nft = Ok(None);
    assert_eq!(filtered(&facts).status, Outcome::Ok);
    facts.firewall.manager = Some("ufw");
    assert!(filtered(&facts).seen.starts_with("ufw is active"), "{:?}", filtered(&facts));
    facts.firewall.manager = None;
    for (rules, warns) in
        [("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n", false), ("-P INPUT DROP\n-P FORWARD ACCEPT\n", true)]
    {
        facts.firewall.legacy = vec![Legacy { tool: "iptables-legacy", rules: Ok(rules.into()) }];
        assert_eq!(filtered(&facts).status == Outcome::Warning, warns, "{rules}");
    }
    facts.firewall.nft = Err("nft: no memory".into());
    assert_eq!(filtered(&facts).status, Outcome::Warning);
    assert!(CHECKS.iter().any(|check| check.name == "firewall-published"));
}
