//! The node as it is now: its links, addresses and routes, its uplinks, and what the programs are told of them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use netpath_common::abi::Node as Record;

use super::{Agent, AgentError, advertisements, forwarding, lock, ranges::Ranges, registry::Entry};
use crate::{
    compile::{self, Surroundings, Uplink},
    datapath::AttachKind,
    model::{Family, GATEWAY_MAC, Interface, Network, Pod},
    net::{Address, Link, Route, RouteKind, Survey},
};

/// MTU of pods while there is no uplink, bytes: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// What was found at the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Links, addresses, permanent neighbours, and the routes marked as ours.
    pub(super) survey: Arc<Survey>,
    pub(super) uplinks: Vec<Uplink>,
}

/// What was last found and told.
#[derive(Default)]
pub(super) struct NodeState {
    pub(super) seen: Seen,
    /// The node's record as last written, without its generation.
    pub(super) told: Option<Record>,
    /// The addresses that no binding is left beside of; absent until the first look.
    pub(super) bound_to: Option<BTreeSet<IpAddr>>,
    /// Ports that the programs choose from or guard.
    pub(super) ranges: Ranges,
    pub(super) generation: u32,
    /// Whether netlink announces what happens inside pods.
    pub(super) pods_announce: bool,
    /// Which pods a full pass last looked into.
    pub(super) turn: u32,
}

impl Seen {
    /// What of it the tables tell.
    pub(super) fn surroundings(&self) -> Surroundings {
        let addresses = self.survey.addresses().iter().map(|address| address.net.addr()).collect();
        let broadcast = |address: &Address| match address.net {
            // A point-to-point link (RFC 3021) has none.
            IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
            _ => None,
        };
        let broadcasts = self.survey.addresses().iter().filter_map(broadcast).collect();
        let others = self.survey.links().filter(|found| found.link.mac != GATEWAY_MAC.0);
        let newest_link = others.map(|found| found.link.index).max().unwrap_or_default();
        Surroundings { uplinks: self.uplinks.clone(), addresses, broadcasts, newest_link }
    }

    /// Name of a link; `#INDEX` if it is not known.
    pub(super) fn name_of(&self, ifindex: u32) -> String {
        self.survey.link(ifindex).map_or_else(|| format!("#{ifindex}"), |found| found.link.name.clone())
    }

    /// The address of the node that a block holds, in words.
    pub(super) fn conflict(&self, block: IpNet) -> Option<String> {
        let inside = self.survey.addresses().iter().find(|address| block.contains(&address.net.addr()))?;
        Some(format!("{}, an address of {}", inside.net.addr(), self.name_of(inside.ifindex)))
    }
}

impl Agent {
    /// MTU of a pod's interface, bytes: the pod's own, else its network's.
    pub(super) fn mtu(&self, pod: &Pod, interface: &Interface) -> u32 {
        let network = || lock(&self.registry).network(&interface.network).ok()?.mtu;
        self.mtu_or(pod.mtu.or_else(network))
    }

    /// An MTU if it is given, else the configured, else the smallest of the uplinks, bytes.
    pub(super) fn mtu_or(&self, given: Option<u32>) -> u32 {
        let uplinks = || lock(&self.node).seen.uplinks.iter().map(|uplink| uplink.mtu).min();
        given.or(self.config().mtu).or_else(uplinks).unwrap_or(DEFAULT_MTU)
    }

    /// Looks at what netlink tells of the node. Returns whether anything has changed since the last look.
    pub(super) async fn look(&self) -> Result<bool, AgentError> {
        let earlier = self.look_again().await?;
        Ok(earlier != lock(&self.node).seen)
    }

    /// The same; returns what was found before.
    pub(super) async fn look_again(&self) -> Result<Seen, AgentError> {
        let survey = Arc::new(self.netlink.survey().await?);
        let mut uplinks = self.find_uplinks(&survey).await?;
        let mut node = lock(&self.node);
        if uplinks.is_empty() {
            // A default route that comes and goes must not stop live flows: the last uplinks stay while they exist.
            uplinks = node.seen.uplinks.clone();
            uplinks.retain(|uplink| survey.link(uplink.ifindex).is_some());
        }
        Ok(std::mem::replace(&mut node.seen, Seen { survey, uplinks }))
    }

