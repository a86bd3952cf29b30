//! Knobs of the kernel.

use std::collections::BTreeSet;

use super::{
    Facts, Finding,
    facts::PodInterface,
    report::{Faults, Outcome},
};

/// Whether the host stack forwards what pods send and the programs leave to it.
pub(super) fn forwarding_v4(facts: &Facts) -> Finding {
    let all: Vec<_> = facts.node.interfaces().collect();
    let keys = all.iter().map(|interface| format!("net/ipv4/conf/{}/forwarding", interface.host));
    on(facts, keys, all.is_empty())
}

/// The same for IPv6, whose forwarding most kernels have for all interfaces only.
pub(super) fn forwarding_v6(facts: &Facts) -> Finding {
    let all: Vec<&PodInterface> = facts.node.interfaces().filter(|interface| interface.has_v6()).collect();
    let key = |name: &str, knob: &str| format!("net/ipv6/conf/{name}/{knob}");
    let whole = facts.net.sysctl("net/ipv6/conf/all/forwarding") == Some("1");
    let force = all.iter().any(|one| facts.net.sysctl(&key(&one.host, "force_forwarding")).is_some());
    let mut keys: Vec<_> = all.iter().map(|one| key(&one.host, "forwarding")).collect();
    if !whole && force {
        keys.extend(all.iter().map(|one| key(&one.host, "force_forwarding")));
    }
    let finding = on(facts, keys.into_iter(), all.is_empty());
    // Since Linux 6.17 (force_forwarding) an interface can forward alone.
    if finding.status == Outcome::Ok && !whole && !force {
        return Finding::warning(
            "this kernel forwards IPv6 on all interfaces or none, and all/forwarding is 0: pods' packets that are too big or \
             whose hops are used up are not answered",
            "`sysctl -w net/ipv6/conf/all/forwarding=1`; an uplink that lives from router advertisements keeps its route by \
             accept_ra=2, which the agent sets",
        );
    }
    finding
}

fn on(facts: &Facts, keys: impl Iterator<Item = String>, none: bool) -> Finding {
    if none {
        return Finding::not_applicable("there are no pods that need it");
    }
    let mut faults = Faults::default();
    // A key that is absent belongs to an interface that is gone, of which other checks tell.
    for key in keys.filter(|key| facts.net.sysctl(key).is_some_and(|value| value != "1")) {
        let value = facts.net.sysctl(&key).unwrap_or_default();
        faults.add(format!("{key} is {value}"), format!("`sysctl -w {key}=1`"));
    }
    faults.finding(Outcome::Failed, "every pod's interface forwards")
}

/// Whether an uplink keeps the default route that it learns.
pub(super) fn accept_ra(facts: &Facts) -> Finding {
    if !facts.node.has(true) {
        return Finding::not_applicable("pods have no IPv6");
    }
    if facts.agent.process.is_none() && facts.node.pods.is_empty() {
        return Finding::not_applicable(
            "no agent runs and there are no pods: nothing makes the kernel forget routes",
        );
    }
    let mut faults = Faults::default();
    for name in &facts.node.uplinks {
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        if facts.net.sysctl(&key) == Some("1") {
            faults.add(
                format!("{key} is 1: the kernel forgets routes learnt there when a pod with IPv6 comes"),
                format!("`sysctl -w {key}=2`"),
            );
        }
    }
    faults.finding(Outcome::Failed, "uplinks keep what routers advertise")
}

/// Whether the host stack drops packets by the way back to their source. What counts is the larger of the interface's
/// value and that for all.
pub(super) fn rp_filter(facts: &Facts) -> Finding {
    let value = |name: &str| {
        let key = format!("net/ipv4/conf/{name}/rp_filter");
        facts.net.sysctl(&key).and_then(|value| value.parse::<u8>().ok()).unwrap_or(0)
    };
    let strict = |name: &str| value(name).max(value("all")) == 1;
    let mut faults = Faults::default();
    let mut loosen = |name: &str, why: &str| {
        faults.add(
            format!("{name} is strict (1), {why}"),
            format!("`sysctl -w net/ipv4/conf/{name}/rp_filter=2`"),
        );
    };
    for pod in facts.node.pods.iter().filter(|pod| pod.interfaces.len() > 1) {
        let why = format!("and pod {} has several interfaces: what it sends by another is dropped", pod.name);
        pod.interfaces.iter().filter(|one| strict(&one.host)).for_each(|one| loosen(&one.host, &why));
    }
    if facts.node.uplinks.len() > 1 {
        let why = "and there are several uplinks: answers that come back by another are dropped";
        facts.node.uplinks.iter().filter(|name| strict(name)).for_each(|name| loosen(name, why));
    }
    faults.finding(Outcome::Warning, "no interface drops packets for the way that they came")
}

