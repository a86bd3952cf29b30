//! `netpath capture`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::{
    Global,
    failure::OutputClosed,
    output::{Format, json, print},
    pod::exec,
    units::time_of_day,
    wait,
};
use crate::{
    api::types::{Pod, Prefix, Protocol, Status},
    capture::{Capture, CaptureError, Captured, Filter, Options, Pcapng, Point, Sink, Summary, Tuple},
};

/// A pod's packets.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Capture a pod's packets, before and after translation, until Ctrl-C

Packets are seen on the pod's own interfaces, as the pod has them, and on the uplinks, as the wire has them, both ways. With
-w they go to a pcapng file that tcpdump and Wireshark read, with an interface for each of these places; without it, each is
a line. A filter holds for a packet if it holds on either side of its translation.",
    after_help = "Examples:
  netpath capture web
  netpath capture web -w web.pcap --port 443
  netpath capture web -w - | wireshark -k -i -
  netpath capture web --interface up0 --proto udp --count 20"
)]
pub struct Args {
    /// Name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Write packets to a pcapng file; - is the standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only at this interface of the pod or uplink; may be repeated
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// End after so many packets
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// Keep so many bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    snaplen: u32,
    /// Only this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, visible_alias = "proto", value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only with this source or destination port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only from or to this address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    host: Option<Prefix>,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let client = global.client();
    let (pod, status) = wait(async {
        let mut pod = client.pod(&args.pod).await?;
        if let Some(other) = pod.network.strip_prefix("pod:") {
            pod = client.pod(other).await?;
        }
        anyhow::ensure!(
            !pod.interface.is_empty(),
            "capturing packets of pod {}: it is in no network; for the node's own packets use tcpdump",
            pod.name
        );
        Ok::<_, anyhow::Error>((pod, client.status().await?))
    })?;
    let capture = Capture::open(options(args, pod, status)?)?;
    let outcome = match &args.write {
        Some(path) => {
            let mut file = Pcapng::create(path, capture.points(), args.snaplen)?;
            tell_begin(&capture);
            capture.run(client, &mut file).and_then(|summary| file.finish().map(|()| summary))
        }
        None => {
            tell_begin(&capture);
            capture.run(client, &mut Lines(global.output))
        }
    };
    match outcome {
        Ok(summary) => tell_end(&args.pod, &summary),
        Err(CaptureError::Closed) => return Err(OutputClosed.into()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn options(args: &Args, pod: Pod, status: Status) -> anyhow::Result<Options> {
    let doing = || format!("opening the network namespace {} of pod {}", pod.netns, pod.name);
    Ok(Options {
        netns: exec::open(&pod.netns, status.pid).with_context(doing)?,
        agent: status.pid,
        pin_dir: status.pin_dir,
        uplinks: status.uplinks,
        interfaces: args.interface.clone(),
        snaplen: args.snaplen,
        count: args.count,
        filter: Filter { protocol: args.protocol, port: args.port, host: args.host },
        pod,
    })
}

/// To stderr, as what is captured may go to the standard output. Scripts wait for it.
fn tell_begin(capture: &Capture) {
    let names: Vec<_> = capture.points().iter().map(|point| point.name.as_str()).collect();
    eprintln!("netpath: capturing on {}; Ctrl-C ends", names.join(", "));
}

fn tell_end(pod: &str, summary: &Summary) {
    if summary.pod_gone {
        eprintln!("netpath: pod {pod} or one of its interfaces is gone");
    }
    eprintln!("netpath: {} packets captured, {} lost for want of room", summary.packets, summary.lost);
}

/// A line for each packet.
struct Lines(Format);

impl Sink for Lines {
    fn take(&mut self, points: &[Point], packet: &Captured) -> Result<(), CaptureError> {
        let point = &points[packet.point];
        let line = match self.0 {
            Format::Table => Ok(render(point, packet)),
            Format::Json => json(&as_json(point, packet), false),
        };
        line.and_then(|line| print(&line)).map_err(|error| match error.is::<OutputClosed>() {
            true => CaptureError::Closed,
            false => CaptureError::Other { doing: "printing a packet".to_owned(), reason: error.to_string() },
        })
    }
}

fn render(point: &Point, packet: &Captured) -> String {
    let time = time_of_day(packet.time.as_millis() as u64);
    let direction = direction(packet);
    let what = match &packet.tuple {
        Some(tuple) => tuple.to_string(),
        None => "not IP".to_owned(),
    };
    let flags = if packet.flags.is_empty() { String::new() } else { format!(" [{}]", packet.flags) };
    let in_pod = packet.in_pod.map_or_else(String::new, |in_pod| format!(" in the pod {in_pod}"));
    format!("{time} {} {direction} {what}{flags} length {}{in_pod}\n", point.name, packet.length)
}

fn direction(packet: &Captured) -> &'static str {
    if packet.outgoing { "out" } else { "in" }
}

fn as_json(point: &Point, packet: &Captured) -> impl Serialize {
    let tuple = |tuple: Tuple| {
        json!({
            "protocol": Protocol(tuple.protocol), "source": tuple.source.0, "source_port": tuple.source.1,
            "destination": tuple.destination.0, "destination_port": tuple.destination.1,
        })
    };
    json!({
        "time_ms": packet.time.as_millis() as u64, "interface": point.name, "direction": direction(packet),
        "length": packet.length, "tcp_flags": packet.flags, "packet": packet.tuple.map(tuple),
        "in_pod": packet.in_pod.map(tuple),
    })
}