    async fn find_uplinks(&self, survey: &Survey) -> Result<Vec<Uplink>, AgentError> {
        let config = self.config();
        let links: Vec<&Link> = survey.links().map(|found| &found.link).collect();
        let found: Vec<&Link> = if config.uplinks.is_empty() {
            let mut indexes = Vec::new();
            for family in families(&self.all_networks()) {
                indexes.extend(self.netlink.default_route_interface(family == Family::V6).await?);
            }
            links.into_iter().filter(|link| indexes.contains(&link.index)).collect()
        } else {
            let by_name = |name: &String| links.iter().copied().find(|link| link.name == *name);
            config.uplinks.iter().filter_map(by_name).collect()
        };
        let uplink = |link: &Link| Uplink {
            name: link.name.clone(),
            ifindex: link.index,
            mtu: link.mtu,
            addresses: source_addresses(survey.addresses(), link.index),
        };
        Ok(found.into_iter().map(uplink).collect())
    }

    /// Whether the node has what it needs before anything is changed on it.
    pub(super) fn check_node(&self) -> Result<(), AgentError> {
        let config = self.config();
        let node = lock(&self.node);
        let seen = &node.seen;
        let lacking: Vec<_> =
            config.uplinks.iter().filter(|name| !seen.uplinks.iter().any(|up| up.name == **name)).collect();
        if let Some(name) = lacking.first() {
            let there: Vec<_> = seen.survey.links().map(|found| found.link.name.as_str()).collect();
            return Err(AgentError::unfit(
                format!("there is no interface '{name}' to be an uplink"),
                format!("correct --uplink or uplinks; there are {}", there.join(", ")),
            ));
        }
        if seen.uplinks.is_empty() {
            return Err(AgentError::unfit(
                "no uplink: there is no default route to tell which interface leads outside",
                "name one with --uplink DEV or uplinks = [\"DEV\"]",
            ));
        }
        for block in &config.network.blocks {
            if let Some(conflict) = seen.conflict(*block) {
                return Err(AgentError::unfit(
                    format!("the block {block} holds {conflict}"),
                    "give pods another block with --block or block = \"CIDR\"",
                ));
            }
        }
        Ok(())
    }

    /// Makes the node's part of the kernel state right: the tables that describe the node, the block's route, the
    /// reserved ports, and programs on the uplinks. What fails does not stop the rest.
    pub(super) async fn ensure_node(&self) -> Seen {
        let _one = self.node_changes.lock().await;
        let config = self.config();
        let seen = lock(&self.node).seen.clone();
        // The tables first: no program may run with an uplink it does not know.
        self.note("tables", &self.write_tables(&seen).await);
        self.note("block route", &self.ensure_block_routes(&seen).await);
        self.note("reserved ports", &self.reserve_ports().await);
        for network in self.all_networks() {
            let conflict = network.blocks.iter().find_map(|block| Some((block, seen.conflict(*block)?)));
            let outcome =
                conflict.map_or(Ok(()), |(block, conflict)| Err(format!("{block} holds {conflict}")));
            self.note(&problem_of(&network.name), &outcome);
        }
        for name in config.uplinks.iter().filter(|name| !seen.uplinks.iter().any(|up| up.name == **name)) {
            self.note(&format!("uplink {name}"), &Err("there is no such interface; see 'ip link'"));
        }
        let is_uplink = |name: &str| {
            config.uplinks.iter().any(|own| own == name) || seen.uplinks.iter().any(|up| up.name == name)
        };
        lock(&self.problems)
            .forget(|object| object.strip_prefix("uplink ").is_some_and(|name| !is_uplink(name)));
        let families = families(&self.all_networks());
        for uplink in &seen.uplinks {
            let outcome = match self.ensure_uplink(uplink, &families).await {
                Ok(()) => families.iter().try_for_each(|family| has_source(uplink, *family)),
                Err(error) => Err(error.to_string()),
            };
            self.note(&format!("uplink {}", uplink.name), &outcome);
        }
        self.note("snat.addresses", &self.check_pool(&seen));
        let is_v6 = |entry: &Entry| entry.pod.addresses().any(|address| address.is_ipv6());
        let has_v6 = lock(&self.registry).pods().any(is_v6);
        self.note(forwarding::ALL, &forwarding::check(has_v6).await);
        seen
    }

