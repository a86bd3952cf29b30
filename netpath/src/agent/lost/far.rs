//! Nodes on no link of ours. No neighbour discovery tells that they are gone, and a firewall between may swallow what asks: that
//! one does not answer says something only of who did answer while etcd heard of it.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use tokio::{io::Interest, net::UdpSocket, time::timeout};

use super::{ANSWER, DISCARD, asking};
use crate::{model::Peer, net::Netns};

/// A node that is not away is asked once in so many looks: once a minute.
const ROUND: usize = 12;
/// How long its answer counts: some rounds, and the lease that a dead one still has.
const LASTS: Duration = Duration::from_secs(300);
/// So many looks in a row without an answer are none.
const SILENT: u32 = 3;
/// Datagrams between two readings of what came back: the kernel keeps some 270 errors for a socket.
const BURST: usize = 64;

/// What is known of who answers.
#[derive(Debug, Default)]
pub(super) struct Far {
    look: usize,
    /// By uid.
    nodes: HashMap<String, Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    answered: Option<Instant>,
    /// Looks in a row without an answer while it was away.
    silent: u32,
}

impl Far {
    /// Of these nodes, each with whether it is away, those to be asked now. Forgets all others.
    pub(super) fn due<'a>(&mut self, nodes: &[(&'a Peer, bool)], now: Instant) -> Vec<(&'a Peer, bool)> {
        self.look = self.look.wrapping_add(1);
        let there: BTreeSet<_> = nodes.iter().map(|(peer, _)| peer.holder.uid.as_str()).collect();
        self.nodes.retain(|uid, _| there.contains(uid.as_str()));
        let mut is_due = |(peer, away): &&(&Peer, bool)| {
            let uid = &peer.holder.uid;
            let Some(asked) = self.nodes.get_mut(uid) else { return !away };
            if *away {
                return asked.answered.is_some();
            }
            asked.silent = 0;
            asked.answered = asked.answered.filter(|answered| now.duration_since(*answered) < LASTS);
            let turn: usize = uid.bytes().map(usize::from).sum();
            self.look.wrapping_add(turn).is_multiple_of(ROUND)
        };
        nodes.iter().filter(|node| is_due(node)).copied().collect()
    }

    /// Takes down which addresses have answered of the nodes that were asked.
    pub(super) fn heard(&mut self, asked: &[(&Peer, bool)], answering: &BTreeSet<IpAddr>, now: Instant) {
        for (peer, away) in asked {
            let node = self.nodes.entry(peer.holder.uid.clone()).or_default();
            if peer.addresses.iter().any(|address| answering.contains(address)) {
                *node = Asked { answered: Some(now), silent: 0 };
            } else if *away {
                node.silent = node.silent.saturating_add(1);
            }
        }
    }

    /// The nodes, by uid, that are away and have ceased to answer.
    pub(super) fn silent(&self) -> impl Iterator<Item = &String> {
        self.nodes.iter().filter(|(_, node)| node.silent >= SILENT).map(|(uid, _)| uid)
    }
}

/// Which of these addresses speak for themselves when a datagram comes for a port that nobody listens on: with "port unreachable",
/// or with what a firewall of theirs says instead. What routers say of them does not count.
///
/// # Errors
/// Those of the sockets. An address without a way is one that does not answer.
pub(super) async fn answering(netns: &Netns, addresses: &[IpAddr]) -> io::Result<BTreeSet<IpAddr>> {
    let (v4, v6) = tokio::join!(of_family(netns, addresses, true), of_family(netns, addresses, false));
    Ok(&v4? | &v6?)
}

async fn of_family(netns: &Netns, addresses: &[IpAddr], v4: bool) -> io::Result<BTreeSet<IpAddr>> {
    let asked: BTreeSet<_> = addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
    let mut left = asked.clone();
    if asked.is_empty() {
        return Ok(asked);
    }
    let socket = match netns.enter(|| asking(v4)).map_err(io::Error::other)? {
        // This node does not speak it.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => return Ok(BTreeSet::new()),
        socket => UdpSocket::from_std(socket?)?,
    };
    // Whoever is missing when it ends has not answered.
    timeout(ANSWER, ask(&socket, &asked, &mut left)).await.unwrap_or(Ok(()))?;
    Ok(&asked - &left)
}

/// Asks all, and takes those that answer from `left` until that is empty.
async fn ask(socket: &UdpSocket, asked: &BTreeSet<IpAddr>, left: &mut BTreeSet<IpAddr>) -> io::Result<()> {
    for (at, address) in asked.iter().enumerate() {
        let to = SocketAddr::from((*address, DISCARD));
        // The first try tells what has come back for another one, if anything has.
        if socket.send_to(&[0], to).await.is_err() {
            let _ = socket.send_to(&[0], to).await;
        }
        if at % BURST == BURST - 1 {
            while let Ok(speaker) = speaker(socket) {
                speaker.map(|speaker| left.remove(&speaker));
            }
        }
    }
    while !left.is_empty() {
        let speaker = socket.async_io(Interest::ERROR, || speaker(socket)).await?;
        speaker.map(|speaker| left.remove(&speaker));
    }
    Ok(())
}

