//! `netpath monitor`.

mod line;

use std::{
    io::{self, IsTerminal},
    net::IpAddr,
};

use anyhow::Context;

use self::line::render;
use super::{
    Global,
    failure::Usage,
    output::{Format, json, print},
    wait,
};
use crate::api::{
    client::{Client, ClientError},
    types::{Event, Prefix, Protocol},
};

/// Events as they happen.
#[derive(Debug, Default, clap::Args)]
#[command(
    long_about = "Print drops and new translated flows as they happen, one a line, until Ctrl-C

A drop is told unless the same CPU told one for the same reason within the last 10 ms, a flow unless it told one within the
last 1 ms; lines that say `lost` tell how many were not, and `netpath drop ls` and `netpath flow ls` count exactly. Options
of one kind may be repeated and mean one of them; options of several kinds all have to hold. Times are UTC. With
`-o json`, each line is a JSON object.",
    after_help = "Examples:
  netpath monitor --drops
  netpath monitor --pod web --protocol tcp --port 443
  netpath monitor --reason SpoofedSource --reason InboundDenied
  netpath monitor --address 192.0.2.0/24
  netpath monitor -o json | jq -r 'select(.kind == \"drop\") | .reason'"
)]
pub struct Args {
    /// Only what concerns this pod
    #[arg(long = "pod", value_name = "NAME")]
    pods: Vec<String>,
    /// Only drops
    #[arg(long)]
    drops: bool,
    /// Only drops for this reason, as `netpath drop ls --all` names it
    #[arg(long = "reason", value_name = "REASON")]
    reasons: Vec<String>,
    /// Only this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long = "protocol", value_name = "PROTOCOL")]
    protocols: Vec<Protocol>,
    /// Only with this source, destination or translated address, or one below a prefix
    #[arg(long = "address", value_name = "ADDRESS[/LENGTH]")]
    addresses: Vec<Prefix>,
    /// Only with this source, destination or translated port
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
}

impl Args {
    fn wants(&self, event: &Event) -> bool {
        let drops = self.drops || !self.reasons.is_empty();
        if event.kind == "lost" {
            // What it was about is lost as well, but for its kind.
            return !(drops && event.reason.as_deref() == Some("flows-held-back"));
        }
        let ends = [event.source, event.destination, event.translated_source];
        let below = |prefix: &Prefix| ends.iter().flatten().any(|end: &IpAddr| prefix.0.contains(end));
        let ports = [Some(event.source_port), Some(event.destination_port), event.translated_port];
        let named = |names: &[String], name: &Option<String>| {
            names.is_empty() || name.as_ref().is_some_and(|name| names.contains(name))
        };
        (!drops || event.kind == "drop")
            && named(&self.pods, &event.pod)
            && named(&self.reasons, &event.reason)
            && one_of(&self.protocols, |protocol| protocol.to_string() == event.protocol)
            && one_of(&self.addresses, below)
            && one_of(&self.ports, |port| ports.contains(&Some(*port)))
    }
}

/// Whether one of them is so; nothing is asked for if there are none.
fn one_of<T>(wanted: &[T], so: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(so)
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    wait(async {
        tokio::select! {
            result = follow(global, args) => result,
            result = tokio::signal::ctrl_c() => result.context("waiting for Ctrl-C"),
        }
    })
}

async fn follow(global: &Global, args: &Args) -> anyhow::Result<()> {
    let client = global.client();
    check_reasons(&client, &args.reasons).await?;
    let mut events = client.events().await?;
    if io::stderr().is_terminal() {
        eprintln!("netpath: listening; Ctrl-C ends");
    }
    while let Some(event) = events.next().await {
        let event = event?;
        if args.wants(&event) {
            let line = match global.output {
                Format::Table => render(&event),
                Format::Json => json(&event, false)?,
            };
            print(&line)?;
        }
    }
    // Only the agent ends the stream.
    let socket = client.socket().to_owned();
    Err(ClientError::NotReachable { socket, reason: "the agent has ended".to_owned() }.into())
}

/// A reason that does not exist would never be seen.
async fn check_reasons(client: &Client, reasons: &[String]) -> anyhow::Result<()> {
    if reasons.is_empty() {
        return Ok(());
    }
    let known: Vec<String> = client.all_drops().await?.into_iter().map(|drop| drop.reason).collect();
    match reasons.iter().find(|reason| !known.contains(reason)) {
        None => Ok(()),
        Some(unknown) => {
            let there = known.join(", ");
            Err(Usage::new(anyhow::anyhow!("'{unknown}' is no reason for a drop; there are {there}")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::event;

    #[test]
    fn filters_hold_together() {
        let flow = Event {
            kind: "flow".into(),
            reason: None,
            protocol: "udp".into(),
            translated_source: Some("198.51.100.1".parse().unwrap()),
            translated_port: Some(40_000),
            ..event()
        };
        let nobody = Event { pod: None, source: None, destination: None, ..event() };
        let v6 = Event { source: Some("2001:db8::1".parse().unwrap()), ..event() };
        let lost = |why: &str| Event::of_loss(0, why, 1);
        let events = [event(), flow, nobody, v6, lost("drops-held-back"), lost("flows-held-back")];
        let args = |line: &str| {
            let line = format!("netpath monitor {line}");
            match <crate::cli::Cli as clap::Parser>::parse_from(line.split_whitespace()).command {
                crate::cli::Command::Monitor(args) => args,
                other => panic!("{other:?}"),
            }
        };
        for (line, wanted) in [
            ("", [true; 6]),
            ("--drops", [true, false, true, true, true, false]),
            ("--pod web", [true, true, false, true, true, true]),
            ("--pod db --pod web --drops", [true, false, false, true, true, false]),
            ("--reason InboundDenied", [false, false, false, false, true, false]),
            ("--reason InboundDenied --reason SpoofedSource", [true, false, true, true, true, false]),
            ("--protocol 17", [false, true, false, false, true, true]),
            ("--protocol udp --protocol tcp", [true; 6]),
            ("--address 2001:db8::/32", [false, false, false, true, true, true]),
            ("--address 198.51.100.1", [false, true, false, false, true, true]),
            ("--address 192.0.2.0/24 --port 40000", [false, true, false, false, true, true]),
            ("--port 443", [true, true, true, true, true, true]),
            ("--port 4000 --port 1 --address 10.0.0.0/8", [true, true, false, false, true, true]),
        ] {
            let args = args(line);
            let got: Vec<bool> = events.iter().map(|event| args.wants(event)).collect();
            assert_eq!(got, wanted, "{line}");
        }
    }
}
