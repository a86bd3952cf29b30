//! What a container engine calls one of its containers' interfaces.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What identifies an interface for a container engine (CNI: container, interface and network name). Query of
/// `DELETE /v1/attachments` and `GET /v1/attachments/check`, part of [`PodAdd`](super::PodAdd) and [`Pod`](super::Pod).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Attachment {
    /// The engine's name of the container or sandbox.
    pub container: String,
    /// Name of the interface inside.
    pub interface: String,
    /// The engine's name of the network, which need not be netpath's.
    pub network: String,
}

/// Query of `GET /v1/attachments`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AttachmentFilter {
    /// Only those of this network of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

impl Attachment {
    /// Whether this can be the name of an interface: as the kernel's `dev_valid_name()`, and the specification of CNI.
    pub fn is_interface(name: &str) -> bool {
        let bad = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace();
        !name.is_empty() && name.len() <= 15 && !matches!(name, "." | "..") && !name.contains(bad)
    }

    /// 16 hexadecimal digits that stand for all of it, in names of pods and files.
    pub fn digest(&self) -> String {
        // FNV-1a: an own hash and not the standard library's, whose values may change between its versions. No part holds
        // a zero byte.
        let parts = [&self.container, &self.interface, &self.network].map(String::as_str).join("\0");
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", parts.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// Name of the file that asks for its removal while no agent answers.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_the_digest_stays() {
        let of = |container: &str, interface: &str, network: &str| {
            let attachment = Attachment {
                container: container.into(),
                interface: interface.into(),
                network: network.into(),
            };
            attachment.digest()
        };
        // Changing it makes requests of earlier plugins unknown.
        assert_eq!(of("c1", "eth0", "net"), "8b7904b8021b1e89");
        let all = [
            of("c1", "eth0", "net"),
            of("c1", "eth1", "net"),
            of("c1e", "th0", "net"),
            of("c1", "eth0", "n"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{one}");
        }
    }
}
