//! Clusters: nodes that share pools of addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Overlay, PrefixError, check_block, check_prefix};

/// Lengths of IPv4 and IPv6 blocks where nothing else is said: 64 addresses.
pub const BLOCK_LENGTHS: (u8, u8) = (26, 122);

/// Only the first million blocks of a pool are used: a claim looks at each at worst.
const MAX_BLOCK_BITS: u8 = 20;

/// How etcd is reached. Secrets are in the files only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// `http://HOST:PORT` or `https://HOST:PORT`, all of one kind, at least one.
    pub endpoints: Vec<String>,
    /// Certificates (PEM) that etcd's is signed by.
    pub ca: Option<PathBuf>,
    /// The node's certificate and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name of the user, and the file with the password.
    pub user: Option<(String, PathBuf)>,
}

impl EtcdAccess {
    /// The addresses of endpoints that are not written by name.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let host = |endpoint: &String| {
            let authority = endpoint.split("://").nth(1)?.split('/').next()?;
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            host.trim_start_matches('[').trim_end_matches(']').parse().ok()
        };
        self.endpoints.iter().filter_map(host)
    }
}

/// A range of addresses that nodes take blocks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The range.
    pub prefix: IpNet,
    /// Length of its blocks' prefixes.
    pub block_length: u8,
}

/// A node, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Who it is.
    #[serde(flatten)]
    pub holder: Holder,
    /// The addresses of its uplinks.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes no new pods.
    #[serde(default)]
    pub drained: bool,
    /// How long it may be lost before its blocks are anybody's, seconds.
    #[serde(default)]
    pub release_after: u64,
    /// How it reaches others; absent of nodes that have not told yet.
    #[serde(default, deserialize_with = "Overlay::if_readable")]
    pub overlay: Option<Overlay>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Of whom.
    #[serde(flatten)]
    pub holder: Holder,
    /// Which process: two at once are a node and its copy.
    #[serde(default)]
    pub run: String,
}

/// Who has something that nobody else may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the node.
    pub node: String,
    /// Made once for a node, and kept in its state: another of the same name has another.
    pub uid: String,
}

impl Pool {
    /// A pool whose blocks pods can have addresses of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(prefix: IpNet, block_length: u8) -> Result<Self, PrefixError> {
        check_prefix(prefix).and_then(|()| check_block(prefix))?;
        if block_length < prefix.prefix_len() {
            return Err(PrefixError {
                reason: format!("has {prefix}, with blocks of /{block_length}"),
                instead: "write a shorter prefix, or a longer block".to_owned(),
            });
        }
        let pool = Self { prefix, block_length };
        check_block(pool.block(0)).map(|()| pool)
    }

    /// Whether this is one of its blocks.
    pub fn has_block(&self, block: IpNet) -> bool {
        block == block.trunc() && block.prefix_len() == self.block_length && self.prefix.contains(&block)
    }

    /// How many blocks it has.
    fn count(&self) -> u32 {
        1 << (self.block_length - self.prefix.prefix_len()).min(MAX_BLOCK_BITS)
    }

    /// One of its blocks.
    fn block(&self, at: u32) -> IpNet {
        let address = match self.prefix.network() {
            IpAddr::V4(v4) => {
                IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() | shifted(at, 32 - self.block_length) as u32))
            }
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | shifted(at, 128 - self.block_length)).into(),
        };
        IpNet::new_assert(address, self.block_length)
    }

    /// A block that is not taken, the first one behind a place that `seed` chooses.
    pub fn free(&self, taken: &BTreeSet<IpNet>, seed: &str) -> Option<IpNet> {
        // FNV-1a: any spread does.
        let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let start = seed.bytes().fold(0x811c_9dc5, hash) % self.count();
        let mut all = (0..self.count()).map(|at| self.block((start + at) % self.count()));
        all.find(|block| !taken.contains(block))
    }
}

fn shifted(at: u32, bits: u8) -> u128 {
    u128::from(at) << bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(prefix: &str, length: u8) -> Pool {
        Pool::new(prefix.parse().unwrap(), length).unwrap()
    }

    #[test]
    fn hosts_of_endpoints_that_are_addresses() {
        let endpoints = ["http://10.0.0.1:2379", "https://[fd00::7]:2379/", "https://etcd.example:2379"];
        let access = EtcdAccess { endpoints: endpoints.map(str::to_owned).into(), ..EtcdAccess::default() };
        let hosts: Vec<_> = access.hosts().map(|host| host.to_string()).collect();
        assert_eq!(hosts, ["10.0.0.1", "fd00::7"]);
    }

    #[test]
    fn blocks_are_whole_ones_of_the_pool() {
        let pool = pool("10.64.0.0/16", 26);
        let has = |block: &str| pool.has_block(block.parse().unwrap());
        assert!(has("10.64.3.64/26"));
        for other in
            ["10.64.3.65/26", "10.64.0.0/16", "10.64.3.0/25", "10.65.0.0/26", "0.0.0.0/0", "fd00::/26"]
        {
            assert!(!has(other), "{other}");
        }
    }

    #[test]
    fn every_block_is_found_once_from_any_place() {
        for (pool, count) in
            [(pool("10.64.0.0/20", 26), 64), (pool("fd00:64::/116", 122), 64), (pool("10.0.0.0/26", 26), 1)]
        {
            for seed in ["", "a", "5d0f"] {
                let mut taken = BTreeSet::new();
                while let Some(block) = pool.free(&taken, seed) {
                    assert!(pool.prefix.contains(&block) && block == block.trunc(), "{block}");
                    assert_eq!(block.prefix_len(), pool.block_length);
                    assert!(taken.insert(block), "{block} twice");
                }
                assert_eq!(taken.len(), count);
            }
        }
        assert_ne!(
            pool("10.64.0.0/16", 26).free(&BTreeSet::new(), "a"),
            pool("10.64.0.0/16", 26).free(&BTreeSet::new(), "b")
        );
    }

    #[test]
    fn pools_are_such_that_pods_can_have_their_addresses() {
        for (prefix, length) in [
            ("10.64.0.1/16", 26),
            ("10.64.0.0/16", 15),
            ("10.64.0.0/16", 31),
            ("127.0.0.0/16", 26),
            ("fd00::/48", 127),
        ] {
            Pool::new(prefix.parse().unwrap(), length).unwrap_err();
        }
    }
}
