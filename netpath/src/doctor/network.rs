//! Links, addresses and routes.

use ipnet::IpNet;

use super::{
    Facts, Finding,
    report::{Faults, Outcome},
};
use crate::net::{KernelRoute, ROUTE_PROTOCOL, RouteKind};

/// How interfaces of others start, and whose they are.
const OTHERS: [(&str, &str); 11] = [
    ("docker", "Docker"),
    ("br-", "Docker"),
    ("podman", "Podman"),
    ("cni", "CNI bridge"),
    ("cilium_", "Cilium"),
    ("lxc", "Cilium or LXC"),
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("flannel", "flannel"),
    ("kube-", "kube-proxy"),
    ("virbr", "libvirt"),
];

/// Whether the uplinks carry packets.
pub(super) fn uplink(facts: &Facts) -> Finding {
    let names = &facts.node.uplinks;
    let configured =
        || format!("uplinks = [\"NAME\"] in {}; `ip link` lists the names", facts.file.display());
    if names.is_empty() {
        return Finding::failed(
            "there is no uplink: none is configured, and no default route names one",
            configured(),
        );
    }
    let mut faults = Faults::default();
    for name in names {
        match facts.net.link(name) {
            None => faults.add(format!("there is no interface {name}"), configured()),
            Some(state) if !state.link.up => {
                faults.add(format!("{name} is down"), format!("`ip link set {name} up`"));
            }
            Some(state) if !state.carrier => {
                faults.add(
                    format!("{name} has no carrier"),
                    format!("look at its cable, or at the other end of {name}"),
                );
            }
            Some(_) => {}
        }
    }
    faults.finding(Outcome::Failed, format!("{} up", names.join(", ")))
}

/// Whether flows can be translated to something.
pub(super) fn uplink_address(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let mut seen = Vec::new();
    for name in &facts.node.uplinks {
        let Some(state) = facts.net.link(name) else { continue };
        for v6 in [false, true].into_iter().filter(|v6| facts.node.has(*v6)) {
            let own = facts.net.addresses.iter().filter(|address| address.ifindex == state.link.index);
            let usable =
                own.map(|address| (address.tentative, address.net.addr())).find(|(tentative, address)| {
                    let link_local =
                        matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
                    address.is_ipv6() == v6 && !link_local && !tentative
                });
            match usable {
                Some((_, address)) => seen.push(format!("{address} on {name}")),
                None => faults.add(
                    format!("{name} has no IPv{} address: pods cannot reach outside by it", digit(v6)),
                    format!("`ip address add ADDRESS/LENGTH dev {name}`"),
                ),
            }
        }
    }
    if facts.node.uplinks.is_empty() {
        return Finding::not_applicable("there is no uplink");
    }
    faults.finding(Outcome::Failed, seen.join(", "))
}

/// Whether there is a way outside, by an uplink.
pub(super) fn default_route(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let mut seen = Vec::new();
    let some = facts.node.uplinks.first().map_or("UPLINK", String::as_str);
    for v6 in [false, true].into_iter().filter(|v6| facts.node.has(*v6)) {
        let of_family = |known: &&KernelRoute| {
            let route = &known.route;
            let whole = route.prefix.prefix_len() == 0 && route.prefix.addr().is_ipv6() == v6;
            whole && route.kind == RouteKind::Unicast
        };
        let best = facts.net.routes.iter().filter(of_family).min_by_key(|known| known.metric);
        let name = best.and_then(|known| known.route.ifindex).map(|index| facts.net.name_of(index));
        let family = digit(v6);
        match name {
            None => faults.add(
                format!("there is no default route of IPv{family}: pods reach only what has a route"),
                format!("`ip route add default via GATEWAY dev {some}`"),
            ),
            Some(name) if !facts.node.uplinks.contains(&name) => faults.add(
                format!("the default route of IPv{family} is by {name}, which is no uplink: nothing is translated there"),
                format!("add \"{name}\" to uplinks in {}, and restart the agent", facts.file.display()),
            ),
            Some(name) => seen.push(format!("IPv{family} by {name}")),
        }
    }
    faults.finding(Outcome::Warning, seen.join(", "))
}

