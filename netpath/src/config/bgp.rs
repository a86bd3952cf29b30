//! `[bgp]`: with whom BIRD speaks for this node.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    ConfigError,
    cluster::{ClusterConfig, absolute},
    file::{Bgp, Peer},
    value::{Given, Source},
};
use crate::model::{Accepted, parse_prefix};

/// Where Debian's BIRD listens.
const CONTROL_SOCKET: &str = "/run/bird/bird.ctl";
/// What the administrator has BIRD include.
const CONFIG_FILE: &str = "/etc/netpath/bird.conf";
/// Sessions with others than nodes of the cluster.
const MAX_PEERS: usize = 64;

/// How this node speaks BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfig {
    /// Number of the own autonomous system.
    pub local_as: u32,
    /// The first IPv4 address of the uplinks if absent.
    pub router_id: Option<Ipv4Addr>,
    /// Whether there is a session with every node of the cluster on the same link.
    pub mesh: bool,
    /// File with the password of those sessions.
    pub password_file: Option<PathBuf>,
    /// What is learned from those nodes beside routes to blocks.
    pub accept: Vec<Accepted>,
    /// What netpath writes for BIRD.
    pub config_file: PathBuf,
    /// Where BIRD listens for commands.
    pub control_socket: PathBuf,
    /// Others that it speaks with.
    pub peers: Vec<BgpPeer>,
}

/// A router, or a route reflector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub remote_as: u32,
    /// File with the password of the session.
    pub password_file: Option<PathBuf>,
    /// What is learned from it beside routes to blocks.
    pub accept: Vec<Accepted>,
    /// Whether this node reflects routes to it.
    pub rr_client: bool,
    /// Whether a session with an IPv6 address carries IPv4 routes as well.
    pub ipv4: bool,
}

pub(super) fn bgp(
    source: &Source<'_>,
    cluster: Option<&ClusterConfig>,
) -> Result<Option<BgpConfig>, ConfigError> {
    let Some(spanned) = source.file.bgp.as_ref() else { return Ok(None) };
    let file = spanned.get_ref();
    let whole = || source.in_file("bgp", &Spanned::new(spanned.span(), ()));
    let Some(local_as) = &file.local_as else {
        return Err(whole().error("has no as", "write as = 64512, or the number of your autonomous system"));
    };
    let accept = accept(source, "bgp.accept", file.accept.as_ref())?;
    let mesh = file.mesh.as_ref();
    if let Some(mesh) = mesh.filter(|mesh| *mesh.get_ref() && cluster.is_none()) {
        let given = source.in_file("bgp.mesh", mesh);
        return Err(given.error("is true without [cluster]", "write [[bgp.peer]] for each, or [cluster]"));
    }
    let path = |key, value: &Option<Spanned<PathBuf>>, usual: &str| {
        let given = absolute(value.as_ref().map(|value| source.in_file(key, value)));
        Ok::<_, ConfigError>(given?.unwrap_or_else(|| usual.into()))
    };
    let local_as = number("bgp.as", source, local_as)?;
    let peers = peers(source, file, &accept, local_as)?;
    let config_file = path("bgp.config_file", &file.config_file, CONFIG_FILE)?;
    let control_socket = path("bgp.control_socket", &file.control_socket, CONTROL_SOCKET)?;
    let mesh = mesh.map_or(cluster.is_some() && peers.is_empty(), |mesh| *mesh.get_ref());
    if !mesh && peers.is_empty() {
        return Err(whole().error(
            "has nobody to speak with",
            "write [[bgp.peer]] with address and as; or mesh = true in a cluster",
        ));
    }
    Ok(Some(BgpConfig {
        local_as,
        router_id: file.router_id.as_ref().map(|id| router_id(source, id)).transpose()?,
        mesh,
        password_file: password_file(source, file.password_file.as_ref())?,
        accept,
        config_file,
        control_socket,
        peers,
    }))
}

