//! `netpath flow`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, table},
    units::{age, bytes, end},
    wait,
};
use crate::api::types::{Flow, FlowFilter, FlowSort, FlowState, Flushed, Prefix, Protocol};

/// Tracked connections.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List flows: who talks to whom, translated to what, and how much
    ///
    /// Both directions are one row: packets and bytes are those of the opener, then those of the replies. AGE is the
    /// time since the first packet, IDLE since the last one. For an echo, the identifier takes the port's place.
    #[command(after_help = "Examples:
  netpath flow ls
  netpath flow ls --pod web --protocol tcp --state established
  netpath flow ls --destination 192.0.2.0/24 --port 443 --sort bytes --limit 20
  netpath flow ls -o json | jq '.[] | select(.age_s > 3600)'")]
    Ls {
        /// Which of them
        #[command(flatten)]
        filter: Filter,
        /// What comes first
        #[arg(long, value_name = "BY", value_enum)]
        sort: Option<FlowSort>,
        /// Print so many at most
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Forget flows: their next packets make new ones, with new translations
    ///
    /// A translated connection gets another source port, or another address, and its peer will most likely reset it.
    #[command(after_help = "Examples:
  netpath flow flush --pod web
  netpath flow flush --protocol udp --port 53
  netpath flow flush --all")]
    Flush {
        /// Which of them
        #[command(flatten)]
        filter: Filter,
        /// All flows of the node
        #[arg(long, conflicts_with_all = FILTERS, required_unless_present_any = FILTERS)]
        all: bool,
    },
}

/// The options of [`Filter`]: removing flows takes one of them.
const FILTERS: [&str; 7] = ["pod", "protocol", "state", "source", "destination", "port", "translated"];

/// What flows have in common.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Only the flows of this pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Only this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only flows in this state
    #[arg(long, value_name = "STATE", value_enum)]
    state: Option<FlowState>,
    /// Only flows opened from this address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    source: Option<Prefix>,
    /// Only flows to this address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    destination: Option<Prefix>,
    /// Only flows with this source, destination or translated port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only flows whose source is translated
    #[arg(long)]
    translated: bool,
}

impl From<&Filter> for FlowFilter {
    fn from(filter: &Filter) -> Self {
        Self {
            pod: filter.pod.clone(),
            protocol: filter.protocol,
            state: filter.state,
            source: filter.source,
            destination: filter.destination,
            port: filter.port,
            translated: filter.translated.then_some(true),
            ..Self::default()
        }
    }
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ls { filter, sort, limit } => {
            let filter = FlowFilter { sort: *sort, limit: *limit, ..filter.into() };
            global.output.show(&wait(global.client().flows_by(&filter))?[..], render)
        }
        Command::Flush { filter, all } => {
            let filter = FlowFilter { all: *all, ..filter.into() };
            global.output.show(&wait(global.client().flush_flows(&filter))?, render_flushed)
        }
    }
}

pub(super) fn render_flushed(flushed: &Flushed) -> String {
    match flushed.removed {
        1 => "1 flow is removed\n".to_owned(),
        removed => format!("{removed} flows are removed\n"),
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
        let source = flow.translated_source.zip(flow.translated_port);
        let translated = source.or(flow.translated_destination.zip(flow.translated_destination_port));
        let translated = translated.map(|(address, port)| end(protocol, address, port));
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
