//! `ADD`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{config::Dns, error::CniError, ipam, name, request::Request, result};
use crate::api::types::PodAdd;

/// Attaches a container; the result. Asked again for what is there, it answers the same.
pub(super) async fn add(request: &Request) -> Result<Value, CniError> {
    let config = &request.config;
    let mut wanted = wanted(request)?;
    let mut dns = config.dns();
    if config.ipam().is_some() {
        let given = ipam::add(request)?;
        wanted.addresses = given.addresses;
        wanted.no_other_addresses = true;
        dns = if dns == Dns::default() { given.dns } else { dns };
    }
    let added = request.client().pod_add(&wanted).await.map_err(CniError::from);
    match added.and_then(|pod| result::of_pod(request, &pod, &dns)) {
        Err(error) if config.ipam().is_some() => Err(match ipam::release(request) {
            Ok(()) => error,
            Err(left) => CniError { message: format!("{}; then {}", error.message, left.message), ..error },
        }),
        outcome => outcome,
    }
}

fn wanted(request: &Request) -> Result<PodAdd, CniError> {
    let (config, arguments) = (&request.config, &request.arguments);
    let attachment = request.attachment();
    let mut addresses = config.runtime.ips()?;
    addresses.extend(
        arguments.ips.iter().filter(|address| !addresses.contains(address)).copied().collect::<Vec<_>>(),
    );
    let (ingress_bandwidth, egress_bandwidth) = config.runtime.limits();
    Ok(PodAdd {
        name: name::of(&attachment, arguments),
        networks: vec![config.network().to_owned()],
        addresses,
        mac: config.runtime.mac.clone().or_else(|| arguments.mac.clone()).filter(|mac| !mac.is_empty()),
        netns: request.netns.clone(),
        labels: labels(request),
        mtu: config.mtu,
        publish: config.runtime.publications(),
        ingress_bandwidth,
        egress_bandwidth,
        attachment: Some(attachment),
        ..PodAdd::default()
    })
}

/// What the engine says of the container beside what identifies it.
fn labels(request: &Request) -> BTreeMap<String, String> {
    let aliases = request.config.runtime.aliases.iter().flatten();
    let own =
        aliases.filter(|(network, _)| **network == request.config.name).flat_map(|(_, aliases)| aliases);
    let aliases = own.cloned().collect::<Vec<_>>().join(",");
    [
        ("io.kubernetes.pod.namespace", request.arguments.namespace.clone()),
        ("io.kubernetes.pod.name", request.arguments.pod.clone()),
        ("cni.aliases", Some(aliases).filter(|aliases| !aliases.is_empty())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}