/// Who has sent the next ICMP error that came for a socket (`IP_RECVERR`, ip(7)).
fn speaker(socket: &UdpSocket) -> io::Result<Option<IpAddr>> {
    let (mut content, mut space) = ([0; 8], cmsg_space!([u8; 128]));
    let mut content = [IoSliceMut::new(&mut content)];
    let error = recvmsg::<()>(socket.as_raw_fd(), &mut content, Some(&mut space), MsgFlags::MSG_ERRQUEUE)?;
    let speaker = |message| match message {
        ControlMessageOwned::Ipv4RecvErr(_, from) => {
            from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6RecvErr(_, from) => from.map(|from| IpAddr::from(from.sin6_addr.s6_addr)),
        _ => None,
    };
    Ok(error.cmsgs()?.find_map(speaker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::testing::with_node, model::Holder};

    fn peer(uid: &str, last: u8) -> Peer {
        let holder = Holder { node: "two".into(), uid: uid.into() };
        Peer { holder, addresses: vec![[203, 0, 113, last].into()], blocks: Vec::new(), overlay: None }
    }

    /// One look at a node: whether it was asked, and whether it is believed to be gone.
    fn look(far: &mut Far, peer: &Peer, away: bool, answers: bool, now: Instant) -> (bool, bool) {
        let due = far.due(&[(peer, away)], now);
        let answering = if answers { peer.addresses.iter().copied().collect() } else { BTreeSet::new() };
        far.heard(&due, &answering, now);
        (!due.is_empty(), far.silent().next().is_some())
    }

    #[test]
    fn only_who_has_answered_is_missed() {
        let (mut far, now, peer) = (Far::default(), Instant::now(), peer("a", 1));
        assert_eq!(look(&mut far, &peer, false, false, now), (true, false), "a new one is asked at once");
        for _ in 0..5 {
            assert_eq!(look(&mut far, &peer, true, false, now), (false, false), "its firewall may be silent");
        }
        let asked = (0..2 * ROUND).filter(|_| look(&mut far, &peer, false, true, now).0).count();
        assert_eq!(asked, 2, "once a minute");
        let gone: Vec<_> = (0..4).map(|_| look(&mut far, &peer, true, false, now)).collect();
        assert_eq!(gone, [(true, false), (true, false), (true, true), (true, true)]);
        assert_eq!(look(&mut far, &peer, true, true, now), (true, false), "it is there after all");
        look(&mut far, &peer, true, false, now);
        assert!(!look(&mut far, &peer, true, false, now).1, "counted anew");
    }

    #[test]
    fn who_has_not_answered_for_long_is_not_missed_either() {
        let (mut far, now, peer) = (Far::default(), Instant::now(), peer("a", 1));
        look(&mut far, &peer, false, true, now);
        let later = now + LASTS;
        // Not away, and silent: a firewall has come, or it dies.
        look(&mut far, &peer, false, false, later);
        assert!((0..5).all(|_| look(&mut far, &peer, true, false, later) == (false, false)));
        look(&mut far, &peer, true, true, later);
        assert!(far.due(&[], later).is_empty() && far.nodes.is_empty(), "a node that is none any more");
    }

    #[test]
    fn who_speaks_for_himself_answers() {
        with_node(async |node| {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let lo = node.netlink.link("lo").await.unwrap().unwrap();
            let many: Vec<_> = (1..=255).map(|last| IpAddr::from([127, 0, 0, last])).collect();
            let six = ip("fd99::1");
            node.netlink.add_address(lo.index, six.into()).await.unwrap();
            let own = Netns::current().unwrap();
            let answers: BTreeSet<_> = many.iter().copied().chain([six]).collect();
            // Without a way; the router says so, not he.
            let asked: Vec<_> =
                answers.iter().copied().chain([ip("203.0.113.9"), ip("2001:db8:9::9")]).collect();
            assert_eq!(answering(&own, &asked).await.unwrap(), answers);
            assert_eq!(answering(&own, &[]).await.unwrap(), BTreeSet::new());
        });
    }

    #[test]
    fn not_all_are_asked_at_once() {
        let (mut far, now) = (Far::default(), Instant::now());
        let peers: Vec<_> = (0..240).map(|at| peer(&format!("{at:03}"), at)).collect();
        let nodes: Vec<_> = peers.iter().map(|peer| (peer, false)).collect();
        let first = far.due(&nodes, now);
        far.heard(&first, &BTreeSet::new(), now);
        let counts: Vec<_> = (0..ROUND).map(|_| far.due(&nodes, now).len()).collect();
        assert_eq!((first.len(), counts.iter().sum::<usize>()), (240, 240));
        assert!(counts.iter().all(|count| (1..=60).contains(count)), "{counts:?}");
    }
}
