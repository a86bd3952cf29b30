//! Nodes that are gone. That etcd has not heard of one says little: what fails may be its way to etcd alone, or etcd's leases
//! after an outage, and then its pods still answer. Its routes go only when the link tells as well that nobody has its addresses; or,
//! of a node on no link of ours, when it has ceased to answer ([`far`]).

mod far;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tokio::{net::UdpSocket, time};

use self::far::Far;
use super::{Agent, AgentError, cluster::Membership, lock, node::Seen, peers::links};
use crate::{
    model::{Peer, Peers},
    store::cluster::ClusterError,
};

/// Time between looks at the nodes that etcd has not heard of.
const LOOK: Duration = Duration::from_secs(5);
/// Neighbour discovery asks three times, a second apart, before the kernel tells that nobody answers (RFC 4861, 10).
const ANSWER: Duration = Duration::from_secs(4);
/// The discard protocol's port (RFC 863): nobody is bothered by what comes there.
const DISCARD: u16 = 9;

impl Agent {
    /// Looks after nodes that are away, until the agent ends.
    pub(super) async fn lost_loop(self: Arc<Self>) {
        let Some(member) = &self.membership else { return };
        let mut ending = self.ending.subscribe();
        let mut since = BTreeMap::new();
        let mut far = Far::remembering(&lock(&member.lost));
        loop {
            let look = async {
                time::sleep(LOOK).await;
                self.unanswering(member, &mut far).await
            };
            let lost = tokio::select! {
                lost = look => lost,
                _ = ending.wait_for(|ending| *ending) => return,
            };
            let lost = self.set_lost_nodes(member, Some(lost)).await;
            since.retain(|uid, _| lost.contains(uid));
            for uid in lost {
                since.entry(uid).or_insert_with(Instant::now);
            }
            self.note("blocks of lost nodes", &self.release_lost(member, &since).await);
        }
    }

    /// The nodes, by uid, that are away and do not answer either.
    async fn unanswering(&self, member: &Membership, far: &mut Far) -> BTreeSet<String> {
        let away = member.away();
        let seen = lock(&self.node).seen.clone();
        let links = links(&seen);
        let on_link = |address: &IpAddr| {
            links.iter().find(|(_, subnet)| subnet.contains(address)).map(|(ifindex, _)| (*ifindex, *address))
        };
        let peers = self.peers();
        let is_near = |peer: &Peer| peer.addresses.iter().any(|address| on_link(address).is_some());
        let (near, others): (Vec<_>, Vec<_>) = peers.nodes.iter().partition(|peer| is_near(peer));
        let suspects = near.into_iter().filter(|peer| away.contains(&peer.holder.uid));
        let asked = suspects.map(async |peer: &Peer| {
            let near = peer.addresses.iter().filter_map(on_link);
            let answers = join_all(near.map(|(ifindex, address)| self.is_absent(ifindex, address))).await;
            answers.into_iter().all(|absent| absent).then(|| peer.holder.uid.clone())
        });
        let others: Vec<_> = others.into_iter().map(|peer| (peer, away.contains(&peer.holder.uid))).collect();
        let (lost, ()) = tokio::join!(join_all(asked), self.look_far(&others, far));
        let silent: Vec<_> = far.silent().collect();
        let advertised = if silent.is_empty() { BTreeSet::new() } else { self.advertised(&peers, &seen) };
        let silent = silent.into_iter().filter(|uid| !advertised.contains(uid.as_str()));
        lost.into_iter().flatten().chain(silent.cloned()).collect()
    }

