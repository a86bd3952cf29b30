//! The ways to other nodes of the cluster: which of them this node knows, its kernel routes to their blocks, what the tables
//! tell of them. What was last known holds on while etcd does not answer, over restarts as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use netpath_common::abi;
use tokio::time::sleep;

use super::{Agent, AgentError, blocks::GIVING, cluster::Membership, lock, node::Seen, overlay};
use crate::{
    api::types::ClusterNode,
    compile::{self, Direct, Tunnel, Ways},
    model::{Backend, Family, GATEWAY_V6, Network, Node, Peers},
    net::{Route, RouteKind, Survey},
};

/// Changes of a cluster come in flocks: what follows the first within this is done with it.
const GATHER: Duration = Duration::from_millis(100);

impl Agent {
    /// Keeps the ways to other nodes up with what is seen of them, until the agent ends.
    pub(super) async fn follow_loop(self: Arc<Self>) {
        let Some(member) = &self.membership else { return };
        let mut ending = self.ending.subscribe();
        loop {
            let news = async {
                member.changed.notified().await;
                sleep(GATHER).await;
            };
            tokio::select! {
                () = news => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
            // Not left half done.
            self.note("other nodes", &self.follow(member).await);
        }
    }

    async fn follow(self: &Arc<Self>, member: &Membership) -> Result<(), AgentError> {
        let mut now = lock(&member.view).peers(&member.holder);
        // What another has claimed of it: two routes to one block would take turns.
        let held = self.held_blocks();
        for peer in now.iter_mut().flat_map(|now| &mut now.nodes) {
            peer.blocks.retain(|block| !held.contains(block));
        }
        // Who is heard of again is not asked for first.
        self.set_lost_nodes(member, None).await;
        let outcome = match now.filter(|now| *now != *self.peers()) {
            Some(now) => self.set_peers(member, now).await,
            None => Ok(()),
        };
        self.follow_networks(member).await;
        if self.all_networks().iter().any(|network| network.ending) {
            self.note(GIVING, &self.give_back(member).await);
        }
        outcome
    }

    /// Goes over to other peers, unless the node has left: then there are none any more.
    pub(super) async fn set_peers(&self, member: &Membership, peers: Peers) -> Result<(), AgentError> {
        let _one = self.node_changes.lock().await;
        let peers = if member.has_left() { Peers::default() } else { peers };
        let saved = self.state.save_peers(&peers).await;
        *lock(&member.peers) = Arc::new(peers);
        let seen = lock(&self.node).seen.clone();
        self.ensure_ways(&seen).await;
        saved
    }

    /// The other nodes, as last known.
    pub(super) fn peers(&self) -> Arc<Peers> {
        self.membership.as_ref().map(|member| Arc::clone(&lock(&member.peers))).unwrap_or_default()
    }

    /// How their blocks are reached.
    pub(super) fn ways(&self, seen: &Seen) -> Ways {
        self.ways_without(seen, &self.lost_nodes())
    }

    fn lost_nodes(&self) -> BTreeSet<String> {
        self.membership.as_ref().map(|member| lock(&member.lost).clone()).unwrap_or_default()
    }

    /// The same if these nodes, by uid, were lost.
    pub(super) fn ways_without(&self, seen: &Seen, lost: &BTreeSet<String>) -> Ways {
        let backend = self.clustered().map_or(Backend::Direct, |cluster| cluster.backend);
        self.with_learned(compile::ways(&self.peers(), &links(seen), lost, backend))
    }

    /// The nodes of the cluster, by name, as last heard of. A way that is told has been made, or the status says why not.
    ///
    /// # Errors
    /// [`AgentError::NoCluster`].
    pub async fn nodes(&self) -> Result<Vec<ClusterNode>, AgentError> {
        let member = self.membership()?;
        let _none = self.node_changes.lock().await;
        let seen = lock(&self.node).seen.clone();
        let ways = self.ways(&seen);
        let direct = ways.direct.into_iter().map(|way| (way.block, Backend::Direct.name()));
        let device = self.tunnel(&seen);
        let tunnels = ways.tunnels.into_iter().filter(|_| device.is_some());
        let tunnels = tunnels.map(|way| (way.block, Backend::Vxlan.name()));
        let learned = ways.learned.into_iter().map(|block| (block, "bgp"));
        let by: BTreeMap<IpNet, &str> = direct.chain(tunnels).chain(learned).collect();
        let view = lock(&member.view);
        let row = |(node, blocks, alive): (&Node, Vec<IpNet>, bool)| ClusterNode {
            name: node.holder.node.clone(),
            addresses: node.addresses.clone(),
            backend: in_words(blocks.iter().filter_map(|block| by.get(block).copied())),
            blocks,
            state: match (alive, node.drained) {
                (false, _) => "away",
                (true, true) => "drained",
                (true, false) => "ready",
            }
            .to_owned(),
            own: node.holder.uid == member.holder.uid,
        };
        Ok(view.nodes().map(row).collect())
    }

    /// All that ROUTES holds.
    pub(super) fn all_routes(&self, networks: &[Network], seen: &Seen) -> Vec<(u32, IpNet, abi::Route)> {
        let (surroundings, ways) = (seen.surroundings(), self.ways(seen));
        let mut routes = compile::routes(networks, &surroundings);
        let vni = self.tunnelling().map_or(0, |cluster| cluster.vni);
        routes.extend(compile::peer_routes(
            networks,
            &surroundings,
            &self.peers(),
            (&links(seen), vni),
            &ways,
        ));
        routes
    }

    /// Makes the kernel's routes to blocks and the tables right: no packet to another node's pod leaves by a default route. Held
    /// by who calls it: `node_changes`.
    pub(super) async fn ensure_ways(&self, seen: &Seen) {
        self.note("routes to nodes", &self.ensure_peer_routes(seen).await);
        self.note("block route", &self.ensure_block_routes(seen).await);
        self.note("tables", &self.write_tables(seen).await);
        let unreached = self.ways(seen).unreached;
        let words: Vec<_> = unreached.iter().map(|(node, block)| format!("{block} of node {node}")).collect();
        let outcome = match words.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{}: none of the node's addresses can be sent to (cluster.backend), and its pods cannot be reached; 'netpath \
                 node ls' shows the addresses",
                words.join(", ")
            )),
        };
        self.note("nodes without a way", &outcome);
        self.note("settings of nodes", &self.check_overlays(seen));
        let conflict = self.peers().pools.iter().find_map(|pool| Some((*pool, seen.conflict(*pool)?)));
        let outcome = conflict.map_or(Ok(()), |(pool, own)| Err(format!("{pool} holds {own}")));
        self.note("addresses in the pools", &outcome);
    }

    /// Whether all nodes mean to reach each other in the same way.
    fn check_overlays(&self, seen: &Seen) -> Result<(), String> {
        let Some(own) = self.clustered().map(|cluster| cluster.overlay()) else { return Ok(()) };
        let (peers, links) = (self.peers(), links(seen));
        let (choices, lost) = (peers.choices(), self.lost_nodes());
        let is_near = |address: &IpAddr| links.iter().any(|(_, subnet)| subnet.contains(address));
        let there = peers.nodes.iter().filter(|peer| !lost.contains(&peer.holder.uid));
        let mut others = there.filter_map(|peer| {
            let near = peer.addresses.iter().any(is_near);
            Some((&peer.holder.node, own.differs(&peer.overlay?, near, &choices)?))
        });
        let Some((node, difference)) = others.next() else { return Ok(()) };
        let more = match others.count() {
            0 => String::new(),
            1 => "; another node differs too".to_owned(),
            count => format!("; {count} more nodes differ too"),
        };
        Err(format!(
            "node {node} {difference}: pods here and there may not reach each other; write the same on all nodes, and restart \
             agents{more}"
        ))
    }

    /// Routes to the blocks of other nodes. Ours to earlier ones go. One that fails does not stop the others.
    async fn ensure_peer_routes(&self, seen: &Seen) -> Result<(), AgentError> {
        let (ways, tunnel) = (self.ways(seen), self.tunnel(seen));
        let direct = ways.direct.iter().map(|way| (way.block, direct_route(way)));
        let tunnelled = tunnel.iter().flat_map(|device| {
            ways.tunnels.iter().map(|way| (way.block, tunnel_route(way, device.link.index, seen)))
        });
        let wanted: BTreeMap<_, _> = direct.chain(tunnelled).collect();
        let mut within = self.state.host().await.routes;
        within.extend(&self.peers().pools);
        let present: BTreeMap<_, _> =
            routes_to_nodes(&seen.survey, &within).map(|route| (route.prefix, route)).collect();
        let mut outcome = Ok(());
        for (block, route) in &wanted {
            if present.get(block).is_none_or(|there| *there != route) {
                lock(&self.node).repaired = true;
                outcome = outcome.and(self.netlink.replace_route(route).await);
            }
        }
        for (_, old) in present.iter().filter(|(block, _)| !wanted.contains_key(block)) {
            outcome = outcome.and(self.netlink.delete_route(old).await);
        }
        Ok(outcome?)
    }
}