/// Whether somebody else has addresses of pods.
pub(super) fn block_overlap(facts: &Facts) -> Finding {
    let (mut faults, mut near) = (Faults::default(), Faults::default());
    for (network, block) in &facts.node.blocks {
        for address in &facts.net.addresses {
            let (own, name) = (address.net, facts.net.name_of(address.ifindex));
            if block.contains(&own.addr()) {
                faults.add(
                    format!("{block} of the network {network} holds {}, an address of {name}", own.addr()),
                    format!(
                        "`ip address del {own} dev {name}`, or give pods another block in {}",
                        facts.file.display()
                    ),
                );
            } else if own.prefix_len() > 0 && own.trunc().contains(block) {
                near.add(
                    format!("{block} of the network {network} is a part of {} on {name}", own.trunc()),
                    format!(
                        "make sure that no host on {name} has such an address, or give pods another block"
                    ),
                );
            }
        }
        let stolen =
            |known: &&KernelRoute| known.protocol != ROUTE_PROTOCOL && block.contains(&known.route.prefix);
        for known in facts.net.routes.iter().filter(stolen) {
            let prefix = known.route.prefix;
            let by = known
                .route
                .ifindex
                .map(|index| format!(" dev {}", facts.net.name_of(index)))
                .unwrap_or_default();
            faults.add(
                format!("the route {prefix}{by} leads addresses of the network {network} elsewhere"),
                format!("`ip route del {prefix}{by}`"),
            );
        }
    }
    let blocks: Vec<_> = facts.node.blocks.iter().map(|(_, block)| IpNet::to_string(block)).collect();
    if blocks.is_empty() {
        return Finding::not_applicable(
            "no block is known: there is neither an agent nor a valid configuration",
        );
    }
    match faults.finding(Outcome::Failed, format!("nobody else has addresses of {}", blocks.join(", "))) {
        Finding { status: Outcome::Ok, seen, .. } => near.finding(Outcome::Warning, seen),
        finding => finding,
    }
}

/// Whether pods send packets that do not fit.
pub(super) fn mtu(facts: &Facts) -> Finding {
    let uplinks = facts.node.uplinks.iter().filter_map(|name| facts.net.link(name));
    let Some(least) = uplinks.min_by_key(|state| state.link.mtu) else {
        return Finding::not_applicable("there is no uplink");
    };
    let (name, room) = (&least.link.name, least.link.mtu);
    let pods: Vec<_> = facts.node.interfaces().filter_map(|one| facts.net.link(&one.host)).collect();
    let Some(largest) = pods.iter().map(|state| state.link.mtu).max() else {
        return Finding::not_applicable("there are no pods");
    };
    let mut faults = Faults::default();
    for pod in pods.iter().filter(|state| state.link.mtu > room) {
        faults.add(
            format!("{} has an MTU of {}, {name} of {room}", pod.link.name, pod.link.mtu),
            format!(
                "mtu = {room} in {} and `systemctl reload netpath` (pods added with --mtu: add them again); or \
                 `ip link set {name} mtu {largest}`, if its network carries that",
                facts.file.display()
            ),
        );
    }
    let narrow = |known: &&KernelRoute| {
        known.route.mtu.is_some_and(|mtu| mtu < largest) && known.route.prefix.prefix_len() == 0
    };
    let finding = faults.finding(Outcome::Failed, format!("pods have {largest} at most, {name} has {room}"));
    match facts.net.routes.iter().find(narrow) {
        Some(known) if finding.status == Outcome::Ok => Finding::warning(
            format!(
                "pods have an MTU of {largest}, the default route one of {}",
                known.route.mtu.unwrap_or_default()
            ),
            format!(
                "mtu = {} in {} and `systemctl reload netpath`: every larger packet is fragmented or refused",
                known.route.mtu.unwrap_or_default(),
                facts.file.display()
            ),
        ),
        _ => finding,
    }
}

