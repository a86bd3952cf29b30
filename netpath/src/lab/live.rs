//! The live view: pods, flows, packets by class and drops by reason, redrawn every second.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    net::IpAddr,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::report::{right, table};
use crate::api::{
    client::{Client, ClientError},
    types::{Drop, Flow, Pod, Status},
};

/// Time between two pictures.
const PERIOD: Duration = Duration::from_secs(1);
/// Flows shown; the most recent ones.
const FLOWS: usize = 8;

/// One look at the node.
struct Picture {
    status: Status,
    pods: Vec<Pod>,
    flows: Vec<Flow>,
    drops: Vec<Drop>,
}

impl Picture {
    async fn take(client: &Client) -> Result<Self, ClientError> {
        Ok(Self {
            status: client.status().await?,
            pods: client.pods().await?,
            flows: client.flows(None).await?,
            drops: client.drops().await?,
        })
    }

    fn text(&self) -> String {
        let status = &self.status;
        let mut text = format!(
            "node {}, up {} s: {} pods, {} of {} flows, {} SNAT bindings of {}\n",
            status.node,
            status.uptime_s,
            status.pods,
            status.flows,
            status.flow_capacity,
            status.snat.in_use,
            status.snat.range
        );
        for problem in &status.problems {
            let _ = writeln!(text, "problem: {problem}");
        }
        let _ = writeln!(text, "{}", self.pod_table());
        let _ = writeln!(
            text,
            "packets: {}",
            words(status.traffic.iter().map(|one| (one.class.as_str(), one.packets)))
        );
        let _ = writeln!(
            text,
            "drops: {}",
            words(self.drops.iter().map(|one| (one.reason.as_str(), one.packets)))
        );
        if !self.flows.is_empty() {
            let _ = writeln!(text, "{}", self.flow_table());
        }
        text
    }

    fn pod_table(&self) -> comfy_table::Table {
        let mut table = table(&["pod", "address", "interface", "state", "rx packets", "tx packets"]);
        for pod in &self.pods {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            table.add_row([
                pod.name.as_str().into(),
                addresses.join(", ").into(),
                pod.interface.as_str().into(),
                pod.state.as_str().into(),
                right(pod.rx_packets),
                right(pod.tx_packets),
            ]);
        }
        table
    }

    fn flow_table(&self) -> comfy_table::Table {
        let mut flows: Vec<&Flow> = self.flows.iter().collect();
        flows.sort_by_key(|flow| (flow.idle_s, flow.age_s));
        let mut table = table(&["flow", "source", "destination", "as", "state", "packets", "replies"]);
        for flow in flows.into_iter().take(FLOWS) {
            table.add_row([
                flow.protocol.as_str().into(),
                at(flow.source, flow.source_port).into(),
                at(flow.destination, flow.destination_port).into(),
                translated(flow).into(),
                flow.state.as_str().into(),
                right(flow.packets),
                right(flow.reply_packets),
            ]);
        }
        table
    }
}

fn at(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

fn translated(flow: &Flow) -> String {
    match (flow.translated_source, flow.translated_port) {
        (Some(address), Some(port)) => at(address, port),
        (Some(address), None) => address.to_string(),
        _ => String::new(),
    }
}

/// Counters above zero.
fn words<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> String {
    let words: Vec<String> = counters
        .filter(|(_, packets)| *packets > 0)
        .map(|(name, packets)| format!("{name} {packets}"))
        .collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// Redraws a node until it is dropped; see [`redraw`].
///
/// # Errors
/// If standard output cannot be written.
pub(super) async fn view(client: &Client) -> io::Result<()> {
    let picture = async || match Picture::take(client).await {
        Ok(picture) => picture.text(),
        Err(error) => format!("{error}\n"),
    };
    redraw(picture).await
}

/// Redraws a picture every second until it is dropped. Without a terminal on standard output it only waits.
///
/// # Errors
/// If standard output cannot be written.
pub(super) async fn redraw(picture: impl AsyncFn() -> String) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        return std::future::pending().await;
    }
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut drawn = 0;
    loop {
        ticks.tick().await;
        let text = picture().await;
        draw(&text, drawn)?;
        drawn = text.lines().count();
    }
}

/// Draws over the `drawn` lines of the last picture: cursor up, then clear to the end of the screen.
fn draw(text: &str, drawn: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if drawn > 0 {
        write!(out, "\x1b[{drawn}A\x1b[J")?;
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_at_zero_are_left_out() {
        assert_eq!(
            words([("local", 3), ("reply", 0), ("translated", 1)].into_iter()),
            "local 3, translated 1"
        );
        assert_eq!(words([("local", 0)].into_iter()), "none");
    }

    #[test]
    fn addresses_with_ports_of_both_families() {
        assert_eq!(at(IpAddr::from([10, 61, 0, 2]), 80), "10.61.0.2:80");
        assert_eq!(at("fd00::1".parse().unwrap(), 80), "[fd00::1]:80");
    }
}
