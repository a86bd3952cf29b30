//! Which prefixes can be a node's block.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Family, GATEWAY_V4};

/// What is wrong with a prefix, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {instead}")]
pub struct PrefixError {
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    pub instead: String,
}

/// A block of a family to put into messages.
pub fn example_block(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.61.0.0/24",
        Family::V6 => "fd00:61::/64",
    }
}

/// Reads a prefix without host bits.
///
/// # Errors
/// What is not one.
pub fn parse_prefix(text: &str) -> Result<IpNet, PrefixError> {
    let prefix: IpNet = text.parse().map_err(|_| PrefixError {
        reason: format!("has '{text}', which is not a prefix"),
        instead: format!(
            "write ADDRESS/LENGTH, such as {} or {}",
            example_block(Family::V4),
            example_block(Family::V6)
        ),
    })?;
    check_prefix(prefix).map(|()| prefix)
}

/// Whether a prefix has no host bits.
///
/// # Errors
/// If it has some.
pub fn check_prefix(prefix: IpNet) -> Result<(), PrefixError> {
    if prefix == prefix.trunc() {
        return Ok(());
    }
    Err(PrefixError {
        reason: format!("has '{prefix}', which has bits set behind its length"),
        instead: format!("write {}", prefix.trunc()),
    })
}

/// Whether pods can have the addresses of a prefix.
///
/// # Errors
/// Too small, too large, or addresses that mean something special.
pub fn check_block(block: IpNet) -> Result<(), PrefixError> {
    let family = Family::of(block.addr());
    let (shortest, longest) = match family {
        Family::V4 => (8, 30),
        Family::V6 => (8, 126),
    };
    if !(shortest..=longest).contains(&block.prefix_len()) {
        return Err(PrefixError {
            reason: format!("is {block}, and an {family} block has a length of /{shortest} to /{longest}"),
            instead: format!("write {} or the like", example_block(family)),
        });
    }
    match special().into_iter().find(|(special, _)| overlap(block, *special)) {
        Some((special, what)) => Err(PrefixError {
            reason: format!("is {block}, which overlaps {special} ({what})"),
            instead: format!("write a private block, such as {}", example_block(family)),
        }),
        None => Ok(()),
    }
}

/// Checks the blocks of one network, and puts IPv4 first.
///
/// # Errors
/// None, or two of one family.
pub fn order_blocks(mut blocks: Vec<IpNet>) -> Result<Vec<IpNet>, PrefixError> {
    blocks.sort();
    if blocks.is_empty() {
        return Err(PrefixError {
            reason: "is empty".into(),
            instead: format!("write {} or the like", example_block(Family::V4)),
        });
    }
    match blocks.windows(2).find(|pair| Family::of(pair[0].addr()) == Family::of(pair[1].addr())) {
        Some(pair) => Err(PrefixError {
            reason: format!("has {} and {}, two of one family", pair[0], pair[1]),
            instead: "write one prefix for each family".into(),
        }),
        None => Ok(blocks),
    }
}

/// Whether a host can have an address.
///
/// # Errors
/// What it is instead, in words.
pub fn check_host(address: IpAddr) -> Result<(), String> {
    match special().into_iter().find(|(special, _)| special.contains(&address)) {
        Some((special, what)) => Err(format!("is of {special} ({what}), which no pod can have")),
        None => Ok(()),
    }
}

/// Whether two prefixes have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn special() -> [(IpNet, &'static str); 7] {
    let v4 = |address, length| IpNet::V4(Ipv4Net::new_assert(address, length));
    let v6 =
        |first, length| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length));
    [
        (v4(Ipv4Addr::UNSPECIFIED, 8), "addresses of this host"),
        (v4(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback"),
        (v4(GATEWAY_V4, 16).trunc(), "link-local, with the pods' gateway"),
        (v4(Ipv4Addr::new(224, 0, 0, 0), 3), "multicast and reserved"),
        (v6(0, 8), "loopback and IPv4 inside IPv6"),
        (v6(0xfe80, 10), "link-local, with the pods' gateway"),
        (v6(0xff00, 8), "multicast"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_no_host_bits() {
        for good in ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0"] {
            assert_eq!(parse_prefix(good).unwrap().to_string(), good);
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "fd00::1/64", "10.0.0.1/24", "x"] {
            parse_prefix(bad).unwrap_err();
        }
        assert!(parse_prefix("fd00::1/64").unwrap_err().to_string().ends_with("write fd00::/64"));
    }

    #[test]
    fn blocks_of_both_families() {
        for good in ["10.0.0.0/8", "192.168.7.0/30", "fd00::/8", "2001:db8::/32", "fd00::/126"] {
            check_block(good.parse().unwrap()).unwrap();
        }
        for bad in
            ["0.0.0.0/8", "169.254.0.0/24", "fe80::/64", "ff00::/16", "64:ff9b::/96", "::/8", "fd00::/127"]
        {
            check_block(bad.parse().unwrap()).unwrap_err();
        }
    }

    #[test]
    fn addresses_that_hosts_can_have() {
        for good in ["192.0.2.1", "10.0.0.0", "2001:db8::1"] {
            check_host(good.parse().unwrap()).unwrap();
        }
        for bad in
            ["0.0.0.0", "127.0.0.1", "169.254.1.1", "255.255.255.255", "::", "::1", "fe80::1", "ff02::1"]
        {
            check_host(bad.parse().unwrap()).unwrap_err();
        }
    }

    #[test]
    fn one_block_a_family_and_ipv4_first() {
        let order = |texts: &[&str]| order_blocks(texts.iter().map(|text| text.parse().unwrap()).collect());
        let blocks = order(&["fd00::/64", "10.0.0.0/24"]).unwrap();
        assert!(blocks[0].addr().is_ipv4() && blocks[1].addr().is_ipv6());
        order(&["fd00::/64"]).unwrap();
        order(&[]).unwrap_err();
        order(&["fd00::/64", "10.0.0.0/24", "fd01::/64"]).unwrap_err();
    }
}
