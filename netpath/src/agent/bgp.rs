//! BGP through BIRD: what BIRD is told follows the configuration and the cluster, and what it has learned of other nodes' blocks
//! becomes a way to them. BIRD runs by itself: without the agent its sessions and routes stay.

mod control;
mod file;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use tokio::time::{Duration, sleep};

use self::control::Session;
pub(super) use self::file::{BirdFiles, remove, unless_absent};
use super::{Agent, AgentError, learned::Learned, lock, node::Seen, peers::links};
use crate::{
    api::types::{BgpConfiguration, BgpSession},
    compile::{self, session_name},
    config::{BgpConfig, BgpPeer},
    model::{self, Bgp, Inbound, Peer},
    store::read_secret,
};

/// Time between looks: what has changed is told to BIRD, and seen of it, within this.
const LOOK: Duration = Duration::from_secs(2);
/// RFC 2385 has no limit, the kernel does (`TCP_MD5SIG_MAXKEYLEN`).
const LONGEST_PASSWORD: usize = 80;
/// What sessions are called among the problems.
const PROBLEM: &str = "bgp session ";

/// What was last told to BIRD, and learned of it.
#[derive(Default)]
pub(super) struct BgpState {
    /// The configuration that BIRD has taken.
    told: tokio::sync::Mutex<Option<String>>,
    pub(super) learned: std::sync::Mutex<Learned>,
}

impl Agent {
    /// Keeps BIRD up with the node, until the agent ends.
    pub(super) async fn bgp_loop(self: std::sync::Arc<Self>) {
        let mut ending = self.ending.subscribe();
        loop {
            // Not left half done. What goes wrong is told by the status.
            let _ = self.tell_bird().await;
            self.learn_ways().await;
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    }

    /// Has BIRD do what it should; what goes wrong is told by the status as well.
    pub(super) async fn tell_bird(&self) -> Result<(), AgentError> {
        let mut told = self.bgp.told.lock().await;
        let outcome = self.tell_bird_of(&mut told).await;
        self.note("bgp", &outcome.as_ref().map(drop));
        // Not known while BIRD is not.
        let sessions = outcome.as_deref().unwrap_or_default();
        for session in sessions {
            let up = if session.state == "Established" { Ok(()) } else { Err(what_is_wrong(session)) };
            self.note(&format!("{PROBLEM}{}", session.address), &up);
        }
        let known = |name: &str| sessions.iter().any(|session| session.address.to_string() == name);
        lock(&self.problems)
            .forget(|object| object.strip_prefix(PROBLEM).is_some_and(|address| !known(address)));
        outcome.map(drop)
    }

    async fn tell_bird_of(&self, told: &mut Option<String>) -> Result<Vec<BgpSession>, AgentError> {
        let config = self.config();
        let files = config.bgp.as_ref().map(BirdFiles::of);
        let earlier = self.state.host().await.bird;
        if let Some(old) = earlier.as_ref().filter(|old| files.as_ref() != Some(old)) {
            remove(old).await?;
            self.state.record(|host| host.bird = None).await?;
            *told = None;
        }
        let (Some(wanted), Some(files)) = (&config.bgp, files) else { return Ok(Vec::new()) };
        if earlier.as_ref() != Some(&files) {
            self.state.record(|host| host.bird = Some(files.clone())).await?;
        }
        let bgp = self.bgp_wanted(wanted)?;
        let text = compile::bird(&bgp, false);
        if files.write(&text).await? || told.as_ref() != Some(&text) {
            *told = None;
            files.control().configure().await?;
            *told = Some(text);
        }
        Ok(described(&bgp, &files.control().sessions().await?))
    }

    /// What BIRD is to do now.
    fn bgp_wanted(&self, wanted: &BgpConfig) -> Result<Bgp, AgentError> {
        let (seen, peers) = (lock(&self.node).seen.clone(), self.peers());
        let near = Near { subnets: links(&seen), own: own_addresses(&seen).collect() };
        let first = near.own.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let router_id: Ipv4Addr = wanted.router_id.or(first).ok_or_else(|| {
            AgentError::unfit("no uplink has an IPv4 address to be the router id", "write bgp.router_id")
        })?;
        let given = wanted.peers.iter().map(|peer| given(peer, &near));
        let mut sessions = given.collect::<Result<Vec<_>, _>>()?;
        let secret = wanted.password_file.as_deref().map(password).transpose()?;
        for session in peers.nodes.iter().filter(|_| wanted.mesh).flat_map(|peer| mesh(peer, wanted, &near)) {
            if !sessions.iter().any(|earlier| earlier.address == session.address) {
                sessions.push(model::BgpSession { password: secret.clone(), ..session });
            }
        }
        let (own, blocks) = self.own_blocks();
        let on_link = |peer: &&Peer| peer.addresses.iter().any(|address| near.subnet_of(*address).is_some());
        let near_blocks = peers.nodes.iter().filter(on_link).flat_map(|peer| peer.blocks.clone());
        // Nor to those of nodes that are lost: the kernel is to refuse them.
        let tunnelled = self.ways_without(&seen, &BTreeSet::new()).tunnels.into_iter().map(|way| way.block);
        let direct = near_blocks.chain(tunnelled).collect();
        let pools = peers.pools.clone();
        Ok(Bgp { local_as: wanted.local_as, router_id, blocks, own, pools, direct, sessions })
    }

    /// The blocks of the node's networks, and those of them that are advertised: the node's own block, and what its pods are to be
    /// reached at by everybody. None of a node that takes no pods.
    fn own_blocks(&self) -> (Vec<IpNet>, Vec<IpNet>) {
        let networks = self.all_networks();
        let own = networks.iter().flat_map(|network| network.blocks.clone()).collect();
        let advertised = |network: &&model::Network| {
            network.name == model::DEFAULT_NETWORK || network.inbound == Inbound::Any
        };
        let served = networks.iter().filter(advertised).flat_map(|network| network.blocks.clone());
        (own, if self.check_blocks().is_ok() { served.collect() } else { Vec::new() })
    }

    /// The sessions, as BIRD tells.
    ///
    /// # Errors
    /// [`AgentError::NoBgp`], or that BIRD does not answer.
    pub async fn bgp_sessions(&self) -> Result<Vec<BgpSession>, AgentError> {
        let config = self.config();
        let wanted = config.bgp.as_ref().ok_or(AgentError::NoBgp)?;
        let bgp = self.bgp_wanted(wanted)?;
        Ok(described(&bgp, &BirdFiles::of(wanted).control().sessions().await?))
    }

    /// What BIRD is told, without passwords.
    ///
    /// # Errors
    /// [`AgentError::NoBgp`], or what is missing for it.
    pub fn bgp_configuration(&self) -> Result<BgpConfiguration, AgentError> {
        let config = self.config();
        let wanted = config.bgp.as_ref().ok_or(AgentError::NoBgp)?;
        let text = compile::bird(&self.bgp_wanted(wanted)?, true);
        Ok(BgpConfiguration { file: wanted.config_file.display().to_string(), text })
    }
}

/// What is on the uplinks' links.
struct Near {
    subnets: Vec<(u32, IpNet)>,
    /// The node's addresses there, in the order in which other nodes know them.
    own: Vec<IpAddr>,
}

impl Near {
    fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.subnets.iter().map(|(_, subnet)| *subnet).find(|subnet| subnet.contains(&address))
    }
}

