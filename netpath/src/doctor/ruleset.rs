//! What nftables rules do with a packet, as far as `nft -j list ruleset` tells.
//!
//! Only what a rule says of interfaces and addresses is understood, and of a packet with a port also that and its state, which is
//! new. A rule with any other condition is taken as not meant for the packet: no firewall may rely on more to let pods through,
//! nor to stop them all.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::model::Transport;

/// Jumps that are followed; the kernel itself allows 16.
const DEPTH: u32 = 16;

/// A packet on its way through the node.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    /// Interface that it came in by.
    pub(super) iif: &'a str,
    /// Interface that it is to leave by.
    pub(super) oif: &'a str,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Protocol and destination port of one that opens a connection, if that is of interest.
    pub(super) port: Option<(Transport, u16)>,
}

/// Where the kernel asks a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    /// For what is the node's own.
    Input,
    /// For what goes through it.
    Forward,
}

/// Family, table and name of a chain.
pub(super) type Place = (String, String, String);

/// Chains by place.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: BTreeMap<Place, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// For one that the kernel asks: where, and whether it drops what no rule decides.
    base: Option<(Hook, bool)>,
    rules: Vec<Value>,
}

/// What a chain has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// The caller's next rule.
    Return,
}

impl Ruleset {
    /// Reads what `nft -j list ruleset` printed.
    pub(super) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let value: Value = serde_json::from_str(json)?;
        let mut set = Self::default();
        for object in value["nftables"].as_array().into_iter().flatten() {
            let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
            if let Some(chain) = object.get("chain") {
                let place = (text(chain, "family"), text(chain, "table"), text(chain, "name"));
                let hook = match chain["hook"].as_str() {
                    Some("input") => Some(Hook::Input),
                    Some("forward") => Some(Hook::Forward),
                    _ => None,
                };
                set.chains.entry(place).or_default().base =
                    hook.map(|hook| (hook, chain["policy"] == "drop"));
            } else if let Some(rule) = object.get("rule") {
                let place = (text(rule, "family"), text(rule, "table"), text(rule, "chain"));
                set.chains.entry(place).or_default().rules.push(rule["expr"].clone());
            }
        }
        Ok(set)
    }

    /// The chains of a hook that drop a packet. Each has to let it through.
    pub(super) fn dropping(&self, hook: Hook, packet: &Packet<'_>) -> Vec<Place> {
        let family = if packet.source.is_ipv6() { "ip6" } else { "ip" };
        let judged = |((of, ..), _): &(&Place, &Chain)| of == "inet" || of == family;
        let drops = |(place, chain): &(&Place, &Chain)| {
            let Some((_, policy)) = chain.base.filter(|(at, _)| *at == hook) else { return false };
            match self.run(place, packet, DEPTH) {
                Verdict::Return => policy,
                verdict => verdict == Verdict::Drop,
            }
        };
        self.chains.iter().filter(judged).filter(drops).map(|(place, _)| place.clone()).collect()
    }

    /// Whether there is a chain.
    pub(super) fn has(&self, place: &Place) -> bool {
        self.chains.contains_key(place)
    }

    fn run(&self, place: &Place, packet: &Packet<'_>, depth: u32) -> Verdict {
        let Some(chain) = self.chains.get(place).filter(|_| depth > 0) else { return Verdict::Return };
        for rule in &chain.rules {
            let statements = rule.as_array().map(Vec::as_slice).unwrap_or_default();
            let target = |name: &str| {
                let target = statements.iter().find_map(|one| one[name]["target"].as_str());
                target.map(|target| (place.0.clone(), place.1.clone(), target.to_owned()))
            };
            if !statements.iter().all(|statement| understood(statement, packet)) {
                continue;
            }
            if let Some(callee) = target("jump") {
                match self.run(&callee, packet, depth - 1) {
                    Verdict::Return => {}
                    verdict => return verdict,
                }
            } else if let Some(callee) = target("goto") {
                return self.run(&callee, packet, depth - 1);
            }
            let says = |name: &str| statements.iter().any(|statement| statement.get(name).is_some());
            if says("accept") {
                return Verdict::Accept;
            } else if says("drop") || says("reject") {
                return Verdict::Drop;
            } else if says("return") {
                return Verdict::Return;
            }
        }
        Verdict::Return
    }
}

/// Whether a statement is no condition, or one that the packet is known to meet.
fn understood(statement: &Value, packet: &Packet<'_>) -> bool {
    match statement.get("match") {
        Some(condition) => meets(condition, packet).unwrap_or(false),
        None => ["limit", "xt", "vmap", "quota"].iter().all(|name| statement.get(name).is_none()),
    }
}