    /// Tells which addresses of the pool are not used.
    fn check_pool(&self, seen: &Seen) -> Result<(), String> {
        let unused = compile::unused_sources(&seen.surroundings(), &self.config().snat_addresses);
        let words: Vec<_> =
            unused.iter().map(|(address, why)| format!("{address} is not used: {why}")).collect();
        if words.is_empty() { Ok(()) } else { Err(words.join("; ")) }
    }

    async fn ensure_uplink(&self, uplink: &Uplink, families: &[Family]) -> Result<(), AgentError> {
        if families.contains(&Family::V6) {
            advertisements::keep(&self.state, uplink).await?;
        }
        self.attach_uplink(uplink).await
    }

    /// All networks.
    pub(super) fn all_networks(&self) -> Vec<Network> {
        lock(&self.registry).networks()
    }

    async fn attach_uplink(&self, uplink: &Uplink) -> Result<(), AgentError> {
        if self.attach == AttachKind::Clsact {
            let name = uplink.name.clone();
            self.state
                .record(|host| {
                    if !host.filtered.contains(&name) {
                        host.filtered.push(name);
                    }
                })
                .await?;
        }
        let (name, ifindex) = (uplink.name.clone(), uplink.ifindex);
        Ok(self.on_datapath(move |datapath| datapath.attach_uplink(&name, ifindex)).await?)
    }

    /// Writes ROUTES and NODE, whatever is in them: somebody else may have changed them.
    async fn write_tables(&self, seen: &Seen) -> Result<(), AgentError> {
        let (config, surroundings) = (self.config(), seen.surroundings());
        let record = {
            let mut node = lock(&self.node);
            node.ranges.choose(&config.snat_ports);
            let retired = node.ranges.retired.as_ref();
            let mut record =
                compile::node(&surroundings, &config.snat_ports, retired, &config.snat_addresses);
            if node.told.as_ref() != Some(&record) {
                // Seconds, so that it counts up over restarts as well.
                node.generation = (node.generation + 1).max(super::view::unix_ms() as u32 / 1000);
                node.told = Some(record);
            }
            record.generation = node.generation;
            record
        };
        let routes = compile::routes(&self.all_networks(), &surroundings);
        let write = move |datapath: &mut crate::datapath::Datapath| {
            datapath.set_routes(&routes)?;
            datapath.set_node(&record)
        };
        Ok(self.on_datapath(write).await?)
    }

    /// Addresses of the blocks without a pod get an answer instead of leaving by the default route. Routes of earlier
    /// blocks go.
    async fn ensure_block_routes(&self, seen: &Seen) -> Result<(), AgentError> {
        let blocks: Vec<IpNet> = self.all_networks().into_iter().flat_map(|network| network.blocks).collect();
        let earlier = self.state.host().await.routes;
        self.state
            .record(|host| host.routes.extend(blocks.iter().filter(|block| !earlier.contains(block))))
            .await?;
        for block in &blocks {
            let route = block_route(*block);
            if !seen.survey.has_route(&route) {
                self.netlink.replace_route(&route).await?;
            }
        }
        for old in earlier.into_iter().filter(|old| !blocks.contains(old)) {
            self.netlink.delete_route(&block_route(old)).await?;
            self.state.record(|host| host.routes.retain(|recorded| *recorded != old)).await?;
        }
        Ok(())
    }
}

