//! `netpath trace`.

use std::net::IpAddr;

use super::{Global, wait};
use crate::api::types::{Protocol, Trace, TraceRequest, TracedWay};

/// What would become of a packet.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Tell what the programs would do with a packet, and with its answer, stage by stage

The programs of this node run once more on a packet made for it, with the tables as they are: nothing is sent, counted or
remembered. SOURCE and DESTINATION are a pod, an address, or 'node'. The port that a new flow would get is one that is free
now, not a promise.",
    after_help = "Examples:
  netpath trace web 192.0.2.9 --dport 443
  netpath trace web db --protocol udp --sport 5353 --dport 53
  netpath trace web 192.0.2.9 --source 10.0.0.1          an address that is not the pod's
  netpath trace 192.0.2.9 198.51.100.1 --sport 443 --dport 40000
  netpath trace node web
  netpath trace web 192.0.2.9 --dport 443 -o json | jq -r .forward.verdict"
)]
pub struct Args {
    /// Who sends
    #[arg(value_name = "SOURCE")]
    from: String,
    /// Whom it is for
    #[arg(value_name = "DESTINATION")]
    to: String,
    /// tcp, udp, icmp, sctp or a number; tcp if a port is given, else icmp
    #[arg(long, visible_alias = "proto", value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Source port, or the identifier of an echo [default: 50000]
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Destination port [default: 80]
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Length of the IP packet, bytes [default: its headers']
    #[arg(long, value_name = "BYTES")]
    size: Option<u16>,
    /// Hops left [default: 64]
    #[arg(long, value_name = "HOPS")]
    ttl: Option<u8>,
    /// Address to claim instead of the sender's own
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Uplink that a packet from outside comes in by, or one of the node leaves by [default: as the node's routes say]
    #[arg(long, value_name = "DEV")]
    from_uplink: Option<String>,
}

pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let request = TraceRequest {
        source: args.from,
        destination: args.to,
        protocol: args.protocol,
        source_port: args.sport,
        destination_port: args.dport,
        size: args.size,
        ttl: args.ttl,
        source_address: args.source,
        uplink: args.from_uplink,
    };
    global.output.show(&wait(global.client().trace(&request))?, render)
}

pub(super) fn render(trace: &Trace) -> String {
    let mut text = way(&trace.forward);
    match (&trace.reply, &trace.no_reply) {
        (Some(reply), _) => text += &format!("\nits answer:\n\n{}", way(reply)),
        (None, Some(why)) => text += &format!("\nits answer: {why}\n"),
        (None, None) => {}
    }
    text
}

fn way(way: &TracedWay) -> String {
    let mut text = String::new();
    for program in &way.programs {
        text += &format!("{}/{}\n", program.interface, program.program);
        for stage in &program.stages {
            text += &format!("  {:<12} {}\n", stage.stage.replace('_', " "), stage.decision);
        }
    }
    text + &format!("{}\n", way.detail)
}
