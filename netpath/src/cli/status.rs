//! `netpath status`.

use std::collections::BTreeMap;

use super::{
    Global,
    output::{Column, fields, table},
    units::{age, bytes, end, list},
    wait,
};
use crate::api::types::{ProgramStatus, SnatStatus, Status};

/// Problems, and destinations without a free port, that are shown: the rest is in `-o json`.
const SHOWN: (usize, usize) = (10, 3);

pub(super) fn run(global: &Global) -> anyhow::Result<()> {
    global.output.show(&wait(global.client().status())?, render)
}

/// One screen: problems first, then what there is, then what it does.
pub(super) fn render(status: &Status) -> String {
    let snat = &status.snat;
    let mut text = render_problems(&status.problems);
    let percent = 100 * status.flows / status.flow_capacity.max(1);
    text += &fields([
        ("node", status.node.clone()),
        ("agent", format!("{}, process {}, up {}", status.version, status.pid, age(status.uptime_s))),
        ("uplinks", list(&status.uplinks)),
        ("store", status.store.clone()),
        ("pods", status.pods.to_string()),
        ("programs", programs(&status.programs)),
        ("flows", format!("{} of {} ({percent} %)", status.flows, status.flow_capacity)),
        (
            "snat",
            format!(
                "ports {}{}, {} in use, {} packets found none free",
                snat.range,
                if snat.addresses.is_empty() {
                    String::new()
                } else {
                    format!(" of {}", list(&snat.addresses))
                },
                snat.in_use,
                snat.exhausted
            ),
        ),
    ]);
    text += &render_snat(snat);
    let moved: Vec<_> = status.traffic.iter().filter(|traffic| traffic.packets > 0).collect();
    if !moved.is_empty() {
        let columns = [Column::Left("TRAFFIC"), Column::Right("PACKETS"), Column::Right("BYTES")];
        let rows = moved
            .into_iter()
            .map(|traffic| [traffic.class.clone(), traffic.packets.to_string(), bytes(traffic.bytes)]);
        text += "\n";
        text += &table(&columns, rows);
    }
    text
}

fn render_problems(problems: &[String]) -> String {
    let (most, count) = (SHOWN.0, problems.len());
    if count == 0 {
        return fields([("problems", "none".to_owned())]);
    }
    let mut text = format!("problems  {count}\n");
    for problem in &problems[..count.min(most)] {
        text += &format!("  {problem}\n");
    }
    if count > most {
        text += &format!("  and {} more; -o json has all\n", count - most);
    }
    text
}

/// Where programs are attached, counted: `from_pod 3, to_pod 3 (tcx)`.
fn programs(programs: &[ProgramStatus]) -> String {
    let mut kinds: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for program in programs {
        *kinds.entry(&program.attach).or_default().entry(&program.name).or_default() += 1;
    }
    let kind = |(kind, names): (&str, BTreeMap<&str, usize>)| {
        let names: Vec<_> = names.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!("{} ({kind})", names.join(", "))
    };
    let kinds: Vec<_> = kinds.into_iter().map(kind).collect();
    if kinds.is_empty() { "none".to_owned() } else { kinds.join("; ") }
}

/// What there is to know of a range that gets tight: destinations without a free port, and searches that took long.
fn render_snat(snat: &SnatStatus) -> String {
    let mut text = String::new();
    if snat.tries.iter().any(|row| row.up_to > 1 && row.bindings > 0) {
        let used = snat.tries.iter().filter(|row| row.bindings > 0);
        let rows: Vec<_> = used.map(|row| format!("up to {}: {}", row.up_to, row.bindings)).collect();
        text += &format!("tried     ports until one was free: {}\n", rows.join(", "));
    }
    let (most, count) = (SHOWN.1, snat.exhausted_destinations.len());
    if count > 0 {
        let columns = [
            Column::Left("NO FREE PORT TO"),
            Column::Left("PROTO"),
            Column::Right("PACKETS"),
            Column::Left("LAST POD"),
        ];
        let rows = snat.exhausted_destinations.iter().take(most).map(|to| {
            let destination = end(&to.protocol, to.destination, to.port);
            [destination, to.protocol.clone(), to.packets.to_string(), to.pod.clone()]
        });
        text += "\n";
        text += &table(&columns, rows);
    }
    if count > most {
        text += &format!("and {} more; -o json has all\n", count - most);
    }
    text
}
