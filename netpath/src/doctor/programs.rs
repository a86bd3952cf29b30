//! Programs on interfaces: ours, and those of others.

use super::{
    Facts, Finding,
    facts::{Attached, Hook},
    report::{Faults, Outcome},
};

/// Our programs on a pod's interface: on what arrives, on what leaves.
const POD: [&str; 2] = ["from_pod", "to_pod"];
/// Our programs on an uplink.
const UPLINK: [&str; 2] = ["from_uplink", "to_uplink"];

/// Whether every pod's interface has its programs.
pub(super) fn pods(facts: &Facts) -> Finding {
    let names: Vec<_> = facts.node.interfaces().map(|interface| interface.host.as_str()).collect();
    if names.is_empty() {
        return Finding::not_applicable("there are no pods");
    }
    complete(facts, &names, POD)
}

/// Whether every uplink has its programs.
pub(super) fn uplinks(facts: &Facts) -> Finding {
    let own = facts.leftovers.instances.iter().find(|one| one.name == facts.instance.name());
    if facts.agent.process.is_none() && own.is_none() {
        return Finding::not_applicable("no agent has run here");
    }
    // Of an uplink that is not there another check tells.
    let there = facts.node.uplinks.iter().filter(|name| facts.net.link(name).is_some());
    complete(facts, &there.map(String::as_str).collect::<Vec<_>>(), UPLINK)
}

/// Whether interfaces have two programs, on ingress and egress.
pub(super) fn complete(facts: &Facts, names: &[&str], wanted: [&str; 2]) -> Finding {
    if let Some(reason) = &facts.net.unlisted {
        return Finding::unread(reason);
    }
    let fix = match facts.agent.status {
        Ok(_) => "wait 10 s: the agent puts them back; if it cannot, `netpath status` says why".to_owned(),
        Err(_) => {
            format!("`systemctl start netpath`, or `netpath {}agent run`, puts them back", facts.options())
        }
    };
    let mut faults = Faults::default();
    for name in names {
        if facts.net.link(name).is_none() {
            faults.add(format!("{name} is gone"), fix.clone());
            continue;
        }
        for (program, egress) in wanted.into_iter().zip([false, true]) {
            if !attached(facts, name, egress).any(|one| one.name == program) {
                faults.add(format!("{name} lacks {program}"), fix.clone());
            }
        }
    }
    faults.finding(Outcome::Failed, format!("{} on {}", wanted.join(" and "), names.join(", ")))
}

/// Whether somebody else handles packets before or after us.
pub(super) fn foreign(facts: &Facts) -> Finding {
    if let Some(reason) = &facts.net.unlisted {
        return Finding::unread(reason);
    }
    let mut faults = Faults::default();
    let all = facts.node.uplinks.iter().map(|name| (name, UPLINK));
    let all = all.chain(facts.node.interfaces().map(|interface| (&interface.host, POD)));
    for (name, wanted) in all {
        for (own, egress) in wanted.into_iter().zip([false, true]) {
            let mut ours = false;
            for one in attached(facts, name, egress) {
                let way = if egress { "egress" } else { "ingress" };
                let (kind, fix) = match one.hook {
                    Hook::Tcx(id) => (
                        format!("tcx, id {id}"),
                        format!("end what attached it (`bpftool prog show id {id}` tells more)"),
                    ),
                    Hook::Clsact(priority) => (
                        format!("filter, pref {priority}"),
                        format!("`tc filter del dev {name} {way} pref {priority}`"),
                    ),
                };
                match (one.name == own, ours) {
                    (true, false) => ours = true,
                    // The agent moves it to tcx: its filter goes next, and no packet is judged twice meanwhile.
                    (true, true) if own == POD[0] && matches!(one.hook, Hook::Clsact(_)) => {}
                    (true, true) => faults.add(format!("{own} is twice on {name} {way} ({kind})"), fix),
                    (false, _) => {
                        let place = if ours { "behind" } else { "before" };
                        faults.add(format!("{} ({kind}) is on {name} {way}, {place} {own}", one.name), fix);
                    }
                }
            }
        }
    }
    faults.finding(Outcome::Warning, "only netpath's programs are on pods' interfaces and uplinks")
}