/// Whether the host's own connections stay out of the ports of translated flows.
pub(super) fn reserved_ports(facts: &Facts) -> Finding {
    let (Some(reserved), Some(ephemeral)) = (
        facts.net.sysctl("net/ipv4/ip_local_reserved_ports"),
        facts.net.sysctl("net/ipv4/ip_local_port_range"),
    ) else {
        return Finding::unread("net/ipv4/ip_local_reserved_ports");
    };
    if facts.agent.process.is_none() && facts.node.pods.is_empty() {
        return Finding::not_applicable("no agent runs and there are no pods: nothing is translated");
    }
    let reserved = ports(reserved);
    let ephemeral = ports(&ephemeral.split_whitespace().collect::<Vec<_>>().join("-"));
    let range = &facts.node.snat_ports;
    let open = range.clone().filter(|port| ephemeral.contains(port) && !reserved.contains(port)).count();
    let words = format!("{}-{}", range.start(), range.end());
    if open == 0 {
        return Finding::ok(format!("the host's own connections keep out of {words}"));
    }
    let all: BTreeSet<u16> = reserved.into_iter().chain(range.clone()).collect();
    Finding::failed(
        format!("{open} ports of {words} are the host's ephemeral ports as well, and not reserved"),
        format!("`sysctl -w net.ipv4.ip_local_reserved_ports={}`", list(&all)),
    )
}

