//! What nftables rules do with a packet, as far as `nft -j list ruleset` tells.
//!
//! Only what a rule says of interfaces and addresses is understood. A rule with any other condition (a state, a port) is
//! taken as not meant for the packet: no firewall may rely on more to let pods through, nor to stop them all.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

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
    /// For one that the kernel calls for what is forwarded: whether it drops what no rule decides.
    drops: Option<bool>,
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
                let forward = chain["hook"] == "forward";
                set.chains.entry(place).or_default().drops = forward.then(|| chain["policy"] == "drop");
            } else if let Some(rule) = object.get("rule") {
                let place = (text(rule, "family"), text(rule, "table"), text(rule, "chain"));
                set.chains.entry(place).or_default().rules.push(rule["expr"].clone());
            }
        }
        Ok(set)
    }

    /// The forward chains that drop a packet. Each has to let it through.
    pub(super) fn dropping(&self, packet: &Packet<'_>) -> Vec<Place> {
        let family = if packet.source.is_ipv6() { "ip6" } else { "ip" };
        let judged = |((of, ..), _): &(&Place, &Chain)| of == "inet" || of == family;
        let drops = |(place, chain): &(&Place, &Chain)| {
            let Some(policy) = chain.drops else { return false };
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
    let equal = if let Some(key) = left["meta"]["key"].as_str() {
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
        !set.dropping(&Packet { iif: "np1", oif: "eth0", source, destination }).is_empty()
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
