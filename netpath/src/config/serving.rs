//! `[api]` and `[metrics]`: who is answered, and where.

use std::net::{IpAddr, SocketAddr};

use nix::unistd::Group;

use super::{Config, ConfigError, file::OneOrMore, value::Source};
use crate::model::{Protected, Transport};

/// Addresses that metrics are served on.
const MAX_LISTEN: usize = 8;

impl Config {
    /// Ports that pods do not reach on nodes: those that are listed, and the agent's own, which serve metrics, unless pods may have them.
    /// Loopback addresses no pod reaches anyway.
    pub fn protected_ports(&self) -> Vec<Protected> {
        let served = self.metrics_listen.iter().filter(|at| !self.metrics_pods && !at.ip().is_loopback());
        let own = served.map(|at| Protected { protocol: Transport::Tcp, ports: at.port()..=at.port() });
        self.protect.iter().cloned().chain(own).collect()
    }
}

pub(super) fn group(source: &Source<'_>) -> Result<Option<u32>, ConfigError> {
    let flag = ("--api-group or NETPATH_API_GROUP", source.flags.api_group.as_ref());
    let Some(given) = source.given("api.group", flag, source.file.api.group.as_ref()) else {
        return Ok(None);
    };
    if let Ok(number) = given.value.parse() {
        return Ok(Some(number));
    }
    match Group::from_name(&given.value) {
        Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
        _ => Err(given.error(
            format!("is '{}', and there is no such group", given.value),
            "make it with 'groupadd --system NAME', or write the name or number of another",
        )),
    }
}

pub(super) fn listen(source: &Source<'_>) -> Result<Vec<SocketAddr>, ConfigError> {
    const INSTEAD: &str =
        "write addresses with ports, such as metrics.listen = [\"127.0.0.1:9464\", \"[::1]:9464\"]";
    let flags = ("--metrics-listen or NETPATH_METRICS_LISTEN", source.flags.metrics_listen.as_slice());
    let texts = source.file.metrics.listen.as_ref().map(OneOrMore::texts);
    let mut addresses = Vec::new();
    for given in source.list("metrics.listen", flags, texts.as_ref()) {
        let text = &given.value;
        let refused = |reason: &str| Err(given.error(format!("has '{text}', {reason}"), INSTEAD));
        match text.parse::<SocketAddr>() {
            Err(_) => return refused("which is not an address with a port"),
            Ok(address) if address.port() == 0 => return refused("and nobody could know the port"),
            Ok(address) if is_of_many(address.ip()) => return refused("on which nobody can listen"),
            Ok(address) if addresses.contains(&address) => return refused("twice"),
            Ok(_) if addresses.len() == MAX_LISTEN => return refused("and more than eight addresses"),
            Ok(address) => addresses.push(address),
        }
    }
    Ok(addresses)
}

fn is_of_many(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    address.is_multicast() || mapped || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}
