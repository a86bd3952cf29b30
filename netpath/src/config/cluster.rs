//! `[cluster]`: whom this node shares pools with, and how its etcd is reached.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    ConfigError,
    file::Cluster,
    snat,
    value::{self, Given, Source, within},
};
use crate::model::{
    BLOCK_LENGTHS, Backend, EtcdAccess, Family, NetworkName, Overlay, Pool, order_blocks, parse_prefix,
};

/// Endpoints that a node goes round.
const MAX_ENDPOINTS: usize = 16;
/// What `release_after` is if nothing is configured: a day, for whoever repairs a machine.
const RELEASE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The tunnels' port if nothing is configured (RFC 7348, 5).
pub const DEFAULT_VXLAN_PORT: u16 = 4789;
/// What names pools beside the file.
const POOLS: &str = "--pool or NETPATH_POOLS";
/// Their VNI if nothing is configured.
const VNI: u32 = 110;

/// A cluster that the node is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// How its etcd is reached.
    pub etcd: EtcdAccess,
    /// Where nodes' blocks come from, at most one of each family; what the cluster has if empty.
    pub pools: Vec<Pool>,
    /// How long a node is lost before its blocks are given back.
    pub release_after: Duration,
    /// How other nodes' pods are reached.
    pub backend: Backend,
    /// UDP port of tunnels between nodes.
    pub vxlan_port: u16,
    /// Their VNI, at least 1.
    pub vni: u32,
}

impl ClusterConfig {
    /// How this node reaches others.
    pub fn overlay(&self) -> Overlay {
        Overlay { backend: self.backend, port: self.vxlan_port, vni: self.vni }
    }
}

pub(super) fn cluster(source: &Source<'_>) -> Result<Option<ClusterConfig>, ConfigError> {
    let flags_alone = Spanned::new(0..0, Cluster::default());
    let spanned = match &source.file.cluster {
        Some(spanned) => spanned,
        None if !source.flags.etcd.is_empty() => &flags_alone,
        None => return outside(source).map(|()| None),
    };
    let file = spanned.get_ref();
    if let Some(block) = value::named_block(source) {
        return Err(block.error(
            "is named beside [cluster]",
            "remove it: a node of a cluster claims its block from cluster.pools",
        ));
    }
    let etcd = access(source, spanned)?;
    Ok(Some(ClusterConfig {
        name: name(source, file)?,
        pools: pools(source, file)?,
        release_after: release_after(source, file)?,
        backend: backend(source, file)?,
        vxlan_port: vxlan_port(source, file)?,
        vni: {
            let given = file.vni.as_ref().map(|vni| source.in_file("cluster.vni", vni));
            within(given, &(1..=0xff_ffff), "such as 110, its default")?.unwrap_or(VNI)
        },
        etcd,
    }))
}

/// How etcd is reached: nothing secret over what is not.
fn access(source: &Source<'_>, spanned: &Spanned<Cluster>) -> Result<EtcdAccess, ConfigError> {
    let file = spanned.get_ref();
    let endpoints = endpoints(source, spanned)?;
    let secure = endpoints[0].value.starts_with("https://");
    let path = |key, value: &Option<Spanned<PathBuf>>| {
        absolute(value.as_ref().map(|value| source.in_file(key, value)))
    };
    let ca = path("cluster.ca", &file.ca)?;
    let (cert, key) = (path("cluster.cert", &file.cert)?, path("cluster.key", &file.key)?);
    let password = path("cluster.password_file", &file.password_file)?;
    let user = file.user.as_ref().map(|user| source.in_file("cluster.user", user));
    if secure != ca.is_some() {
        return Err(endpoints[0].error(
            if secure {
                "are https, and cluster.ca is missing"
            } else {
                "are http, and cluster.ca is for https"
            },
            "name the certificate that etcd's is signed by in ca with https, and none with http",
        ));
    }
    let identity = pair(cert, key, &endpoints[0], "cluster.cert and cluster.key")?;
    if identity.is_some() && !secure {
        return Err(endpoints[0]
            .error("are http, and cluster.cert is for https", "write https endpoints, or no cert"));
    }
    let user =
        pair(user.map(|user| user.value), password, &endpoints[0], "cluster.user and cluster.password_file")?;
    if user.is_some() && !secure {
        return Err(endpoints[0].error(
            "are http, and would have the password of cluster.user for all to read",
            "write https endpoints, or no user",
        ));
    }
    let endpoints = endpoints.into_iter().map(|given| given.value).collect();
    Ok(EtcdAccess { endpoints, ca, identity, user })
}

/// What a node of no cluster has no use for.
fn outside(source: &Source<'_>) -> Result<(), ConfigError> {
    let given = source.list("cluster.pools", (POOLS, &source.flags.pools), None);
    given
        .first()
        .map_or(Ok(()), |pool| Err(pool.error("is named without a cluster", "name its --etcd as well")))
}

