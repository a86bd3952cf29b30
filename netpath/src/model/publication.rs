//! Published ports, as a pod's record and the command line have them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::Family;

/// Ports that one publication can have.
pub const MAX_PUBLICATION: u16 = 16_384;

/// What a publication can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Stable name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Ports of the node that lead to a pod; in text `[IP:]PORT[-PORT]:PORT[-PORT][/tcp|udp|sctp]`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publication {
    /// Address of the node; all if absent, all of a family if unspecified.
    pub address: Option<IpAddr>,
    /// First port of the node.
    pub port: u16,
    /// First port of the pod.
    pub pod_port: u16,
    /// How many ports.
    pub count: u16,
    /// Of which protocol.
    pub protocol: Transport,
}

/// A text that is no publication.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("publishing '{text}': {reason}")]
pub struct PublicationError {
    /// What was given.
    pub text: String,
    /// What is wrong with it, and what to give instead.
    pub reason: String,
}

impl Publication {
    /// Ports of the node.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.port..=self.port + (self.count - 1)
    }

    /// The one address that it is published on; absent for all of the node's, or of a family.
    pub fn exact(&self) -> Option<IpAddr> {
        self.address.filter(|address| !address.is_unspecified())
    }

    /// Whether it is published on addresses of a family.
    pub fn has(&self, family: Family) -> bool {
        self.address.is_none_or(|address| Family::of(address) == family)
    }

    /// Whether it has this port of the node on this address.
    pub fn holds(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        self.protocol.number() == protocol
            && self.ports().contains(&port)
            && self.has(Family::of(address))
            && self.exact().is_none_or(|own| own == address)
    }

    /// Whether a port on some address would be both's.
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = [Family::V4, Family::V6].into_iter().any(|family| {
            let (own, theirs) = (self.exact(), other.exact());
            self.has(family) && other.has(family) && (own.is_none() || theirs.is_none() || own == theirs)
        });
        self.protocol == other.protocol
            && addresses
            && self.ports().start() <= other.ports().end()
            && other.ports().start() <= self.ports().end()
    }

    fn check(self) -> Result<Self, &'static str> {
        if self.protocol == Transport::Sctp && self.port != self.pod_port {
            return Err("SCTP keeps its port, since the checksum covers it: give the same port twice");
        }
        match self.exact() {
            Some(address) if address.is_multicast() => Err("a multicast address is nobody's own"),
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => {
                Err("a link-local address cannot be published on: leave it out for every address")
            }
            Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err("give the IPv4 address itself"),
            Some(IpAddr::V4(v4)) if v4.is_broadcast() => Err("a broadcast address is nobody's own"),
            _ => Ok(self),
        }
    }
}

impl FromStr for Publication {
    type Err = PublicationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text)
            .and_then(Self::check)
            .map_err(|reason| PublicationError { text: text.to_owned(), reason: reason.to_owned() })
    }
}

const GRAMMAR: &str = "give [IP:]PORT:PODPORT[/tcp|udp|sctp], such as 8080:80 or [2001:db8::1]:53:53/udp";

fn read(text: &str) -> Result<Publication, &'static str> {
    let (ends, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Transport::ALL.into_iter().find(|known| known.name() == protocol);
    let protocol = protocol.ok_or("the protocol is none of tcp, udp and sctp")?;
    let (node, pod) = ends.rsplit_once(':').ok_or(GRAMMAR)?;
    let (address, node) = match node.rsplit_once(':') {
        None => (None, node),
        Some((address, node)) => (Some(address), node),
    };
    let address = address.map(|address| match address.strip_prefix('[') {
        Some(bracketed) => bracketed
            .strip_suffix(']')
            .and_then(|address| address.parse().ok())
            .filter(IpAddr::is_ipv6)
            .ok_or("what is in brackets is no IPv6 address"),
        None => address
            .parse()
            .ok()
            .filter(IpAddr::is_ipv4)
            .ok_or("the address is no IPv4 address; one of IPv6 stands in brackets"),
    });
    let ((port, count), (pod_port, pod_count)) = (range(node)?, range(pod)?);
    if count != pod_count {
        return Err("the two ranges have not as many ports");
    }
    Ok(Publication { address: address.transpose()?, port, pod_port, count, protocol })
}

