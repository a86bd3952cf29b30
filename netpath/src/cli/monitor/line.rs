//! An event as a line that reads like tcpdump's.

use std::net::IpAddr;

use crate::{api::types::Event, cli::units::time_of_day};

/// `TIME IP SOURCE.PORT > DESTINATION.PORT: PROTOCOL, length BYTES: WHAT, pod NAME, PROGRAM on INTERFACE`.
pub(in crate::cli) fn render(event: &Event) -> String {
    let time = time_of_day(event.time_ms);
    if let Some(lost) = event.lost {
        return format!("{time} lost {lost}: {}\n", missing(event.reason.as_deref().unwrap_or_default()));
    }
    let mut line = format!("{time} {}, length {}: {}", packet(event), event.length, what(event));
    if let Some(pod) = &event.pod {
        line += &format!(", pod {pod}");
    }
    line + &format!(", {} on {}\n", event.program, event.interface)
}

fn packet(event: &Event) -> String {
    let (Some(source), Some(destination)) = (event.source, event.destination) else {
        return "not parsed".to_owned();
    };
    let family = if source.is_ipv6() { "IP6" } else { "IP" };
    let protocol = &event.protocol;
    if is_icmp(event) {
        let id = if event.source_port == 0 { String::new() } else { format!(" id {}", event.source_port) };
        return format!("{family} {source} > {destination}: {protocol}{id}");
    }
    let (source, destination) = (end(source, event.source_port), end(destination, event.destination_port));
    format!("{family} {source} > {destination}: {protocol}")
}

fn what(event: &Event) -> String {
    let reason = event.reason.as_deref().unwrap_or("for an unknown reason");
    let Some(address) = event.translated_source else { return format!("{} {reason}", event.kind) };
    let port = event.translated_port.unwrap_or_default();
    let translated = if is_icmp(event) { format!("{address} id {port}") } else { end(address, port) };
    format!("{} as {translated}", event.kind)
}

fn missing(why: &str) -> String {
    match why {
        "drops-held-back" => {
            "drops that came faster than they are told; 'netpath drop ls' counts all".to_owned()
        }
        "flows-held-back" => {
            "flows that came faster than they are told; 'netpath flow ls' lists all".to_owned()
        }
        "ring-full" => "events that the agent was too slow for".to_owned(),
        "slow-reader" => "events that this command's output was too slow for".to_owned(),
        other => format!("events ({other})"),
    }
}

/// Both ports of an echo are its identifier.
fn is_icmp(event: &Event) -> bool {
    event.protocol.starts_with("icmp")
}

fn end(address: IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { format!("{address}.{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::event;

    #[test]
    fn lines_read_like_a_packet_dump() {
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
        let v6 = Event {
            source: Some("2001:db8::1".parse().unwrap()),
            destination: Some("2001:db8::2".parse().unwrap()),
            pod: None,
            ..event()
        };
        let flow = Event {
            kind: "flow".into(),
            reason: None,
            translated_source: Some("2001:db8::9".parse().unwrap()),
            translated_port: Some(40_000),
            ..v6.clone()
        };
        let unparsed = Event { protocol: "0".into(), source: None, destination: None, ..event() };
        for (event, line) in [
            (
                event(),
                "IP 10.0.0.1.4000 > 192.0.2.9.443: tcp, length 60: drop SpoofedSource, pod web, from_pod on np1",
            ),
            (
                echo,
                "IP 10.0.0.1 > 192.0.2.9: icmp id 77, length 60: flow as 198.51.100.1 id 32768, pod web, from_pod on np1",
            ),
            (
                v6,
                "IP6 2001:db8::1.4000 > 2001:db8::2.443: tcp, length 60: drop SpoofedSource, from_pod on np1",
            ),
            (
                flow,
                "IP6 2001:db8::1.4000 > 2001:db8::2.443: tcp, length 60: flow as 2001:db8::9.40000, from_pod on np1",
            ),
            (unparsed, "not parsed, length 60: drop SpoofedSource, pod web, from_pod on np1"),
        ] {
            assert_eq!(render(&event), format!("14:05:09.003 {line}\n"));
        }
        let lost = render(&Event::of_loss(event().time_ms, "ring-full", 12));
        assert_eq!(lost, "14:05:09.003 lost 12: events that the agent was too slow for\n");
    }
}
