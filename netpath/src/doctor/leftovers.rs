//! What is there and belongs to nobody who looks after it.

use ipnet::IpNet;

use super::{
    Facts, Finding,
    facts::Tenant,
    report::{Faults, Outcome},
};
use crate::{
    model::{GATEWAY_MAC, is_interface_of},
    net::RouteKind,
};

/// Whether instances without an agent have left something. Programs live on without one, but nobody repairs them, and
/// their flows do not expire.
pub(super) fn state(facts: &Facts) -> Finding {
    let (mut pinned, mut stored) = (Faults::default(), Faults::default());
    for instance in facts.leftovers.instances.iter().filter(|instance| !instance.alive) {
        let mut what = Vec::new();
        if instance.pins {
            what.push("pinned programs and tables".to_owned());
        }
        if instance.state {
            what.push(format!("a store with {} pods", instance.pods));
        }
        if !instance.namespaces.is_empty() {
            what.push(format!("namespaces {}", instance.namespaces.join(" ")));
        }
        if !instance.reserved_ports.is_empty() {
            what.push(format!("reserved ports {}", instance.reserved_ports));
        }
        let seen = format!("instance {} has no agent, but {}", instance.name, what.join(", "));
        let fix = format!(
            "`netpath --instance {} uninstall` removes all of it; starting its agent takes it over",
            instance.name
        );
        if instance.pins { pinned.add(seen, fix) } else { stored.add(seen, fix) }
    }
    match pinned.finding(Outcome::Failed, "every instance that left something has its agent") {
        Finding { status: Outcome::Ok, seen, .. } => stored.finding(Outcome::Warning, seen),
        finding => finding,
    }
}

/// Whether engines look after the pods that they added: one that was killed before it wrote its container down never does.
pub(super) fn pods(facts: &Facts) -> Finding {
    let tenants = &facts.leftovers.tenants;
    if tenants.is_empty() {
        return Finding::not_applicable("no pod is a container engine's, or no agent tells");
    }
    // From another PID namespace the processes of an engine are seen all, or none.
    let sees = facts.leftovers.sees_all || tenants.iter().any(|tenant| tenant.processes > Some(0));
    let mut faults = Faults::default();
    for tenant in tenants {
        let Tenant { pod, container, netns, .. } = tenant;
        let remove = format!("`netpath {}pod rm {pod}`", facts.options());
        match tenant.processes {
            None => faults.add(format!("the namespace of pod {pod} ({netns}) is gone"), remove),
            Some(0) if sees => faults.add(
                format!("no process is in pod {pod}: container {container} is just being started, or its engine has forgotten it"),
                format!("{remove}, if the engine does not list the container either (`podman ps -a`, `crictl pods`, `ctr c ls`)"),
            ),
            Some(_) => {}
        }
    }
    let fine = if sees {
        "every engine's pod has its namespace and a process"
    } else {
        "every engine's pod has its namespace"
    };
    faults.finding(Outcome::Warning, fine)
}

/// Whether there are links of pods that no instance knows.
pub(super) fn links(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let known = |name: &str| facts.node.interfaces().any(|interface| interface.host == name);
    // Those of other instances are theirs: the check of their state tells if nobody looks after them.
    let others = |name: &str| {
        let mut instances = facts.leftovers.instances.iter().filter(|one| one.name != facts.instance.name());
        instances.any(|one| is_interface_of(&one.name, name))
    };
    for link in facts.net.links.iter().map(|state| &state.link) {
        let ours = link.kind.as_deref() == Some("veth") && link.mac == GATEWAY_MAC.0;
        if ours && !known(&link.name) && !others(&link.name) {
            faults.add(
                format!("{} looks like a pod's, and no pod has it", link.name),
                format!("`ip link delete {}`", link.name),
            );
        }
    }
    faults.finding(Outcome::Warning, "every link with netpath's mark is a pod's")
}