/// A range's first port, and how many it has.
fn range(text: &str) -> Result<(u16, u16), &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or("a port is 1 to 65535");
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    match last.checked_sub(first) {
        None => Err("a range ends before it begins"),
        Some(more) if more >= MAX_PUBLICATION => Err("a range has more than 16384 ports"),
        Some(more) => Ok((first, more + 1)),
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        let more = self.count - 1;
        let end = |first: u16| if more == 0 { String::new() } else { format!("-{}", first + more) };
        let (last, pod_last) = (end(self.port), end(self.pod_port));
        write!(f, "{last}:{}{pod_last}/{}", self.pod_port, self.protocol.name())
    }
}

impl TryFrom<String> for Publication {
    type Error = PublicationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Publication> for String {
    fn from(publication: Publication) -> Self {
        publication.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Publication {
        text.parse().unwrap()
    }

    #[test]
    fn texts_read_and_written() {
        for (text, written) in [
            ("8080:80", "8080:80/tcp"),
            ("127.0.0.1:53:5353/udp", "127.0.0.1:53:5353/udp"),
            ("[2001:db8::1]:7000-7003:8000-8003/udp", "[2001:db8::1]:7000-7003:8000-8003/udp"),
            ("[::]:5060:5060/sctp", "[::]:5060:5060/sctp"),
            ("0.0.0.0:1-16384:2-16385", "0.0.0.0:1-16384:2-16385/tcp"),
        ] {
            assert_eq!(parsed(text).to_string(), written);
            assert_eq!(parsed(written), parsed(text));
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, reason) in [
            ("80", "such as 8080:80"),
            ("", "such as 8080:80"),
            ("80:80/icmp", "none of tcp"),
            ("0:80", "1 to 65535"),
            ("80:65536", "1 to 65535"),
            ("80-70:80-70", "before it begins"),
            ("80-82:80-81", "as many"),
            ("1-16385:1-16385", "more than 16384"),
            ("2001:db8::1:80:80", "brackets"),
            ("[192.0.2.1]:80:80", "no IPv6"),
            ("[::1:80:80", "no IPv6"),
            ("host:80:80", "no IPv4"),
            ("80:81/sctp", "SCTP keeps"),
            ("224.0.0.1:80:80", "multicast"),
            ("[fe80::1]:80:80", "link-local"),
            ("[::ffff:192.0.2.1]:80:80", "IPv4 address itself"),
        ] {
            let error = text.parse::<Publication>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn two_overlap_where_a_port_would_be_both_s() {
        for (one, other, expected) in [
            ("80:80", "80:81", true),
            ("80:80", "80:80/udp", false),
            ("80:80", "81:80", false),
            ("80-90:80-90", "90-95:1-6", true),
            ("80:80", "192.0.2.1:80:80", true),
            ("0.0.0.0:80:80", "192.0.2.1:80:80", true),
            ("0.0.0.0:80:80", "[::]:80:80", false),
            ("0.0.0.0:80:80", "[2001:db8::1]:80:80", false),
            ("192.0.2.1:80:80", "192.0.2.2:80:80", false),
            ("192.0.2.1:80:80", "192.0.2.1:80:81", true),
        ] {
            assert_eq!(parsed(one).overlaps(&parsed(other)), expected, "{one} {other}");
            assert_eq!(parsed(other).overlaps(&parsed(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_port_is_held_on_some_addresses() {
        let holds = |text: &str, address: &str, port| parsed(text).holds(6, address.parse().unwrap(), port);
        assert!(holds("80-81:80-81", "192.0.2.1", 81) && holds("80:80", "::1", 80));
        assert!(!holds("80:80", "::1", 81) && !holds("80:80/udp", "::1", 80));
        assert!(holds("192.0.2.1:80:80", "192.0.2.1", 80) && !holds("192.0.2.1:80:80", "192.0.2.2", 80));
        assert!(holds("0.0.0.0:80:80", "192.0.2.1", 80) && !holds("0.0.0.0:80:80", "::1", 80));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(ip: Option<IpAddr>, a in 1u16.., b in 1u16.., n in 0u16..100, proto in 0usize..2) {
            let (port, pod_port) = (a.min(u16::MAX - n), b.min(u16::MAX - n));
            let protocol = Transport::ALL[proto];
            let one = Publication { address: ip, port, pod_port, count: n + 1, protocol };
            if let Ok(one) = one.check() {
                prop_assert_eq!(parsed(&one.to_string()), one);
            }
        }
    }
}
