//! `netpath flow`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, table},
    units::{age, bytes, end},
    wait,
};
use crate::api::types::Flow;

/// Tracked connections.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List flows: who talks to whom, translated to what, and how much
    ///
    /// Both directions are one row: packets and bytes are those of the opener, then those of the replies. AGE is the
    /// time since the first packet, IDLE since the last one. For an echo, the identifier takes the port's place.
    #[command(after_help = "Examples:
  netpath flow ls
  netpath flow ls --pod web
  netpath flow ls -o json | jq '.[] | select(.state == \"unreplied\")'")]
    Ls {
        /// Only the flows of this pod
        #[arg(long, value_name = "NAME")]
        pod: Option<String>,
    },
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ls { pod } => global.output.show(&wait(global.client().flows(pod.as_deref()))?[..], render),
    }
}

pub(super) fn render(flows: &[Flow]) -> String {
    let columns = [
        Column::Left("PROTO"),
        Column::Left("SOURCE"),
        Column::Left("DESTINATION"),
        Column::Left("TRANSLATED"),
        Column::Left("STATE"),
        Column::Left("POD"),
        Column::Right("AGE"),
        Column::Right("IDLE"),
        Column::Right("PACKETS"),
        Column::Right("BYTES"),
    ];
    let rows = flows.iter().map(|flow| {
        let protocol = flow.protocol.as_str();
        let translated = flow
            .translated_source
            .map(|address| end(protocol, address, flow.translated_port.unwrap_or_default()));
        [
            flow.protocol.clone(),
            end(protocol, flow.source, flow.source_port),
            end(protocol, flow.destination, flow.destination_port),
            translated.unwrap_or_else(|| "-".to_owned()),
            flow.state.clone(),
            flow.pod.clone(),
            age(flow.age_s),
            age(flow.idle_s),
            format!("{} / {}", flow.packets, flow.reply_packets),
            format!("{} / {}", bytes(flow.bytes), bytes(flow.reply_bytes)),
        ]
    });
    table(&columns, rows)
}