fn own_addresses(seen: &Seen) -> impl Iterator<Item = IpAddr> {
    seen.uplinks.iter().flat_map(|uplink| &uplink.addresses).copied()
}

/// The session with a configured peer.
fn given(peer: &BgpPeer, near: &Near) -> Result<model::BgpSession, AgentError> {
    Ok(model::BgpSession {
        address: peer.address,
        source: None,
        remote_as: peer.remote_as,
        node: None,
        near: near.subnet_of(peer.address).is_some(),
        ipv4: peer.ipv4,
        rr_client: peer.rr_client,
        password: peer.password_file.as_deref().map(password).transpose()?,
        accept: peer.accept.clone(),
    })
}

/// The sessions with a node on the same link, one for each family that it has an address of there: the first of both, as the other
/// end chooses them. Routers between nodes would not know what a session across them tells.
fn mesh(peer: &Peer, wanted: &BgpConfig, near: &Near) -> Vec<model::BgpSession> {
    let ends = |v4: bool| {
        peer.addresses.iter().filter(|address| address.is_ipv4() == v4).find_map(|address| {
            let subnet = near.subnet_of(*address)?;
            Some((*address, *near.own.iter().find(|own| subnet.contains(*own))?))
        })
    };
    let (v4, v6) = (ends(true), ends(false));
    let session = |(address, source): (IpAddr, IpAddr)| model::BgpSession {
        address,
        source: Some(source),
        remote_as: wanted.local_as,
        node: Some(peer.holder.node.clone()),
        near: true,
        ipv4: address.is_ipv6() && v4.is_none(),
        rr_client: false,
        password: None,
        accept: wanted.accept.clone(),
    };
    v4.into_iter().chain(v6).map(session).collect()
}

fn password(file: &std::path::Path) -> Result<String, AgentError> {
    let failed =
        |reason: String| AgentError::unfit(format!("reading {} for BGP: {reason}", file.display()), "");
    let text = String::from_utf8(read_secret(file).map_err(failed)?).unwrap_or_default();
    let text = text.trim_end_matches('\n');
    // BIRD's texts have no way to write these.
    let usable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && !text.contains('"');
    if !usable || text.is_empty() || text.len() > LONGEST_PASSWORD {
        return Err(failed(format!(
            "a password for BIRD has 1 to {LONGEST_PASSWORD} letters, digits and signs, and no quotes"
        )));
    }
    Ok(text.to_owned())
}

/// The sessions that there should be, with what BIRD tells of them.
fn described(bgp: &Bgp, told: &[Session]) -> Vec<BgpSession> {
    let describe = |wanted: &model::BgpSession| {
        let name = session_name(wanted.address);
        let known = told.iter().find(|session| session.name == name).cloned();
        let known = known.unwrap_or_else(|| Session { state: "absent".to_owned(), ..Session::default() });
        BgpSession {
            address: wanted.address,
            remote_as: wanted.remote_as,
            node: wanted.node.clone(),
            state: known.state,
            imported: known.imported,
            exported: known.exported,
            error: known.error,
        }
    };
    bgp.sessions.iter().map(describe).collect()
}

fn what_is_wrong(session: &BgpSession) -> String {
    if session.state == "absent" {
        return "BIRD does not know it: does its configuration include the file that 'netpath bgp render' names?".to_owned();
    }
    let error = session.error.as_ref().map_or_else(String::new, |error| format!(", {error}"));
    format!(
        "it is not established ({}{error}): both ends need the other's address, AS and the same password, and TCP port 179 open",
        session.state
    )
}