/// Whether a packet meets a condition; `None` if the condition is about something else.
fn meets(condition: &Value, packet: &Packet<'_>) -> Option<bool> {
    let left = &condition["left"];
    let family = if packet.source.is_ipv6() { "ip6" } else { "ip" };
    let equal = if let Some(equal) = opens(condition, packet) {
        // Flags of a state are "in" what a rule names.
        return Some(if condition["op"] == "!=" { !equal } else { equal });
    } else if let Some(key) = left["meta"]["key"].as_str() {
        match key {
            "iifname" | "iif" => any(&condition["right"], &|right| is_name(right, packet.iif)),
            "oifname" | "oif" => any(&condition["right"], &|right| is_name(right, packet.oif)),
            "nfproto" | "protocol" => {
                let names = if family == "ip6" { ["ipv6", "ip6"] } else { ["ipv4", "ip"] };
                any(&condition["right"], &|right| Some(names.contains(&right.as_str()?)))
            }
            _ => None,
        }?
    } else {
        let (protocol, field) = (left["payload"]["protocol"].as_str()?, left["payload"]["field"].as_str()?);
        let address = match (protocol, field) {
            ("ip" | "ip6", _) if protocol != family => return Some(false),
            ("ip" | "ip6", "saddr") => packet.source,
            ("ip" | "ip6", "daddr") => packet.destination,
            _ => return None,
        };
        any(&condition["right"], &|right| is_within(right, address))?
    };
    match condition["op"].as_str()? {
        "==" => Some(equal),
        "!=" => Some(!equal),
        _ => None,
    }
}

/// Whether a packet that opens a connection meets what a condition says of its state, protocol or port; `None` if that is about
/// something else, or the packet is any.
fn opens(condition: &Value, packet: &Packet<'_>) -> Option<bool> {
    let (left, right) = (&condition["left"], &condition["right"]);
    let (transport, port) = packet.port?;
    if left["ct"]["key"] == "state" {
        let new = |state: &Value| state == "new";
        return Some(
            new(right)
                || right.as_array().is_some_and(|states| states.iter().any(new))
                || right["set"].as_array().is_some_and(|states| states.iter().any(new)),
        );
    }
    let protocol = |right: &Value| {
        let number = || right.as_u64().map(|number| number == u64::from(transport.number()));
        right.as_str().map(|name| name == transport.name()).or_else(number)
    };
    let (of, field) = (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str());
    match (left["meta"]["key"].as_str(), of, field) {
        (Some("l4proto"), ..) | (_, Some("ip"), Some("protocol")) | (_, Some("ip6"), Some("nexthdr")) => {
            any(right, &protocol)
        }
        (_, Some(of), Some("dport")) if of != "th" && of != transport.name() => Some(false),
        (_, Some(_), Some("dport")) => any(right, &|right| {
            let within = || {
                let range = right["range"].as_array()?;
                Some((range.first()?.as_u64()?..=range.get(1)?.as_u64()?).contains(&port.into()))
            };
            right.as_u64().map(|one| one == u64::from(port)).or_else(within)
        }),
        _ => None,
    }
}

/// Whether one of a set, or the one value, is what is asked for; `None` if it cannot be told.
fn any(right: &Value, is: &dyn Fn(&Value) -> Option<bool>) -> Option<bool> {
    let Some(set) = right["set"].as_array() else { return is(right) };
    let mut all = set.iter().map(is);
    all.try_fold(false, |found, one| Some(found || one?))
}

fn is_name(right: &Value, name: &str) -> Option<bool> {
    let wanted = right.as_str().filter(|wanted| !wanted.starts_with('@'))?;
    Some(match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    })
}

