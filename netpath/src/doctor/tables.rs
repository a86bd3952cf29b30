//! Tables that run full.

use super::{Facts, Finding};

/// Whether there is room for flows.
pub(super) fn flows(facts: &Facts) -> Finding {
    let Ok(status) = &facts.agent.status else {
        return Finding::not_applicable("no agent answers, and it counts the flows");
    };
    let (flows, capacity) = (status.flows, status.flow_capacity);
    let seen = format!("{flows} of {capacity} flows");
    let advice = || {
        format!(
            "find who has them (`netpath {0}flow ls --sort bytes --limit 20`); for a larger table write capacity = {1} \
             below [flows] in {2} and restart the agent; the flows move into it",
            facts.options(),
            capacity * 4,
            facts.file.display()
        )
    };
    match flows * 100 / capacity.max(1) {
        95.. => Finding::failed(format!("{seen}: new flows are being refused, or soon will be"), advice()),
        80.. => Finding::warning(seen, advice()),
        _ => Finding::ok(seen),
    }
}

/// Whether translated flows found ports.
pub(super) fn snat(facts: &Facts) -> Finding {
    let Ok(status) = &facts.agent.status else {
        return Finding::not_applicable("no agent answers, and it counts the ports");
    };
    let snat = &status.snat;
    if snat.exhausted == 0 {
        return Finding::ok(format!("{} ports in use of {}; every flow found one", snat.in_use, snat.range));
    }
    let to: Vec<_> = snat
        .exhausted_destinations
        .iter()
        .take(3)
        .map(|to| format!("{} {} {}", to.protocol, to.destination, to.port))
        .collect();
    Finding::warning(
        format!(
            "{} packets found no free port since the tables were made, to {}",
            snat.exhausted,
            to.join(", ")
        ),
        format!(
            "a wider ports = \"FIRST-LAST\" or more addresses = [\"ADDRESS\"] below [snat] in {}, then \
             `systemctl reload netpath`",
            facts.file.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::types::ExhaustedDestination, doctor::Outcome};

    #[test]
    fn a_table_that_fills_warns_and_then_fails() {
        let mut facts = Facts::healthy();
        for (share, outcome) in
            [(79, Outcome::Ok), (80, Outcome::Warning), (95, Outcome::Failed), (100, Outcome::Failed)]
        {
            let status = facts.agent.status.as_mut().unwrap();
            (status.flows, status.flow_capacity) = (share * 10, 1000);
            assert_eq!(flows(&facts).status, outcome, "{share} %");
        }
        assert!(flows(&facts).advice.unwrap().contains("capacity = 4000 below [flows]"));
        facts.agent.status = Err("gone".into());
        assert_eq!(flows(&facts).status, Outcome::NotApplicable);
        assert_eq!(snat(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn destinations_without_a_port_are_named() {
        let mut facts = Facts::healthy();
        let snat_status = &mut facts.agent.status.as_mut().unwrap().snat;
        snat_status.exhausted = 7;
        snat_status.exhausted_destinations = vec![ExhaustedDestination {
            destination: "192.0.2.9".parse().unwrap(),
            port: 443,
            protocol: "tcp".into(),
            packets: 7,
            pod: "web".into(),
        }];
        let finding = snat(&facts);
        assert_eq!(finding.status, Outcome::Warning);
        assert!(finding.seen.ends_with("to tcp 192.0.2.9 443"), "{finding:?}");
    }
}
