//! The node as it is now: its links, addresses and routes, its uplinks, and what the programs are told of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;
use netpath_common::abi::{
    MAX_ROUTES, NODE_FLAG_CLUSTER, NODE_FLAG_FIREWALL, NODE_FLAG_PUBLISHES, Node as Record,
};

use super::{
    Agent, AgentError, advertisements, forwarding, lock, overlay, ranges::Ranges, registry::Entry,
    sweep::Carried, uplinks,
};
use crate::{
    compile::{self, Places, Protection, Surroundings, Uplink},
    config::Firewall,
    datapath::Datapath,
    model::{Family, GATEWAY_MAC, Interface, Network, Pod},
    net::{Address, Route, RouteKind, Survey},
};

/// Routes that are left free for addresses that the node may get.
const SPARE_ROUTES: usize = 512;

/// MTU of pods while there is no uplink, bytes: Ethernet's.
pub(super) const DEFAULT_MTU: u32 = 1500;

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
    /// The interface that each configured uplink was last seen as, by its name; without configured ones, that each family's
    /// default route last led by.
    pub(super) leads: BTreeMap<String, u32>,
    /// Where the record as last written has its uplinks, by whichever agent.
    pub(super) places: Places,
    /// What pods were last refused: no flow of before is left.
    pub(super) protection: Protection,
    /// The node's record as last written, without its generation.
    pub(super) told: Option<Record>,
    /// The addresses that bindings may have by it.
    pub(super) sources: BTreeSet<IpAddr>,
    /// The addresses that no flow is left beside of; absent until the first look.
    pub(super) bound_to: Option<Carried>,
    /// Since when addresses of bindings are waited for to come back.
    pub(super) awaited_since: Option<Instant>,
    /// Ports that the programs choose from or guard.
    pub(super) ranges: Ranges,
    pub(super) generation: u32,
    /// Whether routes were made right since the last look that was followed by a pass.
    pub(super) repaired: bool,
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
        let network = lock(&self.registry).network(&interface.network).ok();
        self.mtu_or(pod.mtu, network.as_ref())
    }

    /// An MTU if it is given, else the network's, else the configured, else the smallest of the uplinks, or what tunnels leave
    /// of that, bytes.
    pub(super) fn mtu_or(&self, given: Option<u32>, network: Option<&Network>) -> u32 {
        let tunnels = network.is_some_and(|network| self.tunnels(network));
        let usual = || match &lock(&self.node).seen {
            seen if tunnels => overlay::mtu_of_pods(seen),
            seen => seen.uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(DEFAULT_MTU),
        };
        given.or(network.and_then(|one| one.mtu)).or(self.config().mtu).unwrap_or_else(usual)
    }

    /// Looks at what netlink tells of the node. Returns whether anything has changed since the last look.
    pub(super) async fn look(&self) -> Result<bool, AgentError> {
        let earlier = self.look_again().await?;
        Ok(earlier != lock(&self.node).seen)
    }

    /// The same; returns what was found before.
    pub(super) async fn look_again(&self) -> Result<Seen, AgentError> {
        let survey = Arc::new(self.netlink.survey().await?);
        let wanted = self.wanted_uplinks(&survey).await?;
        let mut node = lock(&self.node);
        let (uplinks, leads) = uplinks::choose(wanted, (&node.leads, &node.places), &survey);
        node.leads = leads;
        Ok(std::mem::replace(&mut node.seen, Seen { survey, uplinks }))
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
        let mut seen = lock(&self.node).seen.clone();
        if self.tunnelling().is_none() && self.device(&seen).is_some() {
            // Nobody is sent to the device when it goes.
            self.ensure_ways(&seen).await;
        }
        let another = self.ensure_tunnel(&seen).await;
        self.note("device for tunnels", &another.as_ref().map(drop));
        if another.is_ok_and(|another| another) {
            let looked = self.look_again().await;
            self.note("netlink", &looked.map(drop));
            seen = lock(&self.node).seen.clone();
        }
        // Before programs are attached: none may run with an uplink it does not know.
        self.ensure_ways(&seen).await;
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
        self.note("published ports", &self.check_published(&seen));
        let is_v6 = |entry: &Entry| entry.pod.addresses().any(|address| address.is_ipv6());
        let has_v6 = lock(&self.registry).pods().any(is_v6);
        self.note(forwarding::ALL, &forwarding::check(has_v6).await);
        self.note(forwarding::FIREWALL, &self.check_firewall(&seen, has_v6).await);
        seen
    }

    /// Tells where the node's own forwarding stands in the way of published ports.
    async fn check_firewall(&self, seen: &Seen, has_v6: bool) -> Result<(), String> {
        if self.config().firewall == Firewall::None || !lock(&self.registry).publishes() {
            return Ok(());
        }
        let is_v4 = |entry: &Entry| entry.pod.addresses().any(|address| address.is_ipv4());
        let has_v4 = lock(&self.registry).pods().any(is_v4);
        let uplinks = seen.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        forwarding::check_uplinks(uplinks, [has_v4, has_v6]).await
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
        let (name, ifindex, denying) = (uplink.name.clone(), uplink.ifindex, !lock(&self.denied).is_empty());
        let attach = move |datapath: &mut Datapath| {
            datapath.attach_uplink(&name, ifindex)?;
            datapath.attach_deny(&name, ifindex, denying)
        };
        Ok(self.on_datapath(attach).await?)
    }

    /// All networks.
    pub(super) fn all_networks(&self) -> Vec<Network> {
        lock(&self.registry).networks()
    }

    /// Writes ROUTES and NODE, whatever is in them: somebody else may have changed them.
    pub(super) async fn write_tables(&self, seen: &Seen) -> Result<(), AgentError> {
        let (config, surroundings) = (self.config(), seen.surroundings());
        let publishes = lock(&self.registry).publishes();
        let tunnel = self.tunnel(seen).map_or(0, |device| device.link.index);
        let tunnel_port = self.clustered().map(|cluster| cluster.vxlan_port);
        let (record, generation) = {
            let mut node = lock(&self.node);
            node.ranges.choose(&config.snat_ports);
            let retired = node.ranges.retired.as_ref();
            let mut record =
                compile::node(&surroundings, &config.snat_ports, retired, &config.snat_addresses);
            record.flags |= if publishes { NODE_FLAG_PUBLISHES } else { 0 };
            record.flags |= if config.firewall == Firewall::Forward { NODE_FLAG_FIREWALL } else { 0 };
            record.flags |= if self.peers().pools.is_empty() { 0 } else { NODE_FLAG_CLUSTER };
            record.tunnel = tunnel;
            if let Some(port) = tunnel_port {
                record.tunnel_port = port.to_be();
                record.tunnel_mtu = u16::try_from(overlay::room(seen).v4).unwrap_or(u16::MAX);
            }
            if node.told.as_ref() != Some(&record) {
                // Seconds, so that it counts up over restarts as well.
                node.generation = (node.generation + 1).max(super::view::unix_ms() as u32 / 1000);
            }
            (record, node.generation)
        };
        let routes = self.all_routes(&self.all_networks(), seen);
        // Whatever is wrong with one of them, the other does not wait for it.
        let written = self.on_datapath(move |datapath| datapath.set_routes(&routes)).await;
        let numbered = Record { generation, ..record };
        self.on_datapath(move |datapath| datapath.set_node(&numbered)).await?;
        {
            let mut node = lock(&self.node);
            (node.told, node.places) = (Some(record), compile::places(&record));
            node.sources = compile::sources(&surroundings, &config.snat_addresses);
        }
        let protected = self.protect(&surroundings).await;
        Ok(written?).and(protected)
    }

    /// Whether ROUTES has room for networks, and for addresses that the node may get.
    pub(super) fn check_room(&self, networks: &[Network]) -> Result<(), String> {
        let most = MAX_ROUTES as usize - SPARE_ROUTES;
        let seen = lock(&self.node).seen.clone();
        match self.all_routes(networks, &seen).len() {
            count if count > most => Err(format!(
                "all networks together would need {count} routes, and the programs have room for {most}: give fewer or larger \
                 no-masquerade prefixes"
            )),
            _ => Ok(()),
        }
    }

    /// Addresses of the blocks, and of the cluster's pools, without a pod get an answer instead of leaving by the default route. Routes of earlier
    /// blocks go.
    pub(super) async fn ensure_block_routes(&self, seen: &Seen) -> Result<(), AgentError> {
        let mut blocks: Vec<IpNet> =
            self.all_networks().into_iter().flat_map(|network| network.blocks).collect();
        blocks.extend(
            self.peers().pools.iter().filter(|pool| !blocks.contains(pool)).copied().collect::<Vec<_>>(),
        );
        let earlier = self.state.host().await.routes;
        self.state
            .record(|host| host.routes.extend(blocks.iter().filter(|block| !earlier.contains(block))))
            .await?;
        for block in &blocks {
            let route = block_route(*block);
            if !seen.survey.has_route(&route) {
                lock(&self.node).repaired = true;
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
        source: None,
        mtu: None,
        table: None,
    }
}

/// What a network is called among the problems.
pub(super) fn problem_of(network: &str) -> String {
    format!("network {network}")
}

/// The families that any network has, IPv4 first.
pub(super) fn families(networks: &[Network]) -> Vec<Family> {
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