/// How a node is reached: networks may differ.
fn in_words<'a>(backends: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: BTreeSet<_> = backends.collect();
    Some(Vec::from_iter(all).join(",")).filter(|words| !words.is_empty())
}

/// The subnets of the uplinks, each with the uplink's index.
pub(super) fn links(seen: &Seen) -> Vec<(u32, IpNet)> {
    let is_uplink = |ifindex: u32| seen.uplinks.iter().any(|uplink| uplink.ifindex == ifindex);
    let own = seen.survey.addresses().iter().filter(|address| is_uplink(address.ifindex));
    own.map(|address| (address.ifindex, address.net)).collect()
}

fn direct_route(way: &Direct) -> Route {
    Route {
        prefix: way.block,
        kind: RouteKind::Unicast,
        via: Some(way.via),
        ifindex: Some(way.ifindex),
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}

/// Nobody is asked for its next hop: the program on the device knows the tunnel. It shows the other end where it can.
fn tunnel_route(way: &Tunnel, ifindex: u32, seen: &Seen) -> Route {
    let room = overlay::room(seen);
    let via = match way.remote {
        IpAddr::V4(remote) if way.block.addr().is_ipv6() => remote.to_ipv6_mapped().into(),
        // The kernel refuses an IPv6 next hop that a route by another device leads to (`ip6_route_check_nh_onlink`).
        IpAddr::V6(_) => GATEWAY_V6.into(),
        remote => remote,
    };
    let mut own = seen.uplinks.iter().flat_map(|uplink| &uplink.addresses);
    Route {
        prefix: way.block,
        kind: RouteKind::Unicast,
        via: Some(via),
        ifindex: Some(ifindex),
        onlink: true,
        // The device has none.
        source: own.find(|own| Family::of(**own) == Family::of(way.block.addr())).copied(),
        mtu: way.remote.is_ipv6().then_some(room.v6),
        table: None,
    }
}

/// Routes marked as ours that lead to other nodes: those of pods have no next hop. Other instances' are marked as well: only
/// those to a prefix `within` some.
pub(super) fn routes_to_nodes<'a>(
    survey: &'a Survey,
    within: &'a [IpNet],
) -> impl Iterator<Item = &'a Route> {
    let ours = |route: &&Route| route.via.is_some() && within.iter().any(|one| one.contains(&route.prefix));
    survey.routes().filter(ours)
}
