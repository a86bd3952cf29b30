//! `netpath status`.

use super::{
    Global,
    output::{Column, fields, table},
    units::{age, bytes, end, list},
    wait,
};
use crate::api::types::{SnatStatus, Status};

pub(super) fn run(global: &Global) -> anyhow::Result<()> {
    global.output.show(&wait(global.client().status())?, render)
}

pub(super) fn render(status: &Status) -> String {
    let snat = &status.snat;
    let mut text = fields([
        ("node", status.node.clone()),
        ("agent", format!("{}, process {}, up {}", status.version, status.pid, age(status.uptime_s))),
        ("uplinks", list(&status.uplinks)),
        ("store", status.store.clone()),
        ("pods", status.pods.to_string()),
        ("flows", format!("{} of {}", status.flows, status.flow_capacity)),
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
        ("problems", if status.problems.is_empty() { "none" } else { "" }.to_owned()),
    ]);
    for problem in &status.problems {
        text += &format!("  {problem}\n");
    }
    text += &render_snat(snat);
    let columns =
        [Column::Left("PROGRAM"), Column::Left("INTERFACE"), Column::Left("ATTACH"), Column::Right("ID")];
    let rows = status.programs.iter().map(|program| {
        [program.name.clone(), program.interface.clone(), program.attach.clone(), program.id.to_string()]
    });
    text += "\n";
    text += &table(&columns, rows);
    let columns = [Column::Left("TRAFFIC"), Column::Right("PACKETS"), Column::Right("BYTES")];
    let rows = status
        .traffic
        .iter()
        .map(|traffic| [traffic.class.clone(), traffic.packets.to_string(), bytes(traffic.bytes)]);
    text += "\n";
    text += &table(&columns, rows);
    text
}

/// What there is to know of a range that gets tight: destinations without a free port, and searches that took long.
fn render_snat(snat: &SnatStatus) -> String {
    let mut text = String::new();
    if !snat.exhausted_destinations.is_empty() {
        let columns = [
            Column::Left("NO FREE PORT TO"),
            Column::Left("PROTO"),
            Column::Right("PACKETS"),
            Column::Left("LAST POD"),
        ];
        let rows = snat.exhausted_destinations.iter().map(|to| {
            let destination = end(&to.protocol, to.destination, to.port);
            [destination, to.protocol.clone(), to.packets.to_string(), to.pod.clone()]
        });
        text += "\n";
        text += &table(&columns, rows);
    }
    if snat.tries.iter().any(|row| row.up_to > 1 && row.bindings > 0) {
        let columns = [Column::Right("PORTS TRIED"), Column::Right("BINDINGS")];
        let used = snat.tries.iter().filter(|row| row.bindings > 0);
        let rows = used.map(|row| [format!("up to {}", row.up_to), row.bindings.to_string()]);
        text += "\n";
        text += &table(&columns, rows);
    }
    text
}