fn is_within(right: &Value, address: IpAddr) -> Option<bool> {
    if let Some(text) = right.as_str() {
        return Some(text.parse::<IpAddr>().ok()? == address);
    }
    let prefix = &right["prefix"];
    let net = IpNet::new(prefix["addr"].as_str()?.parse().ok()?, prefix["len"].as_u64()?.try_into().ok()?);
    Some(net.ok()?.contains(&address))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(name: &str, policy: Option<&str>) -> Value {
        let mut chain = json!({"family": "ip", "table": "filter", "name": name});
        if let Some(policy) = policy {
            chain["hook"] = "forward".into();
            chain["policy"] = policy.into();
        }
        json!({ "chain": chain })
    }

    fn rule(chain: &str, expressions: &Value) -> Value {
        json!({"rule": {"family": "ip", "table": "filter", "chain": chain, "expr": expressions}})
    }

    fn name(key: &str, right: &Value) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
    }

    fn dropped(objects: &[Value]) -> bool {
        let set = Ruleset::parse(&json!({ "nftables": objects }).to_string()).unwrap();
        let (source, destination) = ("10.61.0.2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let packet = Packet { iif: "np1", oif: "eth0", source, destination, port: None };
        assert!(set.dropping(Hook::Input, &packet).is_empty(), "of another hook");
        !set.dropping(Hook::Forward, &packet).is_empty()
    }

    #[test]
    fn a_port_and_a_state_decide_for_who_opens_a_connection() {
        let drops = chain("FORWARD", Some("drop"));
        let dropped = |condition: Value, port: Option<(Transport, u16)>| {
            let rule = rule("FORWARD", &json!([condition, {"accept": null}]));
            let text = json!({ "nftables": [drops, rule] }).to_string();
            let (source, destination) = ("192.0.2.1".parse().unwrap(), "10.61.0.2".parse().unwrap());
            let packet = Packet { iif: "eth0", oif: "np1", source, destination, port };
            !Ruleset::parse(&text).unwrap().dropping(Hook::Forward, &packet).is_empty()
        };
        let to = |protocol: &str, right: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}});
        let state = |op: &str, right: Value| json!({"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": right}});
        let tcp = Some((Transport::Tcp, 80));
        for (condition, port, expected) in [
            (to("tcp", json!(80)), tcp, false),
            (to("tcp", json!(81)), tcp, true),
            (to("udp", json!(80)), tcp, true),
            (to("th", json!(80)), Some((Transport::Udp, 80)), false),
            (to("tcp", json!({"range": [70, 90]})), tcp, false),
            (to("tcp", json!({"set": [22, {"range": [80, 81]}]})), tcp, false),
            (to("tcp", json!("@open")), tcp, true),
            (to("tcp", json!(80)), None, true),
            (state("in", json!("new")), tcp, false),
            (state("in", json!(["new", "untracked"])), tcp, false),
            (state("==", json!({"set": ["new", "established"]})), tcp, false),
            (state("in", json!(["established", "related"])), tcp, true),
            (state("!=", json!("new")), tcp, true),
            (name("l4proto", &json!("tcp")), tcp, false),
            (name("l4proto", &json!({"set": ["icmp", "udp"]})), tcp, true),
        ] {
            assert_eq!(dropped(condition.clone(), port), expected, "{condition} {port:?}");
        }
    }

    #[test]
    fn policy_and_rules_decide_in_order() {
        let drops = chain("FORWARD", Some("drop"));
        let accepts = chain("FORWARD", Some("accept"));
        assert!(dropped(std::slice::from_ref(&drops)));
        assert!(!dropped(std::slice::from_ref(&accepts)));
        assert!(!dropped(&[chain("OTHER", None)]), "nothing calls it");
        let pods =
            rule("FORWARD", &json!([name("iifname", &json!("np*")), {"counter": {}}, {"accept": null}]));
        let all = rule("FORWARD", &json!([{"drop": null}]));
        assert!(!dropped(&[drops.clone(), pods.clone()]));
        assert!(!dropped(&[accepts.clone(), pods.clone(), all.clone()]));
        assert!(dropped(&[accepts.clone(), all, pods]));
        let reject =
            rule("FORWARD", &json!([name("oifname", &json!({"set": ["eth0", "eth1"]})), {"reject": null}]));
        assert!(dropped(&[accepts, reject]));
    }

    #[test]
    fn jumps_are_followed_and_return() {
        let base = [chain("FORWARD", Some("drop")), rule("FORWARD", &json!([{"jump": {"target": "USER"}}]))];
        let with = |rest: &[Value]| dropped(&[&base[..], &[chain("USER", None)], rest].concat());
        assert!(with(&[]));
        assert!(with(&[rule("USER", &json!([{"return": null}]))]));
        assert!(!with(&[rule("USER", &json!([name("iifname", &json!("np1")), {"accept": null}]))]));
        assert!(with(&[rule("USER", &json!([{"jump": {"target": "FORWARD"}}]))]), "a circle ends");
        let goto = rule("USER", &json!([{"goto": {"target": "LAST"}}]));
        assert!(!with(&[goto, chain("LAST", None), rule("LAST", &json!([{"accept": null}]))]));
    }

    #[test]
    fn addresses_decide_and_what_is_not_understood_does_not() {
        let drops = chain("FORWARD", Some("drop"));
        let with = |conditions: Value| {
            let mut expressions = conditions.as_array().unwrap().clone();
            expressions.push(json!({"accept": null}));
            dropped(&[drops.clone(), rule("FORWARD", &Value::Array(expressions))])
        };
        let address = |field: &str, op: &str, right: Value| {
            json!({"match": {"op": op,
            "left": {"payload": {"protocol": "ip", "field": field}}, "right": right}})
        };
        let net = json!({"prefix": {"addr": "10.0.0.0", "len": 8}});
        assert!(!with(json!([address("saddr", "==", net.clone())])));
        assert!(with(json!([address("saddr", "!=", net.clone())])));
        assert!(with(json!([address("daddr", "==", json!({"set": [net, "192.0.2.7"]}))])));
        assert!(with(json!([address("saddr", "==", json!("@pods"))])));
        let state = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}});
        assert!(with(json!([state])));
        assert!(with(json!([{"limit": {"rate": 5}}])));
        let v6 = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "saddr"}}, "right": "fd00::1"}});
        assert!(with(json!([v6])));
        assert!(!with(json!([name("nfproto", &json!("ipv4"))])));
    }
}
