//! Results, in the shape of the version that was asked in.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{
    config::Dns,
    error::{CniError, Code},
    request::Request,
};
use crate::api::types::{Pod, PodInterface};

/// A version of the specification whose results this plugin can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(super) const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub(super) const LATEST: Self = Self::V1_1_0;

    /// As in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// The result for a pod: that of earlier plugins of the chain, if there are any, and behind it the link's two ends, the
/// addresses and the default routes.
pub(super) fn of_pod(request: &Request, pod: &Pod, dns: &Dns) -> Result<Value, CniError> {
    let own = first(pod)?;
    let mut result = match &request.config.previous {
        Some(Value::Object(previous)) => previous.clone(),
        Some(_) => return Err(CniError::new(Code::Undecodable, "prevResult is no object")),
        None => Map::new(),
    };
    result.insert("cniVersion".into(), request.version.name().into());
    let sandbox = request.netns.as_deref().unwrap_or(&pod.netns);
    let interfaces = list(&mut result, "interfaces")?;
    let index = interfaces.len() + 1;
    interfaces.push(json!({"name": own.interface, "mac": host_mac()}));
    let mut inside = json!({"name": own.name, "mac": own.mac, "sandbox": sandbox});
    if request.version >= Version::V1_1_0 {
        inside["mtu"] = pod.mtu.into();
    }
    interfaces.push(inside);
    let ips = list(&mut result, "ips")?;
    for address in &own.addresses {
        ips.push(ip(request.version, *address, index));
    }
    let routes = list(&mut result, "routes")?;
    for gateway in &own.gateways {
        let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        routes.push(json!({"dst": everything, "gw": gateway}));
    }
    if !dns.is_empty() || !result.contains_key("dns") {
        result.insert("dns".into(), json!(dns));
    }
    Ok(result.into())
}

/// MAC of every host end. The agent's constant; an engine that compares must see it.
const fn host_mac() -> &'static str {
    "02:6e:70:00:00:01"
}

fn ip(version: Version, address: IpAddr, interface: usize) -> Value {
    let gateway = if address.is_ipv4() { "169.254.1.1" } else { "fe80::1" };
    let mut ip = json!({"interface": interface, "address": IpNet::from(address), "gateway": gateway});
    if version < Version::V1_0_0 {
        ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
    }
    ip
}

/// A pod's interface; an engine's has one.
pub(super) fn first(pod: &Pod) -> Result<&PodInterface, CniError> {
    pod.interfaces.first().ok_or_else(|| {
        CniError::new(Code::Internal, format!("the agent says nothing of the interfaces of pod {}", pod.name))
    })
}

fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, CniError> {
    let value = result.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value
        .as_array_mut()
        .ok_or_else(|| CniError::new(Code::Undecodable, format!("prevResult.{key} is no list")))
}

/// Addresses that a result gives an interface inside the container, and the MAC of that interface.
pub(super) fn of_interface(result: &Value, name: &str) -> Option<(Vec<IpAddr>, Option<String>)> {
    let interfaces = result["interfaces"].as_array()?;
    let inside =
        |one: &&Value| one["name"] == name && one["sandbox"].as_str().is_some_and(|path| !path.is_empty());
    let at = interfaces.iter().position(|one| inside(&one))?;
    let own = |ip: &&Value| ip["interface"].as_u64() == Some(at as u64);
    let address = |ip: &Value| ip["address"].as_str().and_then(super::config::address);
    let addresses = result["ips"].as_array().into_iter().flatten().filter(own).filter_map(address).collect();
    Some((addresses, interfaces[at]["mac"].as_str().map(str::to_ascii_lowercase)))
}
