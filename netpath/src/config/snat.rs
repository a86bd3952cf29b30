//! `[snat]`: what sources are translated to.

use std::{net::IpAddr, ops::RangeInclusive};

use super::{ConfigError, DEFAULT_SNAT_PORTS, value::Source};

/// Below are the ports of the host's own well-known services.
const MIN_PORT: u16 = 1024;
/// Addresses in all; what the tables have room for, eight a family, is counted for each uplink.
const MAX_ADDRESSES: usize = 128;

pub(super) fn ports(source: &Source<'_>) -> Result<RangeInclusive<u16>, ConfigError> {
    let flag = ("--snat-ports or NETPATH_SNAT_PORTS", source.flags.snat_ports.as_ref());
    let Some(given) = source.given("snat.ports", flag, source.file.snat.ports.as_ref()) else {
        return Ok(DEFAULT_SNAT_PORTS);
    };
    let range = given
        .value
        .split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?));
    match range {
        Some(range) if !range.is_empty() && *range.start() >= MIN_PORT => Ok(range),
        _ => {
            let reason = format!("is '{}'", given.value);
            let instead = format!("write FIRST-LAST within {MIN_PORT} to 65535, such as 32768-49151");
            Err(given.error(reason, instead))
        }
    }
}

pub(super) fn addresses(source: &Source<'_>) -> Result<Vec<IpAddr>, ConfigError> {
    const INSTEAD: &str = "write addresses of the uplinks, such as snat.addresses = [\"192.0.2.10\"]";
    let flags = ("--snat-address or NETPATH_SNAT_ADDRESSES", source.flags.snat_addresses.as_slice());
    let mut addresses = Vec::new();
    for given in source.list("snat.addresses", flags, source.file.snat.addresses.as_ref()) {
        let text = &given.value;
        let refused = |reason: &str| Err(given.error(format!("has '{text}', {reason}"), INSTEAD));
        match text.parse::<IpAddr>() {
            Err(_) => return refused("which is not an address"),
            Ok(address) if !is_global(address) => {
                return refused("which is valid on no wire, or on one link only");
            }
            Ok(address) if addresses.contains(&address) => return refused("twice"),
            Ok(_) if addresses.len() == MAX_ADDRESSES => return refused("and more than 128 addresses"),
            Ok(address) => addresses.push(address),
        }
    }
    Ok(addresses)
}

/// Whether answers to an address can come from further than the link. Private addresses can: there are networks behind
/// networks.
fn is_global(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let of_a_link = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !special && !of_a_link
}
