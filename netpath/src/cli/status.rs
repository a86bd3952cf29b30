//! `netpath status`.

use super::{
    Global,
    output::{Column, fields, table},
    units::{age, bytes, list},
    wait,
};
use crate::api::types::Status;

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
                "ports {}, {} in use, {} packets found none free",
                snat.range, snat.in_use, snat.exhausted
            ),
        ),
        ("problems", if status.problems.is_empty() { "none" } else { "" }.to_owned()),
    ]);
    for problem in &status.problems {
        text += &format!("  {problem}\n");
    }
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
