//! A request for a pod, checked as far as the request alone tells.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::AgentError;
use crate::{
    api::types::{self, PodAdd},
    config::Config,
    model::{
        Attachment, Bandwidth, DEFAULT_NETWORK, MAX_INTERFACES, Mac, Mode, NetnsId, PodName, Publication,
        PublicationError, Unattached, check_host,
    },
};

/// MTUs a pod can have: IPv4 needs 576 (RFC 791), and a record holds 16 bits.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;

/// A pod that somebody wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: PodName,
    /// At least one, each once; none if it is to be [`unattached`](Self::unattached).
    pub(super) networks: Vec<String>,
    pub(super) unattached: Option<Unattached>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) allowed: Vec<IpAddr>,
    pub(super) mac: Option<Mac>,
    pub(super) netns: PathBuf,
    pub(super) owns_netns: bool,
    pub(super) mtu: Option<u32>,
    pub(super) masquerade: bool,
    pub(super) mode: Option<Mode>,
    /// Whether its offloads will be set for XDP.
    pub(super) offloads: bool,
    pub(super) publications: Vec<Publication>,
    pub(super) ingress: Option<Bandwidth>,
    pub(super) egress: Option<Bandwidth>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) attachment: Option<Attachment>,
    /// Which namespace [`netns`](Self::netns) is, known when it has been opened.
    pub(super) netns_id: Option<NetnsId>,
    pub(super) netns_inode: Option<u64>,
    /// Whether it stays with that one, whatever becomes of the file.
    pub(super) stays: bool,
    /// No addresses but [`addresses`](Self::addresses).
    pub(super) exact: bool,
}

impl Wanted {
    /// Checks a request.
    pub(super) fn check(request: &PodAdd, config: &Config) -> Result<Self, AgentError> {
        let name: PodName = request.name.parse()?;
        let invalid = |reason: String| AgentError::Invalid { pod: name.to_string(), reason };
        let mut networks = request.networks.clone();
        let unattached = unattached(request).map_err(invalid)?;
        if unattached.is_some() {
            networks.clear();
        } else if networks.is_empty() {
            networks.push(DEFAULT_NETWORK.to_owned());
        }
        if let Some(network) = twice(&networks) {
            return Err(invalid(format!(
                "network '{network}' is named twice; a pod has one interface in each"
            )));
        }
        if networks.len() > MAX_INTERFACES {
            return Err(invalid(format!("{} networks; a pod can have {MAX_INTERFACES}", networks.len())));
        }
        check_interface(request).map_err(invalid)?;
        if let Some(attachment) = &request.attachment {
            check_attachment(request, attachment, &networks).map_err(invalid)?;
        }
        let mode = request.mode.as_deref().map(parse_mode).transpose().map_err(invalid)?;
        let publications =
            request.publish.iter().map(|text| text.parse()).collect::<Result<Vec<_>, PublicationError>>();
        let publications = publications.map_err(|error| invalid(error.to_string()))?;
        let limit = |one: Option<types::Bandwidth>| one.as_ref().map(limit_of).transpose().map_err(invalid);
        let own = || config.paths.netns_dir.join(name.as_str());
        Ok(Self {
            networks,
            addresses: request.addresses.clone(),
            allowed: request.allowed_addresses.clone(),
            mac: request.mac.as_deref().map(Mac::for_pod).transpose()?,
            netns: request.netns.as_ref().map_or_else(own, PathBuf::from),
            owns_netns: request.netns.is_none(),
            mtu: request.mtu,
            masquerade: !request.no_masquerade,
            mode,
            offloads: unattached.is_none() && mode.unwrap_or(config.mode) == Mode::Xdp,
            unattached,
            publications,
            ingress: limit(request.ingress_bandwidth)?,
            egress: limit(request.egress_bandwidth)?,
            labels: request.labels.clone(),
            attachment: request.attachment.clone().map(of_request),
            netns_id: None,
            netns_inode: None,
            stays: false,
            exact: request.no_other_addresses,
            name,
        })
    }
}

/// Whether the interfaces of a pod can be as asked for.
fn check_interface(request: &PodAdd) -> Result<(), String> {
    if let Some(address) = twice(&[&request.addresses[..], &request.allowed_addresses].concat()) {
        return Err(format!("address {address} is named twice"));
    }
    for address in &request.allowed_addresses {
        check_host(*address).map_err(|reason| format!("address {address} {reason}"))?;
    }
    if let Some(mtu) = request.mtu.filter(|mtu| !MTU.contains(mtu)) {
        return Err(format!("MTU {mtu} is not {} to {}", MTU.start(), MTU.end()));
    }
    if let Some(path) = request.netns.as_deref().filter(|path| !path.starts_with('/')) {
        return Err(format!("namespace '{path}' is not an absolute path; give one like /run/netns/NAME"));
    }
    Ok(())
}

/// What a request names in place of networks. An engine's pod has a network, whatever its name.
fn unattached(request: &PodAdd) -> Result<Option<Unattached>, String> {
    let mut all = Vec::new();
    if request.attachment.is_none() {
        for name in &request.networks {
            all.extend(Unattached::parse(name).map_err(|error| error.to_string())?);
        }
    }
    let Some(unattached) = all.pop() else { return Ok(None) };
    if request.networks.len() > 1 {
        return Err(format!("with network '{unattached}' it can have no other"));
    }
    let plain = PodAdd {
        name: request.name.clone(),
        networks: request.networks.clone(),
        labels: request.labels.clone(),
        ..PodAdd::default()
    };
    if *request != plain {
        return Err(format!(
            "with network '{unattached}' it has no interface of its own: give a name and labels only, no addresses, MAC, \
             MTU, mode, namespace or ports"
        ));
    }
    Ok(Some(unattached))
}

/// Whether an interface of a container engine's can be made as asked for.
fn check_attachment(
    request: &PodAdd,
    attachment: &types::Attachment,
    networks: &[String],
) -> Result<(), String> {
    let name = &attachment.interface;
    if !types::Attachment::is_interface(name) {
        return Err(format!("'{name}' is no name of an interface; give one like eth0"));
    }
    if networks.len() > 1 || request.netns.is_none() {
        return Err("an attachment has one network, and a namespace that its engine made".to_owned());
    }
    Ok(())
}

/// The same as the store keeps it.
pub(super) fn of_request(attachment: types::Attachment) -> Attachment {
    let types::Attachment { container, interface, network } = attachment;
    Attachment { container, interface, network }
}

/// A limit of a request.
pub(super) fn limit_of(wanted: &types::Bandwidth) -> Result<Bandwidth, String> {
    Bandwidth::new(wanted.rate, wanted.burst).map_err(|error| error.to_string())
}

/// A pod's mode by its name.
pub(super) fn parse_mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).ok_or_else(|| format!("mode is '{text}'; give tc or xdp"))
}

/// The first value that stands twice.
fn twice<T: PartialEq>(values: &[T]) -> Option<&T> {
    values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)).map(|(_, value)| value)
}
