//! What pods do not reach on nodes.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use super::Transport;

/// Ports of nodes that pods do not reach; in text `PROTOCOL:PORT[-PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Of which protocol.
    pub protocol: Transport,
    /// The ports; never 0.
    pub ports: RangeInclusive<u16>,
}

impl FromStr for Protected {
    type Err = &'static str;

    /// # Errors
    /// What is wrong, as the end of a sentence about the text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, ports) = text.split_once(':').ok_or("which names no protocol")?;
        let protocol = Transport::ALL.into_iter().find(|known| known.name() == protocol);
        let protocol = protocol.ok_or("whose protocol is none of tcp, udp and sctp")?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        // Rust reads "+1" as a number as well.
        let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0 && port.to_string() == text);
        let ports = port(first).zip(port(last)).map(|(first, last)| first..=last);
        let ports = ports.filter(|ports| !ports.is_empty()).ok_or("which has no ports of 1 to 65535")?;
        Ok(Self { protocol, ports })
    }
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.ports.start(), self.ports.end());
        write!(f, "{}:{first}", self.protocol.name())?;
        if first == last { Ok(()) } else { write!(f, "-{last}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_with_their_protocol() {
        for text in ["tcp:2379", "udp:1-65535", "sctp:7-8"] {
            assert_eq!(text.parse::<Protected>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:9-9".parse::<Protected>().unwrap().to_string(), "tcp:9");
        for bad in [
            "2379",
            "icmp:1",
            "tcp:",
            "tcp:0",
            "tcp:0-9",
            "tcp:9-8",
            "tcp:+9",
            "tcp:65536",
            "tcp:1-",
            "TCP:1",
        ] {
            assert!(bad.parse::<Protected>().is_err(), "{bad}");
        }
    }
}