    /// The nodes, by uid, that BIRD has a route to: it withdraws that itself when nobody advertises it any more.
    fn advertised<'a>(&self, peers: &'a Peers, seen: &Seen) -> BTreeSet<&'a str> {
        let learned: HashSet<_> = self.ways_without(seen, &BTreeSet::new()).learned.into_iter().collect();
        let advertised = |peer: &&Peer| peer.blocks.iter().any(|block| learned.contains(block));
        peers.nodes.iter().filter(advertised).map(|peer| peer.holder.uid.as_str()).collect()
    }

    /// Asks those of the nodes on no link whose turn it is.
    async fn look_far(&self, nodes: &[(&Peer, bool)], far: &mut Far) {
        let due = far.due(nodes, Instant::now());
        let addresses: Vec<_> = due.iter().flat_map(|(peer, _)| peer.addresses.iter().copied()).collect();
        let (answers, outcome) = far::ask(&self.netns, &addresses).await;
        far.heard(&due, &answers, Instant::now());
        self.note("asking nodes behind routers", &outcome);
    }

    /// Whether the link tells that nobody has an address: whoever has it need not answer, but to be asked for it.
    async fn is_absent(&self, ifindex: u32, address: IpAddr) -> bool {
        let asked = async {
            let socket = self.netns.enter(|| asking(address.is_ipv4())).map_err(io::Error::other)??;
            let socket = UdpSocket::from_std(socket)?;
            socket.connect((address, DISCARD)).await?;
            socket.send(&[0]).await?;
            time::timeout(ANSWER, socket.recv(&mut [0])).await??;
            io::Result::Ok(())
        };
        // Where many packets wait for a neighbour the kernel drops the first of them without a word (`__neigh_event_send`).
        let unheard = asked.await.is_err_and(|error| {
            error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32)
                || error.kind() == io::ErrorKind::TimedOut
        });
        // The same error stands for what its firewall answers ("host prohibited": RFC 1122, 3.2.2.1): the neighbour is known then.
        unheard && self.netlink.is_unanswered(ifindex, address).await.unwrap_or(false)
    }

    /// Withdraws the routes of these nodes, or of those that were lost before, but of those that etcd has heard of meanwhile, and
    /// gives others back theirs. Returns whose are withdrawn.
    pub(super) async fn set_lost_nodes(
        &self,
        member: &Membership,
        lost: Option<BTreeSet<String>>,
    ) -> BTreeSet<String> {
        let _one = self.node_changes.lock().await;
        let away = member.away();
        let lost = &lost.unwrap_or_else(|| lock(&member.lost).clone()) & &away;
        let earlier = std::mem::replace(&mut *lock(&member.lost), lost.clone());
        if earlier != lost {
            tracing::info!(?lost, "nodes that are not heard of, neither by etcd nor by themselves");
            member.lost_unsaved.store(true, Ordering::Relaxed);
            let seen = lock(&self.node).seen.clone();
            self.ensure_ways(&seen).await;
        }
        if member.lost_unsaved.load(Ordering::Relaxed) {
            let saved = self.state.save_lost_nodes(&lost).await;
            member.lost_unsaved.store(saved.is_err(), Ordering::Relaxed);
            self.note("state of lost nodes", &saved);
        }
        lost
    }

    /// Takes out of the cluster who has been lost for longer than is configured. Every node does; one is the first.
    async fn release_lost(
        &self,
        member: &Membership,
        since: &BTreeMap<String, Instant>,
    ) -> Result<(), AgentError> {
        let config = self.config();
        let Some(grace) = config.cluster.as_ref().map(|cluster| cluster.release_after) else { return Ok(()) };
        for peer in &self.peers().nodes {
            // Nor before what the node itself counts on.
            let grace = grace.max(lock(&member.view).release_after(&peer.holder.node));
            if since.get(&peer.holder.uid).is_some_and(|since| since.elapsed() >= grace) {
                match member.cluster.take_out(&peer.holder.node, Some(&peer.holder.uid)).await {
                    Ok(()) => {
                        tracing::info!(node = peer.holder.node, "lost for so long: its blocks are free");
                    }
                    Err(ClusterError::NoNode(_) | ClusterError::Alive(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// A socket that is told of errors on the way (`IP_RECVERR`: else only of those that a peer sends).
fn asking(v4: bool) -> io::Result<std::net::UdpSocket> {
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    if v4 {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