/// A list like `8080,32768-49151`; what is no port is left out.
fn ports(text: &str) -> BTreeSet<u16> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn list(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let words = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// Whether the neighbour tables have room. Pods' entries are permanent, which do not count.
pub(super) fn neighbours(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let mut seen = Vec::new();
    for (family, count) in ["ipv4", "ipv6"].into_iter().zip(facts.net.neighbours) {
        let key = format!("net/{family}/neigh/default/gc_thresh3");
        let Some(most) = facts.net.sysctl(&key).and_then(|value| value.parse::<usize>().ok()) else {
            continue;
        };
        seen.push(format!("{count} of {most} entries of {family}"));
        if count * 5 > most * 4 {
            faults.add(
                format!("{count} of {most} entries of {family} are in use: new neighbours will be refused"),
                format!("`sysctl -w {key}={}`", most * 4),
            );
        }
    }
    if seen.is_empty() {
        return Finding::not_applicable("the limits are those of the machine's first network namespace");
    }
    faults.finding(Outcome::Warning, format!("{}; pods do not count", seen.join(", ")))
}

/// Whether bridged packets go through iptables where an uplink is bridged.
pub(super) fn bridge_netfilter(facts: &Facts) -> Finding {
    let keys = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
    let set: Vec<_> = keys.into_iter().filter(|key| facts.net.sysctl(key) == Some("1")).collect();
    if keys.iter().all(|key| facts.net.sysctl(key).is_none()) {
        return Finding::not_applicable("br_netfilter is not loaded");
    }
    let bridged = |name: &&String| {
        facts
            .net
            .link(name)
            .is_some_and(|state| state.master.is_some() || state.link.kind.as_deref() == Some("bridge"))
    };
    match facts.node.uplinks.iter().find(bridged) {
        _ if set.is_empty() => Finding::ok("bridged packets do not go through iptables"),
        None => {
            Finding::ok("bridged packets go through iptables, but no uplink is a bridge or a port of one")
        }
        Some(name) => Finding::warning(
            format!(
                "{name} is bridged, and bridged packets go through iptables: its rules may drop what pods exchange"
            ),
            set.iter().map(|key| format!("`sysctl -w {key}=0`")).collect::<Vec<_>>().join("; "),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_is_on_for_pods() {
        let mut facts = Facts::healthy();
        facts.net.set("net/ipv4/conf/np1/forwarding", "0");
        assert_eq!(forwarding_v4(&facts).advice.unwrap(), "`sysctl -w net/ipv4/conf/np1/forwarding=1`");
        facts.net.set("net/ipv6/conf/np1/force_forwarding", "0");
        assert_eq!(forwarding_v6(&facts).seen, "net/ipv6/conf/np1/force_forwarding is 0");
        facts.net.set("net/ipv6/conf/all/forwarding", "1");
        assert_eq!(forwarding_v6(&facts).status, Outcome::Ok);
        facts.net.set("net/ipv6/conf/all/forwarding", "0");
        facts.net.sysctls.remove("net/ipv6/conf/np1/force_forwarding");
        assert!(forwarding_v6(&facts).advice.unwrap().contains("all/forwarding=1"), "before 6.17");
        facts.node.pods.clear();
        assert_eq!(forwarding_v4(&facts).status, Outcome::NotApplicable);
        assert_eq!(forwarding_v6(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn the_larger_rp_filter_counts() {
        let mut facts = Facts::healthy();
        facts.net.set("net/ipv4/conf/all/rp_filter", "1");
        assert_eq!(rp_filter(&facts).status, Outcome::Ok, "one interface, one uplink");
        let second = PodInterface { host: "np1B".into(), addresses: Vec::new() };
        facts.node.pods[0].interfaces.push(second);
        let finding = rp_filter(&facts);
        assert_eq!(finding.status, Outcome::Warning);
        let fix = "`sysctl -w net/ipv4/conf/np1/rp_filter=2`; `sysctl -w net/ipv4/conf/np1B/rp_filter=2`";
        assert_eq!(finding.advice.as_deref(), Some(fix));
        facts.net.set("net/ipv4/conf/np1/rp_filter", "2");
        facts.net.set("net/ipv4/conf/np1B/rp_filter", "2");
        assert_eq!(rp_filter(&facts).status, Outcome::Ok, "2 wins over 1");
        facts.node.uplinks.push("eth1".into());
        assert!(rp_filter(&facts).seen.contains("several uplinks"));
    }

    #[test]
    fn ports_of_others_stay_reserved() {
        let mut facts = Facts::healthy();
        facts.net.set("net/ipv4/ip_local_reserved_ports", "8080,32768-40000");
        let finding = reserved_ports(&facts);
        assert_eq!(finding.advice.unwrap(), "`sysctl -w net.ipv4.ip_local_reserved_ports=8080,32768-49151`");
        facts.net.set("net/ipv4/ip_local_port_range", "50000\t60999");
        assert_eq!(reserved_ports(&facts).status, Outcome::Ok, "no port is both");
        assert_eq!(list(&ports("5-7,6-9,x,11")), "5-9,11");
        assert_eq!(list(&ports("65534-65535")), "65534-65535");
    }

    #[test]
    fn neighbours_and_advertisements() {
        let mut facts = Facts::healthy();
        facts.net.set("net/ipv4/neigh/default/gc_thresh3", "1024");
        assert_eq!(neighbours(&facts).status, Outcome::Ok);
        facts.net.neighbours = [900, 0];
        assert_eq!(neighbours(&facts).advice.unwrap(), "`sysctl -w net/ipv4/neigh/default/gc_thresh3=4096`");
        facts.net.set("net/ipv6/conf/eth0/accept_ra", "1");
        assert_eq!(accept_ra(&facts).advice.unwrap(), "`sysctl -w net/ipv6/conf/eth0/accept_ra=2`");
        facts.node.blocks.retain(|(_, block)| block.addr().is_ipv4());
        assert_eq!(accept_ra(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn bridged_uplinks_meet_iptables() {
        let mut facts = Facts::healthy();
        facts.net.set("net/bridge/bridge-nf-call-iptables", "1");
        assert_eq!(bridge_netfilter(&facts).status, Outcome::Ok);
        facts.net.link_mut("eth0").master = Some(9);
        assert_eq!(
            bridge_netfilter(&facts).advice.unwrap(),
            "`sysctl -w net/bridge/bridge-nf-call-iptables=0`"
        );
        facts.net.set("net/bridge/bridge-nf-call-iptables", "0");
        assert_eq!(bridge_netfilter(&facts).status, Outcome::Ok);
    }
}