/// The block's own route. `unreachable`, not `blackhole`: who talks to a pod that is gone is told so.
pub(super) fn block_route(prefix: IpNet) -> Route {
    Route {
        prefix,
        kind: RouteKind::Unreachable,
        via: None,
        ifindex: None,
        onlink: false,
        mtu: None,
        table: None,
    }
}

/// What a network is called among the problems.
pub(super) fn problem_of(network: &str) -> String {
    format!("network {network}")
}

/// The families that any network has, IPv4 first.
fn families(networks: &[Network]) -> Vec<Family> {
    let has = |family: &Family| networks.iter().any(|network| network.has(*family));
    [Family::V4, Family::V6].into_iter().filter(has).collect()
}

/// Whether there is an address that flows of a family leaving here can be translated to.
fn has_source(uplink: &Uplink, family: Family) -> Result<(), String> {
    if uplink.addresses.iter().any(|address| Family::of(*address) == family) {
        return Ok(());
    }
    Err(match family {
        Family::V4 => "it has no IPv4 address: pods cannot reach outside by it".to_owned(),
        Family::V6 => "it has no IPv6 address: pods cannot reach outside by it over IPv6".to_owned(),
    })
}

/// What flows leaving by an interface may be translated to where the kernel's FIB names nothing, what is rather used
/// first: IPv4 link-local ones last; of IPv6 those that last, and global ones before those of a site. Never IPv6
/// link-local ones: nobody behind a router could answer.
fn source_addresses(addresses: &[Address], ifindex: u32) -> Vec<IpAddr> {
    let usable = |address: &&Address| match address.net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !address.tentative && !v6.is_unicast_link_local() && !v6.is_loopback(),
    };
    let mut own: Vec<_> =
        addresses.iter().filter(|address| address.ifindex == ifindex).filter(usable).collect();
    own.sort_by_key(|address| match address.net.addr() {
        IpAddr::V4(v4) => (v4.is_link_local(), address.fading),
        IpAddr::V6(v6) => (address.fading, v6.is_unique_local()),
    });
    own.into_iter().map(|address| address.net.addr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, net: &str) -> Address {
        Address { ifindex, net: net.parse().unwrap(), fading: false, tentative: false }
    }

    #[test]
    fn a_global_address_before_a_link_local_one() {
        let addresses = [
            address(2, "169.254.7.7/16"),
            address(1, "10.0.0.1/8"),
            address(2, "2001:db8::1/64"),
            address(2, "192.0.2.5/24"),
        ];
        let of = |addresses: &[Address], index| {
            let found = source_addresses(addresses, index);
            found.iter().filter(|address| address.is_ipv4()).map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&addresses, 2), ["192.0.2.5", "169.254.7.7"]);
        assert_eq!(of(&addresses[..1], 2), ["169.254.7.7"]);
        assert_eq!(of(&addresses, 9), [""; 0]);
    }

    #[test]
    fn an_ipv6_source_lasts_and_can_be_answered() {
        let source = |addresses: &[Address]| {
            let found = source_addresses(addresses, 2);
            found.into_iter().find(IpAddr::is_ipv6).map(|source| source.to_string())
        };
        let link_local = address(2, "fe80::1/64");
        let tentative = Address { tentative: true, ..address(2, "2001:db8::1/64") };
        assert_eq!(
            source(&[link_local, tentative, address(1, "2001:db8::9/64"), address(2, "10.0.0.1/8")]),
            None
        );
        let private = Address { fading: true, ..address(2, "2001:db8::2/64") };
        assert_eq!(source(&[link_local, private]).as_deref(), Some("2001:db8::2"), "better than none");
        let site = address(2, "fd00::2/64");
        assert_eq!(source(&[private, site]).as_deref(), Some("fd00::2"));
        assert_eq!(source(&[private, site, address(2, "2001:db8::3/64")]).as_deref(), Some("2001:db8::3"));
    }
}
