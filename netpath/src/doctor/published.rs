//! Who reaches published ports, and who that is not meant to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    Facts, Finding,
    report::{Faults, Outcome},
    ruleset::{Hook, Packet, Place, Ruleset},
};
use crate::model::{Family, Publication, Transport};

/// Somebody outside, of each family (RFC 5737, RFC 3849).
const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// What a packet for a published port would meet, did it go through the node's stack.
type Met = (Hook, Place);

/// All publications, each with its pod.
fn all(facts: &Facts) -> Vec<(&str, Publication)> {
    let own =
        facts.agent.pods.iter().flat_map(|pod| pod.published.iter().map(|text| (pod.name.as_str(), text)));
    own.filter_map(|(pod, text)| Some((pod, text.parse().ok()?))).collect()
}

fn nothing() -> Finding {
    Finding::not_applicable("nothing is published, or no agent tells")
}

/// Which interfaces nobody comes by to a published port: the programs see what arrives at uplinks. For information, as
/// most of them are other networks of the node; but who would meet a socket there in place of the pod waits for an answer.
pub(super) fn reach(facts: &Facts) -> Finding {
    let published = all(facts);
    if published.is_empty() {
        return nothing();
    }
    let others = other_interfaces(facts);
    if others.is_empty() {
        return Finding::ok(format!("{} published, reached from wherever the node is", published.len()));
    }
    let others = others.join(", ");
    let mut faults = Faults::default();
    for (pod, one) in &published {
        if let Some(socket) = facts.net.sockets.iter().find(|socket| meets(one, socket)) {
            faults.add(
                format!(
                    "who comes by {others} to {one} meets a socket of the node ({}), not pod {pod}: an engine binds what it \
                     publishes, and nobody answers there",
                    socket.1
                ),
                "name them among `uplinks` of the configuration, if they carry Ethernet frames; what cannot be one, such as a \
                 WireGuard tunnel, needs a proxy on the node, whose own connections reach the pod",
            );
        }
    }
    let fine = format!(
        "{} published; who comes by {others} does not reach them, as these are no uplinks: name them among `uplinks` of the \
         configuration if they are to be, and carry Ethernet frames",
        published.len()
    );
    faults.finding(Outcome::Warning, fine)
}

/// Interfaces with an address that are neither uplinks nor pods'.
fn other_interfaces(facts: &Facts) -> Vec<&str> {
    let node = &facts.node;
    let is_other = |name: &str| {
        name != "lo"
            && !node.uplinks.iter().any(|uplink| uplink == name)
            && !node.interfaces().any(|interface| interface.host == name)
    };
    let has_address = |index| {
        let mut own = facts.net.addresses.iter().filter(|address| address.ifindex == index);
        own.any(|address| !matches!(address.net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()))
    };
    let links = facts.net.links.iter().map(|state| &state.link);
    let others = links.filter(|link| is_other(&link.name) && has_address(link.index));
    others.map(|link| link.name.as_str()).collect()
}

/// Whether a socket gets what comes for a publication by an interface without programs.
fn meets(one: &Publication, (transport, socket): &(Transport, SocketAddr)) -> bool {
    let (own, any) = (socket.ip(), socket.ip().is_unspecified());
    *transport == one.protocol
        && one.ports().contains(&socket.port())
        && !own.is_loopback()
        && (one.has(Family::of(own)) || (any && own.is_ipv6()))
        && one.exact().is_none_or(|address| any || address == own)
}

