//! The configuration file.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use toml::Spanned;

use super::{ConfigError, Place};

/// The file as written. What is a text with rules of its own keeps its place, for messages.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Option<Spanned<String>>,
    pub(super) uplinks: Option<Vec<Spanned<String>>>,
    pub(super) block: Option<Spanned<OneOrMore>>,
    pub(super) cluster: Option<Spanned<Cluster>>,
    pub(super) bgp: Option<Spanned<Bgp>>,
    pub(super) masquerade: Option<bool>,
    pub(super) no_masquerade: Option<Vec<Spanned<String>>>,
    pub(super) inbound: Option<Spanned<String>>,
    pub(super) protect: Option<Vec<Spanned<String>>>,
    pub(super) mtu: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) snat: Snat,
    #[serde(default)]
    pub(super) flows: Flows,
    #[serde(default)]
    pub(super) datapath: Datapath,
    #[serde(default)]
    pub(super) api: Api,
    #[serde(default)]
    pub(super) metrics: Metrics,
    pub(super) run_dir: Option<Spanned<PathBuf>>,
    pub(super) state_dir: Option<Spanned<PathBuf>>,
    pub(super) pin_dir: Option<Spanned<PathBuf>>,
    pub(super) netns_dir: Option<Spanned<PathBuf>>,
    /// Byte offsets at which lines end.
    #[serde(skip)]
    line_ends: Vec<usize>,
}

/// `[cluster]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) endpoints: Option<Vec<Spanned<String>>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) pools: Option<Vec<Spanned<String>>>,
    pub(super) block_length_v4: Option<Spanned<u8>>,
    pub(super) block_length_v6: Option<Spanned<u8>>,
    pub(super) release_after: Option<Spanned<String>>,
    pub(super) backend: Option<Spanned<String>>,
    pub(super) vxlan_port: Option<Spanned<u16>>,
    pub(super) vni: Option<Spanned<u32>>,
    pub(super) ca: Option<Spanned<PathBuf>>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
}

/// `[bgp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bgp {
    #[serde(rename = "as")]
    pub(super) local_as: Option<Spanned<u32>>,
    pub(super) router_id: Option<Spanned<String>>,
    pub(super) mesh: Option<Spanned<bool>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) accept: Option<Vec<Spanned<String>>>,
    pub(super) config_file: Option<Spanned<PathBuf>>,
    pub(super) control_socket: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) peer: Vec<Spanned<Peer>>,
}

/// `[[bgp.peer]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) address: Option<Spanned<String>>,
    #[serde(rename = "as")]
    pub(super) remote_as: Option<Spanned<u32>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) accept: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) rr_client: bool,
    #[serde(default)]
    pub(super) ipv4: bool,
}

/// `[snat]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snat {
    pub(super) ports: Option<Spanned<String>>,
    pub(super) addresses: Option<Vec<Spanned<String>>>,
}

/// `[flows]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flows {
    pub(super) capacity: Option<Spanned<u32>>,
    pub(super) per_pod: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) timeouts: FlowTimeouts,
}

/// `[flows.timeouts]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowTimeouts {
    pub(super) tcp_unreplied: Option<Spanned<String>>,
    pub(super) tcp_established: Option<Spanned<String>>,
    pub(super) tcp_closing: Option<Spanned<String>>,
    pub(super) tcp_reset: Option<Spanned<String>>,
    pub(super) udp_unreplied: Option<Spanned<String>>,
    pub(super) udp_replied: Option<Spanned<String>>,
    pub(super) icmp: Option<Spanned<String>>,
    pub(super) other: Option<Spanned<String>>,
}

/// `[datapath]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Datapath {
    pub(super) attach: Option<Spanned<String>>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) cgroup: Option<Spanned<String>>,
    pub(super) firewall: Option<Spanned<String>>,
}

/// `[api]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) group: Option<Spanned<String>>,
}

/// `[metrics]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<OneOrMore>>,
    pub(super) pods: Option<bool>,
}

/// One text or a list of them. Not derived: serde's way of trying one form after the other loses the places.
#[derive(Debug)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<Spanned<String>>),
}

impl OneOrMore {
    /// The texts, each with its place.
    pub(super) fn texts(written: &Spanned<Self>) -> Vec<Spanned<String>> {
        match written.get_ref() {
            Self::One(text) => vec![Spanned::new(written.span(), text.clone())],
            Self::More(texts) => texts.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, texts: A) -> Result<OneOrMore, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(texts)).map(OneOrMore::More)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl File {
    /// The line (1 is the first) of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|&end| end < offset) + 1
    }
}

/// Reads a file's text.
pub(super) fn parse(text: &str, path: &Path) -> Result<File, ConfigError> {
    let line_ends: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
    match toml::from_str::<File>(text) {
        Ok(file) => Ok(File { line_ends, ..file }),
        Err(error) => {
            let places = File { line_ends, ..File::default() };
            Err(ConfigError {
                place: Place::File(path.to_owned(), error.span().map(|span| places.line(span.start))),
                key: None,
                reason: error.message().trim().replace('\n', ", "),
                instead: "correct this line, or remove it for the default".to_owned(),
            })
        }
    }
}
