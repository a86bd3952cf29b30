//! What netpath has on this node: as the agent tells it, or as its store and configuration do.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::Agent;
use crate::{
    api::types,
    config::{Config, DEFAULT_SNAT_PORTS, Paths},
    model::{self, PodState},
    net::{NetError, Netlink},
    store::{EmbeddedStore, Store, StoreError},
};

/// Uplinks, pods and networks.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Node {
    /// Names of the uplinks, those that are configured and missing as well.
    pub(in crate::doctor) uplinks: Vec<String>,
    pub(in crate::doctor) pods: Vec<Pod>,
    /// Prefixes of pods, each with its network.
    pub(in crate::doctor) blocks: Vec<(String, IpNet)>,
    pub(in crate::doctor) snat_ports: RangeInclusive<u16>,
    pub(in crate::doctor) stored: Stored,
}

/// A pod.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Pod {
    pub(in crate::doctor) name: String,
    pub(in crate::doctor) interfaces: Vec<PodInterface>,
}

/// The host end of one of its interfaces.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct PodInterface {
    pub(in crate::doctor) host: String,
    pub(in crate::doctor) addresses: Vec<IpAddr>,
}

/// The state file.
#[derive(Clone, Debug)]
pub(in crate::doctor) enum Stored {
    /// There is none.
    Absent,
    /// The running agent has it.
    InUse,
    /// It can be read, and has so many pods.
    Sound(usize),
    /// It cannot be read, for this reason.
    Broken(String),
}

impl Node {
    pub(super) async fn read(
        agent: &Agent,
        config: Option<&Config>,
        paths: &Paths,
        netlink: &Netlink,
    ) -> Result<Self, NetError> {
        let held = agent.process.is_some() || agent.status.is_ok();
        let (stored, pods, networks) = if held {
            (Stored::InUse, agent.pods.iter().map(of_agent).collect(), Vec::new())
        } else {
            stored(paths).await
        };
        let mut blocks: Vec<(String, IpNet)> = Vec::new();
        let mut add =
            |name: &str, of: &[IpNet]| blocks.extend(of.iter().map(|block| (name.to_owned(), *block)));
        if let (true, Some(config)) = (agent.networks.is_empty(), config) {
            add(&config.network.name, &config.network.blocks);
        }
        agent.networks.iter().for_each(|network| add(&network.name, &network.subnets));
        networks.iter().for_each(|network| add(&network.name, &network.blocks));
        let status = agent.status.as_ref().ok();
        let mut uplinks = config.map(|config| config.uplinks.clone()).unwrap_or_default();
        if uplinks.is_empty() {
            uplinks = status.map(|status| status.uplinks.clone()).unwrap_or_default();
        }
        if uplinks.is_empty() {
            uplinks =
                of_default_routes(netlink, blocks.iter().any(|(_, block)| block.addr().is_ipv6())).await?;
        }
        let told = status.and_then(|status| range(&status.snat.range));
        let configured = || config.map(|config| config.snat_ports.clone());
        let snat_ports = told.or_else(configured).unwrap_or(DEFAULT_SNAT_PORTS);
        Ok(Self { uplinks, pods, blocks, snat_ports, stored })
    }

    /// Host ends of all pods.
    pub(in crate::doctor) fn interfaces(&self) -> impl Iterator<Item = &PodInterface> {
        self.pods.iter().flat_map(|pod| &pod.interfaces)
    }

    /// Whether pods have addresses of a family.
    pub(in crate::doctor) fn has(&self, v6: bool) -> bool {
        self.blocks.iter().any(|(_, block)| block.addr().is_ipv6() == v6)
    }
}

impl PodInterface {
    /// Whether the pod has an address of IPv6 here.
    pub(in crate::doctor) fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

fn of_agent(pod: &types::Pod) -> Pod {
    let interface = |one: &types::PodInterface| PodInterface {
        host: one.interface.clone(),
        addresses: one.addresses.clone(),
    };
    Pod { name: pod.name.clone(), interfaces: pod.interfaces.iter().map(interface).collect() }
}

fn of_store(pod: model::Pod) -> Pod {
    let interface = |one: model::Interface| PodInterface { host: one.host, addresses: one.addresses };
    Pod { name: pod.name.to_string(), interfaces: pod.interfaces.into_iter().map(interface).collect() }
}

/// What the store of an agent that does not run holds.
async fn stored(paths: &Paths) -> (Stored, Vec<Pod>, Vec<model::Network>) {
    if !paths.store().exists() {
        return (Stored::Absent, Vec::new(), Vec::new());
    }
    match read_store(paths).await {
        Ok((pods, networks)) => {
            (Stored::Sound(pods.len()), pods.into_iter().map(of_store).collect(), networks)
        }
        Err(error) => (Stored::Broken(error.to_string()), Vec::new(), Vec::new()),
    }
}

/// Pods that were made, and networks that were added.
pub(super) async fn read_store(paths: &Paths) -> Result<(Vec<model::Pod>, Vec<model::Network>), StoreError> {
    let store: Box<dyn Store> = Box::new(EmbeddedStore::open_copy(&paths.store())?);
    let mut pods: Vec<model::Pod> = store.read_all("pods/").await?;
    pods.retain(|pod| pod.state == PodState::Ready);
    Ok((pods, store.read_all("networks/").await?))
}

async fn of_default_routes(netlink: &Netlink, v6: bool) -> Result<Vec<String>, NetError> {
    let mut indexes = Vec::new();
    for family in [false, true].into_iter().take(if v6 { 2 } else { 1 }) {
        indexes.extend(netlink.default_route_interface(family).await?);
    }
    let links = netlink.links().await?.into_iter();
    Ok(links.filter(|link| indexes.contains(&link.index)).map(|link| link.name).collect())
}

/// `FIRST-LAST`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}