/// Whether somebody may rely on the node's firewall to keep others from a published port: programs lead packets past it.
pub(super) fn filtered(facts: &Facts) -> Finding {
    let published = all(facts);
    if published.is_empty() {
        return nothing();
    }
    let mut faults = Faults::default();
    let asks = facts.agent.status.as_ref().is_ok_and(|status| status.asks_firewall);
    for table in &facts.firewall.legacy {
        let passed_by = |line: &str| line == "-P INPUT DROP" || (!asks && line == "-P FORWARD DROP");
        let drops = |rules: &String| rules.lines().any(passed_by);
        if table.rules.as_ref().is_ok_and(drops) {
            faults.add(
                format!("{} drops what it does not allow, and published ports do not pass it", table.tool),
                restrict(facts),
            );
        }
    }
    match &facts.firewall.nft {
        Err(reason) => return Finding::unread(reason),
        Ok(None) => {
            if let Some(manager) = facts.firewall.manager {
                faults.add(format!("{manager} is active, and published ports do not pass its rules"), restrict(facts));
            }
        }
        Ok(Some(json)) => match Ruleset::parse(json) {
            Err(error) => return Finding::unread(error),
            Ok(set) => stopped(facts, &set, &published).iter().for_each(|((hook, place), ports)| {
                if asks && *hook == Hook::Forward {
                    return;
                }
                let (family, table, chain) = place;
                let list: Vec<_> = ports.iter().map(Publication::to_string).collect();
                let rule = ports.first().map(|one| {
                    // Behind a translation of the stack it would be the pod's port.
                    let port = if *hook == Hook::Input { one.port } else { one.pod_port };
                    format!("`nft insert rule {family} {table} {chain} {} dport {port} accept`", one.protocol.name())
                });
                faults.add(
                    format!(
                        "the chain {chain} of the table {family} {table} drops what comes for {}, which is published and does \
                         not pass it",
                        list.join(", ")
                    ),
                    format!("if everybody may come, allow it there as well: {}; if not, {}", rule.unwrap_or_default(), restrict(facts)),
                );
            }),
        },
    }
    faults.finding(Outcome::Warning, "no firewall that was found would keep anybody from a published port")
}

fn restrict(facts: &Facts) -> String {
    let netpath = format!("netpath {}", facts.options());
    format!(
        "`datapath.firewall = \"forward\"` in the configuration has FORWARD chains decide, `{netpath}deny add PREFIX` keeps PREFIX out, and what is for the node alone is published at its loopback \
         (`{netpath}pod set POD --unpublish PORT:PORT --publish 127.0.0.1:PORT:PORT`, an engine's `hostIP`)"
    )
}

/// Chains that would stop who opens a connection from outside, with what they would stop.
fn stopped(
    facts: &Facts,
    set: &Ruleset,
    published: &[(&str, Publication)],
) -> BTreeMap<Met, Vec<Publication>> {
    let mut met: BTreeMap<Met, Vec<Publication>> = BTreeMap::new();
    for (pod, one) in published {
        // What is for the node alone comes from nowhere else.
        if one.exact().is_some_and(|address| address.is_loopback()) {
            continue;
        }
        for v6 in [false, true].into_iter().filter(|v6| one.has(if *v6 { Family::V6 } else { Family::V4 })) {
            for at in ways(facts, v6, pod, one, set) {
                let list = met.entry(at).or_default();
                if !list.contains(one) {
                    list.push(one.clone());
                }
            }
        }
    }
    met
}

fn ways(facts: &Facts, v6: bool, pod: &str, one: &Publication, set: &Ruleset) -> Vec<Met> {
    let source: IpAddr = OUTSIDE[usize::from(v6)].parse().expect("an address");
    let mut met = Vec::new();
    for uplink in facts.node.uplinks.iter().filter_map(|name| facts.net.link(name)) {
        let of_uplink = facts.net.addresses.iter().filter(|own| own.ifindex == uplink.link.index);
        let mut own = of_uplink.map(|own| own.net.addr()).filter(|own| own.is_ipv6() == v6);
        let packet = |oif, destination, port| Packet {
            iif: &uplink.link.name,
            oif,
            source,
            destination,
            port: Some((one.protocol, port)),
        };
        if let Some(address) = one.exact().or_else(|| own.next()) {
            let chains = set.dropping(Hook::Input, &packet("", address, one.port));
            met.extend(chains.into_iter().map(|place| (Hook::Input, place)));
        }
        let interfaces = facts.node.pods.iter().filter(|own| own.name == pod).flat_map(|own| &own.interfaces);
        for interface in interfaces.take(1) {
            for address in interface.addresses.iter().filter(|address| address.is_ipv6() == v6) {
                let chains = set.dropping(Hook::Forward, &packet(&interface.host, *address, one.pod_port));
                met.extend(chains.into_iter().map(|place| (Hook::Forward, place)));
            }
        }
    }
    met
}

#[cfg(test)]
mod tests;