fn peers(
    source: &Source<'_>,
    file: &Bgp,
    usual: &[Accepted],
    local_as: u32,
) -> Result<Vec<BgpPeer>, ConfigError> {
    let mut peers: Vec<BgpPeer> = Vec::new();
    for spanned in &file.peer {
        let given = source.in_file("bgp.peer", &Spanned::new(spanned.span(), ()));
        let one = peer(source, &given, spanned.get_ref(), usual)?;
        if peers.iter().any(|earlier| earlier.address == one.address) || peers.len() == MAX_PEERS {
            let reason = format!("has {}, twice or as one of more than {MAX_PEERS}", one.address);
            return Err(given.error(reason, "name each once"));
        }
        if one.rr_client && one.remote_as != local_as {
            let reason = format!("has rr_client = true for {}, which is of another system", one.address);
            return Err(given.error(reason, "leave it out: routes are reflected within a system"));
        }
        peers.push(one);
    }
    Ok(peers)
}

fn peer(
    source: &Source<'_>,
    given: &Given<()>,
    file: &Peer,
    usual: &[Accepted],
) -> Result<BgpPeer, ConfigError> {
    let (Some(address), Some(remote_as)) = (&file.address, &file.remote_as) else {
        return Err(given.error("has no address or no as", "write address = \"198.18.0.1\" and as = 64999"));
    };
    let address = source.in_file("bgp.peer.address", address);
    let parsed = address.value.parse::<IpAddr>().ok().filter(|address| is_somebodys(*address));
    let Some(parsed) = parsed else {
        let reason = format!("is '{}', which is not the address of a router", address.value);
        return Err(address.error(reason, "write one like \"198.18.0.1\" or \"2001:db8::1\""));
    };
    if file.ipv4 && parsed.is_ipv4() {
        return Err(address.error("is IPv4, and ipv4 = true is for sessions over IPv6", "leave it out"));
    }
    let accepted = accept(source, "bgp.peer.accept", file.accept.as_ref())?;
    Ok(BgpPeer {
        address: parsed,
        remote_as: number("bgp.peer.as", source, remote_as)?,
        password_file: password_file(source, file.password_file.as_ref())?,
        accept: if file.accept.is_some() { accepted } else { usual.to_vec() },
        rr_client: file.rr_client,
        ipv4: file.ipv4,
    })
}

/// An address of one machine, on whatever link.
fn is_somebodys(address: IpAddr) -> bool {
    let odd = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some() || v6.is_unicast_link_local(),
    };
    !(odd || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// RFC 7607 reserves 0, RFC 7300 the last.
fn number(key: &'static str, source: &Source<'_>, value: &Spanned<u32>) -> Result<u32, ConfigError> {
    let given = source.in_file(key, value);
    match given.value {
        0 | u32::MAX => {
            let reason = format!("is {}, which is reserved", given.value);
            Err(given.error(
                reason,
                "write the number of an autonomous system; 64512 to 65534 are for private use",
            ))
        }
        number => Ok(number),
    }
}

fn router_id(source: &Source<'_>, id: &Spanned<String>) -> Result<Ipv4Addr, ConfigError> {
    let given = source.in_file("bgp.router_id", id);
    let parsed = given.value.parse::<Ipv4Addr>().ok().filter(|id| !id.is_unspecified());
    parsed.ok_or_else(|| {
        let reason = format!("is '{}', which is no such number", given.value);
        given.error(reason, "write an IPv4 address of the node, or nothing for the uplink's")
    })
}

fn password_file(
    source: &Source<'_>,
    value: Option<&Spanned<PathBuf>>,
) -> Result<Option<PathBuf>, ConfigError> {
    absolute(value.map(|value| source.in_file("bgp.password_file", value)))
}

fn accept(
    source: &Source<'_>,
    key: &'static str,
    texts: Option<&Vec<Spanned<String>>>,
) -> Result<Vec<Accepted>, ConfigError> {
    let one = |given: &Given<String>| {
        let (text, longer) = match given.value.strip_suffix('+') {
            Some(text) => (text, true),
            None => (given.value.as_str(), false),
        };
        let prefix: IpNet = parse_prefix(text).map_err(|wrong| given.error(wrong.reason, wrong.instead))?;
        Ok(Accepted { prefix, longer })
    };
    source.list(key, ("", &[]), texts).iter().map(one).collect()
}