/// Whether there are routes with our mark that lead nowhere.
pub(super) fn routes(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let alone = facts.leftovers.instances.iter().all(|one| one.name == facts.instance.name());
    for route in &facts.leftovers.routes {
        let wanted = match route.kind {
            // The agent has none with a next hop; in a lab the node's own are marked as well.
            RouteKind::Unicast if route.via.is_some() => true,
            RouteKind::Unicast => {
                let name = facts.net.name_of(route.ifindex.unwrap_or_default());
                let own = |instance: &str| is_interface_of(instance, &name);
                own(facts.instance.name()) || facts.leftovers.instances.iter().any(|one| own(&one.name))
            }
            // A block of another instance may well be in use.
            _ => !alone || facts.node.blocks.iter().any(|(_, block)| *block == route.prefix),
        };
        if !wanted {
            let kind = if route.kind == RouteKind::Unicast { "" } else { "unreachable " };
            let prefix = IpNet::to_string(&route.prefix);
            faults.add(
                format!("the route {kind}{prefix} has netpath's mark, and belongs to no network and no pod"),
                format!("`ip route del {kind}{prefix} proto {}`", crate::net::ROUTE_PROTOCOL),
            );
        }
    }
    faults.finding(
        Outcome::Warning,
        format!("{} routes, each a network's or a pod's", facts.leftovers.routes.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Known;

    fn instance(name: &str) -> Known {
        Known {
            name: name.into(),
            alive: false,
            pins: true,
            state: true,
            pods: 2,
            namespaces: vec!["/run/netns/a".into()],
            reserved_ports: "32768-49151".into(),
        }
    }

    #[test]
    fn an_instance_without_its_agent() {
        let mut facts = Facts::healthy();
        facts.leftovers.instances.push(instance("two"));
        let finding = state(&facts);
        assert_eq!(
            (finding.status, finding.seen.as_str()),
            (
                Outcome::Failed,
                "instance two has no agent, but pinned programs and tables, a store with 2 pods, namespaces /run/netns/a, \
                 reserved ports 32768-49151"
            )
        );
        assert!(finding.advice.unwrap().starts_with("`netpath --instance two uninstall`"));
        facts.leftovers.instances[1].pins = false;
        assert_eq!(state(&facts).status, Outcome::Warning);
        facts.leftovers.instances[1].alive = true;
        assert_eq!(state(&facts).status, Outcome::Ok);
    }

    #[test]
    fn pods_that_no_engine_looks_after() {
        let tenant = |pod: &str, processes| Tenant {
            pod: pod.into(),
            container: format!("of-{pod}"),
            netns: format!("/run/netns/{pod}"),
            processes,
        };
        let mut facts = Facts::healthy();
        assert_eq!(pods(&facts).status, Outcome::NotApplicable);
        for (tenants, sees_all, told, fix) in [
            (vec![tenant("a", Some(1))], true, "", ""),
            (
                vec![tenant("a", Some(0))],
                true,
                "no process is in pod a: container of-a is",
                "`netpath pod rm a`, if the engine",
            ),
            (vec![tenant("a", Some(0))], false, "", ""),
            (
                vec![tenant("a", Some(0)), tenant("b", Some(2))],
                false,
                "no process is in pod a",
                "`netpath pod rm a`",
            ),
            (
                vec![tenant("a", None)],
                false,
                "the namespace of pod a (/run/netns/a) is gone",
                "`netpath pod rm a`",
            ),
        ] {
            (facts.leftovers.tenants, facts.leftovers.sees_all) = (tenants, sees_all);
            let finding = pods(&facts);
            let expected = if told.is_empty() { Outcome::Ok } else { Outcome::Warning };
            assert_eq!(finding.status, expected, "{finding:?}");
            assert!(finding.seen.contains(told), "{finding:?}");
            assert!(finding.advice.unwrap_or_default().starts_with(fix), "{:?}", facts.leftovers.tenants);
        }
    }

    #[test]
    fn links_and_routes_of_nobody() {
        let mut facts = Facts::healthy();
        let mut stray = facts.net.link_mut("np1").clone();
        stray.link.name = "np9".into();
        facts.net.links.push(stray);
        assert_eq!(links(&facts).advice.unwrap(), "`ip link delete np9`");
        let mut route = facts.leftovers.routes[0].clone();
        route.prefix = "10.99.0.0/24".parse().unwrap();
        facts.leftovers.routes.push(route);
        assert_eq!(routes(&facts).advice.unwrap(), "`ip route del unreachable 10.99.0.0/24 proto 110`");
        facts.leftovers.instances.push(instance("two"));
        assert_eq!(routes(&facts).status, Outcome::Ok, "it may be the other's");
    }
}