/// At least one.
fn endpoints(source: &Source<'_>, spanned: &Spanned<Cluster>) -> Result<Vec<Given<String>>, ConfigError> {
    let flags = ("--etcd or NETPATH_ETCD", source.flags.etcd.as_slice());
    let endpoints = source.list("cluster.endpoints", flags, spanned.get_ref().endpoints.as_ref());
    let secure = endpoints.first().is_some_and(|first| first.value.starts_with("https://"));
    for (at, given) in endpoints.iter().enumerate() {
        let instead = "write one like \"https://10.0.0.1:2379\", all of http or all of https";
        let refused = |reason: &str| Err(given.error(format!("has '{}', {reason}", given.value), instead));
        let scheme = if secure { "https://" } else { "http://" };
        let Some(place) = given.value.strip_prefix(scheme) else { return refused("which is no such URL") };
        let port = place.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if place.contains('@') {
            let instead = "write the name as user, and the password into a file, password_file";
            return Err(given.error("name a user: that would be told to whoever reads messages", instead));
        }
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return refused("which has no port");
        }
        if endpoints[..at].iter().any(|earlier| earlier.value == given.value) || at >= MAX_ENDPOINTS {
            return refused("twice, or more than sixteen");
        }
    }
    if endpoints.is_empty() {
        let place = source.in_file("cluster.endpoints", &Spanned::new(spanned.span(), ()));
        return Err(place.error("is empty", "write endpoints = [\"http://ADDRESS:2379\"], or no [cluster]"));
    }
    Ok(endpoints)
}

/// Both or none.
fn pair<A, B>(
    a: Option<A>,
    b: Option<B>,
    at: &Given<String>,
    keys: &str,
) -> Result<Option<(A, B)>, ConfigError> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        _ => Err(at.error(format!("come with only one of {keys}"), "write both, or none")),
    }
}

pub(super) fn absolute(given: Option<Given<PathBuf>>) -> Result<Option<PathBuf>, ConfigError> {
    match given {
        Some(given) if !given.value.is_absolute() => {
            let reason = format!("is '{}', which is not absolute", given.value.display());
            Err(given.error(reason, "write a path like /etc/netpath/ca.pem"))
        }
        given => Ok(given.map(|given| given.value)),
    }
}

fn release_after(source: &Source<'_>, file: &Cluster) -> Result<Duration, ConfigError> {
    let key = "cluster.release_after";
    let given = file.release_after.as_ref().map(|time| source.in_file(key, time));
    let Some(given) = given else { return Ok(RELEASE_AFTER) };
    humantime::parse_duration(&given.value).map_err(|error| {
        let reason = format!("is '{}', which is no time ({error})", given.value);
        given.error(reason, "write one such as 24h, its default")
    })
}

fn backend(source: &Source<'_>, file: &Cluster) -> Result<Backend, ConfigError> {
    let given = file.backend.as_ref().map(|name| source.in_file("cluster.backend", name));
    let Some(given) = given else { return Ok(Backend::Auto) };
    Backend::parse(&given.value).ok_or_else(|| {
        given.error(format!("is '{}'", given.value), "write \"auto\", \"direct\" or \"vxlan\"")
    })
}

/// Answers to translated flows must not be for the tunnels' port.
fn vxlan_port(source: &Source<'_>, file: &Cluster) -> Result<u16, ConfigError> {
    let given = file.vxlan_port.as_ref().map(|port| source.in_file("cluster.vxlan_port", port));
    let port = within(given, &(1..=u16::MAX), "such as 4789, its default")?.unwrap_or(DEFAULT_VXLAN_PORT);
    let used = snat::ports(source)?;
    if used.contains(&port) {
        let own = file.vxlan_port.as_ref().map(Spanned::span);
        let span = own.or_else(|| source.file.snat.ports.as_ref().map(Spanned::span));
        let place = source.in_file("cluster.vxlan_port", &Spanned::new(span.unwrap_or(0..0), ()));
        return Err(place.error(
            format!("is {port}, and snat.ports are {}-{}", used.start(), used.end()),
            "leave the tunnels' port out of snat.ports",
        ));
    }
    Ok(port)
}

fn name(source: &Source<'_>, file: &Cluster) -> Result<String, ConfigError> {
    let given = file.name.as_ref().map(|name| source.in_file("cluster.name", name));
    let Some(given) = given else { return Ok("default".to_owned()) };
    match given.value.parse::<NetworkName>() {
        Ok(name) => Ok(name.into()),
        Err(wrong) => Err(given.error(wrong.reason, "write letters, digits, '.', '_' and '-'")),
    }
}

fn pools(source: &Source<'_>, file: &Cluster) -> Result<Vec<Pool>, ConfigError> {
    let length = |key, value: &Option<Spanned<u8>>, most, usual| {
        let given = value.as_ref().map(|value| source.in_file(key, value));
        Ok::<_, ConfigError>(within(given, &(8..=most), "such as 26 or 122")?.unwrap_or(usual))
    };
    let v4 = length("cluster.block_length_v4", &file.block_length_v4, 30, BLOCK_LENGTHS.0)?;
    let v6 = length("cluster.block_length_v6", &file.block_length_v6, 126, BLOCK_LENGTHS.1)?;
    let flags = (POOLS, source.flags.pools.as_slice());
    let given = source.list("cluster.pools", flags, file.pools.as_ref());
    let mut all: Vec<Pool> = Vec::new();
    for one in &given {
        let pool = parse_prefix(&one.value).and_then(|prefix: IpNet| {
            Pool::new(prefix, if Family::of(prefix.addr()) == Family::V4 { v4 } else { v6 })
        });
        all.push(pool.map_err(|wrong| one.error(wrong.reason, wrong.instead))?);
    }
    if let Some(first) = given.first() {
        order_blocks(all.iter().map(|pool| pool.prefix).collect())
            .map_err(|wrong| first.error(wrong.reason, wrong.instead))?;
    }
    all.sort_by_key(|pool| pool.prefix);
    Ok(all)
}
