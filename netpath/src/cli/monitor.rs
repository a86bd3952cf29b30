//! `netpath monitor`.

use std::io::{self, IsTerminal};

use anyhow::Context;

use super::{
    Global,
    output::{Format, json, print},
    units::{end, time_of_day},
    wait,
};
use crate::api::{client::ClientError, types::Event};

/// Events as they happen.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Print drops and new flows as they happen, one a line, until Ctrl-C

Drops are all reported up to a rate limit, flows are sampled; `netpath drop ls` and `netpath flow ls` count exactly. Times
are UTC. With `-o json`, each line is a JSON object.",
    after_help = "Examples:
  netpath monitor --drops
  netpath monitor --pod web
  netpath monitor -o json | jq -r 'select(.kind == \"drop\") | .reason'"
)]
pub struct Args {
    /// Only what concerns this pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Only drops
    #[arg(long)]
    drops: bool,
}

impl Args {
    fn wants(&self, event: &Event) -> bool {
        (!self.drops || event.kind == "drop") && (self.pod.is_none() || self.pod == event.pod)
    }
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

pub(super) fn render(event: &Event) -> String {
    let mut line = format!("{} {}", time_of_day(event.time_ms), event.kind);
    let mut word = |word: &str| {
        line.push(' ');
        line.push_str(word);
    };
    if let Some(reason) = &event.reason {
        word(reason);
    }
    if let Some(pod) = &event.pod {
        word(&format!("pod {pod}"));
    }
    word(&format!("{}/{}:", event.interface, event.program));
    word(&event.protocol);
    let protocol = event.protocol.as_str();
    if let (Some(source), Some(destination)) = (event.source, event.destination) {
        word(&end(protocol, source, event.source_port));
        word(">");
        // Both ports of an echo are its identifier; once is enough.
        let echo = protocol.starts_with("icmp") && event.source_port == event.destination_port;
        let port = if echo { 0 } else { event.destination_port };
        word(&end(protocol, destination, port));
    }
    if let Some(address) = event.translated_source {
        word("as");
        word(&end(protocol, address, event.translated_port.unwrap_or_default()));
    }
    word(&format!("length {}\n", event.length));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::event;

    #[test]
    fn filters_hold_together() {
        let all = Args { pod: None, drops: false };
        let web = Args { pod: Some("web".into()), drops: false };
        let drops_of_web = Args { pod: Some("web".into()), drops: true };
        let of = |kind: &str, pod: Option<&str>| Event {
            kind: kind.into(),
            pod: pod.map(str::to_owned),
            ..event()
        };
        let rows = [
            (of("drop", Some("web")), [true, true, true]),
            (of("flow", Some("web")), [true, true, false]),
            (of("drop", Some("db")), [true, false, false]),
            (of("drop", None), [true, false, false]),
        ];
        for (event, wanted) in rows {
            assert_eq!([&all, &web, &drops_of_web].map(|args| args.wants(&event)), wanted, "{event:?}");
        }
    }

    #[test]
    fn lines_read_like_a_packet_dump() {
        assert_eq!(
            render(&event()),
            "14:05:09.003 drop SpoofedSource pod web np1/from_pod: tcp 10.0.0.1:4000 > 192.0.2.9:443 length 60\n"
        );
        let echo = Event {
            kind: "flow".into(),
            reason: None,
            protocol: "icmp".into(),
            source_port: 77,
            destination_port: 77,
            translated_source: Some("198.51.100.1".parse().unwrap()),
            translated_port: Some(32768),
            ..event()
        };
        assert_eq!(
            render(&echo),
            "14:05:09.003 flow pod web np1/from_pod: icmp 10.0.0.1 id 77 > 192.0.2.9 as 198.51.100.1 id 32768 length 60\n"
        );
        let unparsed = Event { protocol: "0".into(), source: None, destination: None, pod: None, ..event() };
        assert_eq!(render(&unparsed), "14:05:09.003 drop SpoofedSource np1/from_pod: 0 length 60\n");
    }
}
