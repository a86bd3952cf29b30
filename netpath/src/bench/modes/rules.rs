//! Rules of a node: by iptables where it is installed, as the networks that are measured have them, else the like in nftables' own
//! words.

use super::nft;
use crate::{bench::tool::Tool, lab::topology::Space, net::NetError};

const IPTABLES: Tool = Tool { name: "iptables-nft-restore", package: "iptables" };

/// The same rules for both programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    /// As `iptables-nft-restore` reads them.
    pub(super) iptables: &'a str,
    /// As `nft` does.
    pub(super) nft: &'a str,
}

/// Who made the rules.
#[derive(Clone, Debug)]
pub(super) enum Rules {
    Iptables,
    /// With the reason why iptables did not.
    Nft(String),
}

impl Rules {
    /// Makes the first ones of a node.
    ///
    /// # Errors
    /// What `nft` says where iptables is not there, or does not work.
    pub(super) fn install(node: &Space, text: Text<'_>) -> Result<Self, NetError> {
        match Self::Iptables.add(node, text) {
            Ok(()) => Ok(Self::Iptables),
            Err(error) => {
                let rules = Self::Nft(error.to_string());
                rules.add(node, text).map(|()| rules)
            }
        }
    }

    /// Adds more.
    ///
    /// # Errors
    /// What the program says.
    pub(super) fn add(&self, node: &Space, text: Text<'_>) -> Result<(), NetError> {
        match self {
            Self::Iptables => IPTABLES.run(node, &["--noflush"], text.iptables),
            Self::Nft(_) => nft::apply(node, text.nft),
        }
    }

    /// Their kind, in words.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Iptables => "iptables-nft",
            Self::Nft(_) => "nftables' own rules (no iptables-nft)",
        }
    }

    /// What makes the figures of a mode with them other than its name promises.
    pub(super) fn doubt(&self, mode: &str) -> Option<String> {
        let Self::Nft(reason) = self else { return None };
        Some(format!("mode {mode} has rules of nftables' own in place of iptables-nft: {reason}"))
    }
}