/// Whose networks are here as well. For information.
pub(super) fn others(facts: &Facts) -> Finding {
    let names = facts.net.links.iter().map(|state| &state.link.name);
    let known: Vec<_> = names
        .filter_map(|name| {
            OTHERS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, whose)| (name, whose))
        })
        .map(|(name, whose)| format!("{name} ({whose})"))
        .collect();
    if known.is_empty() {
        return Finding::ok("there are no interfaces of other container networks");
    }
    Finding::ok(format!("there are {}; what pods send there goes through the host stack", known.join(", ")))
}

fn digit(v6: bool) -> u8 {
    if v6 { 6 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_that_are_gone_down_or_without_address() {
        let mut facts = Facts::healthy();
        facts.net.link_mut("eth0").carrier = false;
        assert_eq!(uplink(&facts).seen, "eth0 has no carrier");
        facts.net.link_mut("eth0").link.up = false;
        assert_eq!(uplink(&facts).advice.unwrap(), "`ip link set eth0 up`");
        facts.net.addresses.retain(|address| address.net.addr().is_ipv4());
        assert_eq!(uplink_address(&facts).seen, "eth0 has no IPv6 address: pods cannot reach outside by it");
        facts.node.uplinks = vec!["eth7".into()];
        assert_eq!(uplink(&facts).seen, "there is no interface eth7");
        facts.node.uplinks.clear();
        assert_eq!(uplink(&facts).status, Outcome::Failed);
        assert_eq!(uplink_address(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn a_default_route_is_there_and_by_an_uplink() {
        let mut facts = Facts::healthy();
        facts.node.uplinks = vec!["lo".into()];
        assert!(
            default_route(&facts).seen.contains("by eth0, which is no uplink"),
            "{:?}",
            default_route(&facts)
        );
        facts = Facts::healthy();
        facts.net.routes.retain(|known| known.route.prefix.prefix_len() > 0);
        let finding = default_route(&facts);
        assert_eq!(finding.status, Outcome::Warning);
        assert_eq!(finding.advice.unwrap(), "`ip route add default via GATEWAY dev eth0`");
    }

    #[test]
    fn addresses_of_the_block_elsewhere() {
        let mut facts = Facts::healthy();
        facts.net.addresses[0].net = "10.0.0.5/8".parse().unwrap();
        assert!(
            block_overlap(&facts).seen.contains("is a part of 10.0.0.0/8 on eth0"),
            "{:?}",
            block_overlap(&facts)
        );
        facts.net.addresses[0].net = "10.61.0.9/16".parse().unwrap();
        let finding = block_overlap(&facts);
        assert_eq!(finding.status, Outcome::Failed);
        assert!(finding.seen.contains("holds 10.61.0.9, an address of eth0"), "{finding:?}");
        facts = Facts::healthy();
        let mut route = facts.net.routes[0].clone();
        route.route.prefix = "10.61.0.128/25".parse().unwrap();
        facts.net.routes.push(route);
        assert_eq!(block_overlap(&facts).advice.unwrap(), "`ip route del 10.61.0.128/25 dev eth0`");
        facts.node.blocks.clear();
        assert_eq!(block_overlap(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn pods_larger_than_the_way_out() {
        let mut facts = Facts::healthy();
        facts.net.routes[0].route.mtu = Some(1400);
        assert_eq!(mtu(&facts).status, Outcome::Warning);
        facts.net.link_mut("eth0").link.mtu = 1450;
        let finding = mtu(&facts);
        assert_eq!(finding.seen, "np1 has an MTU of 1500, eth0 of 1450");
        assert!(finding.advice.unwrap().contains("mtu = 1450 in"));
        facts.node.pods.clear();
        assert_eq!(mtu(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn other_networks_are_named() {
        let mut facts = Facts::healthy();
        facts.net.link_mut("lo").link.name = "docker0".into();
        assert!(others(&facts).seen.contains("docker0 (Docker)"));
        assert_eq!(others(&facts).status, Outcome::Ok);
    }
}
