//! Which flows a request is about.

use std::{fmt, net::IpAddr, str::FromStr};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Query of `GET /v1/flows` and `DELETE /v1/flows`. What is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct FlowFilter {
    /// Name of the pod that the flow belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
    /// Where who opened it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Where it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Its source port, destination port or translated port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether its source is translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated: Option<bool>,
    /// `GET` only: what comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<FlowSort>,
    /// `GET` only: so many at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `DELETE` only: every flow is meant. Without it something else has to say which.
    #[serde(skip_serializing_if = "is_false")]
    pub all: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl FlowFilter {
    /// Whether it lets every flow pass.
    pub fn is_open(&self) -> bool {
        *self == Self { sort: self.sort, limit: self.limit, all: self.all, ..Self::default() }
    }
}

/// Answer to `DELETE /v1/flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// Flows removed.
    pub removed: u64,
}

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// No reply yet
    Unreplied,
    /// Both directions have been seen
    Established,
    /// TCP: closed by both sides
    Closing,
    /// TCP: reset
    Reset,
}

/// What comes first in a list of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowSort {
    /// Those with most bytes, both directions together
    Bytes,
    /// The oldest
    Age,
    /// Those whose last packet is longest ago
    Idle,
}

/// An IP protocol, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Protocol(pub u8);

const PROTOCOLS: [(u8, &str); 5] = [(1, "icmp"), (6, "tcp"), (17, "udp"), (58, "icmpv6"), (132, "sctp")];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = PROTOCOLS.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
        named.or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            format!("'{text}' is no protocol; give tcp, udp, icmp, icmpv6, sctp or a number up to 255")
        })
    }
}

/// An address, or all below a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Prefix(pub IpNet);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
        address(text).or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            format!("'{text}' is no address or prefix; give one like 192.0.2.9, 10.0.0.0/8 or 2001:db8::/32")
        })
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {
        $(
            impl TryFrom<String> for $type {
                type Error = String;

                fn try_from(text: String) -> Result<Self, String> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> Self {
                    value.to_string()
                }
            }
        )*
    };
}
as_text!(Protocol, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_and_prefixes_are_texts_both_ways() {
        for text in ["tcp", "udp", "icmp", "icmpv6", "sctp", "47"] {
            assert_eq!(text.parse::<Protocol>().unwrap().to_string(), text);
        }
        assert_eq!("6".parse::<Protocol>().unwrap().to_string(), "tcp");
        for (text, shown) in [("192.0.2.1", "192.0.2.1/32"), ("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128")]
        {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), shown);
        }
        for text in ["", "256", "-1", "gre"] {
            assert!(text.parse::<Protocol>().is_err(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "a", "10.0.0"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn order_and_number_leave_a_filter_open() {
        let open =
            FlowFilter { sort: Some(FlowSort::Age), limit: Some(1), all: true, ..FlowFilter::default() };
        assert!(open.is_open() && FlowFilter::default().is_open());
        assert!(!FlowFilter { translated: Some(false), ..open }.is_open());
    }
}