/// Whether something takes packets before any of our programs.
pub(super) fn xdp(facts: &Facts) -> Finding {
    let mut faults = Faults::default();
    let names = facts.node.uplinks.iter().chain(facts.node.interfaces().map(|interface| &interface.host));
    for name in names {
        if let Some(id) = facts.net.link(name).and_then(|state| state.xdp).filter(|id| !is_own(facts, *id)) {
            faults.add(
                format!("{name} has an XDP program (id {id}): it sees packets first, and may take them"),
                format!("`ip link set dev {name} xdp off`, if it is not meant to be there"),
            );
        }
    }
    faults.finding(Outcome::Warning, "no uplink and no pod's interface has an XDP program of others")
}

/// Whether the agent has attached this program. Without an agent its programs go on; their names tell whose they are.
fn is_own(facts: &Facts, id: u32) -> bool {
    facts.agent.status.as_ref().is_ok_and(|status| status.programs.iter().any(|program| program.id == id))
}

fn attached<'a>(facts: &'a Facts, name: &'a str, egress: bool) -> impl Iterator<Item = &'a Attached> {
    facts.net.attached.iter().filter(move |one| one.interface == name && one.egress == egress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ProgramStatus;

    #[test]
    fn what_is_missing_is_named_with_who_puts_it_back() {
        let mut facts = Facts::healthy();
        facts.net.attached.retain(|one| one.name != "to_pod" && one.name != "from_uplink");
        let finding = pods(&facts);
        assert_eq!((finding.status, finding.seen.as_str()), (Outcome::Failed, "np1 lacks to_pod"));
        assert!(finding.advice.unwrap().contains("wait 10 s"));
        facts.agent.status = Err("gone".into());
        facts.agent.process = None;
        assert_eq!(uplinks(&facts).seen, "eth0 lacks from_uplink");
        assert!(uplinks(&facts).advice.unwrap().contains("`netpath agent run`"));
        facts.net.links.retain(|state| state.link.name != "np1");
        assert_eq!(pods(&facts).seen, "np1 is gone");
        facts.leftovers.instances.clear();
        assert_eq!(uplinks(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn programs_of_others_are_told_with_their_place() {
        let mut facts = Facts::healthy();
        let other =
            |hook| Attached { interface: "eth0".into(), egress: false, hook, name: "cil_from_netdev".into() };
        facts.net.attached.insert(0, other(Hook::Tcx(7)));
        facts.net.attached.push(other(Hook::Clsact(77)));
        facts.net.attached.push(Attached { name: "from_uplink".into(), ..other(Hook::Clsact(1)) });
        let finding = foreign(&facts);
        assert_eq!(
            finding.seen,
            "cil_from_netdev (tcx, id 7) is on eth0 ingress, before from_uplink; \
             cil_from_netdev (filter, pref 77) is on eth0 ingress, behind from_uplink; \
             from_uplink is twice on eth0 ingress (filter, pref 1)"
        );
        assert!(finding.advice.unwrap().contains("`tc filter del dev eth0 ingress pref 77`"));
        facts.net.unlisted = Some("Operation not permitted".into());
        assert_eq!(foreign(&facts).status, Outcome::Warning);
    }

    #[test]
    fn a_pod_that_is_being_moved_is_well() {
        let mut facts = Facts::healthy();
        let own = |hook| Attached { interface: "np1".into(), egress: false, hook, name: "from_pod".into() };
        facts.net.attached.retain(|one| one.name != "from_pod");
        facts.net.attached.extend([own(Hook::Tcx(7)), own(Hook::Clsact(1))]);
        assert_eq!((foreign(&facts).status, pods(&facts).status), (Outcome::Ok, Outcome::Ok));
        facts.net.attached.push(own(Hook::Tcx(8)));
        assert_eq!(foreign(&facts).seen, "from_pod is twice on np1 ingress (tcx, id 8)");
    }

    #[test]
    fn an_xdp_program_is_told() {
        let mut facts = Facts::healthy();
        facts.net.link_mut("eth0").xdp = Some(5);
        let finding = xdp(&facts);
        assert!(finding.seen.starts_with("eth0 has an XDP program (id 5)"));
        assert!(finding.advice.unwrap().starts_with("`ip link set dev eth0 xdp off`"));
        let status = facts.agent.status.as_mut().unwrap();
        let [name, interface, attach] = ["xdp_uplink", "eth0", "xdp-driver"].map(str::to_owned);
        status.programs.push(ProgramStatus { name, interface, id: 5, attach });
        assert_eq!(xdp(&facts).status, Outcome::Ok, "the deny list's own");
    }
}
