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
/// One that is away, and answers, is asked again after this: its kernel sends no more than 1,000 ICMP errors a second to all who ask
/// (`icmp_msgs_per_sec`).
const CALM: Duration = Duration::from_secs(20);
/// So many looks in a row without an answer are none.
const SILENT: u32 = 3;
/// So many that have answered, and are not away, are asked beside those that are: if none of them answers either, the fault is here.
const WITNESSES: usize = 3;
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
    /// Whether it was away when it was last looked at.
    away: bool,
}

/// What became of a question.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The addresses that it was sent to.
    sent: BTreeSet<IpAddr>,
    /// Those of them that have spoken for themselves.
    answering: BTreeSet<IpAddr>,
}

impl Far {
    /// Of an agent that finds these lost when it starts: they were silent when the last one looked.
    pub(super) fn remembering(lost: &BTreeSet<String>) -> Self {
        let silent = || Asked { answered: None, silent: SILENT, away: true };
        Self { look: 0, nodes: lost.iter().map(|uid| (uid.clone(), silent())).collect() }
    }

    /// Of these nodes, each with whether it is away, those to be asked now. Forgets all others.
    pub(super) fn due<'a>(&mut self, nodes: &[(&'a Peer, bool)], now: Instant) -> Vec<(&'a Peer, bool)> {
        self.look = self.look.wrapping_add(1);
        let there: BTreeSet<_> = nodes.iter().map(|(peer, _)| peer.holder.uid.as_str()).collect();
        self.nodes.retain(|uid, _| there.contains(uid.as_str()));
        let (mut due, mut witnesses) = (Vec::new(), Vec::new());
        for (peer, away) in nodes.iter().copied() {
            match self.is_due(peer, away, now) {
                true => due.push((peer, away)),
                false if !away && self.has_answered(peer) => witnesses.push((peer, away)),
                false => {}
            }
        }
        if due.iter().any(|(_, away)| *away) && !witnesses.is_empty() {
            // Not always the same.
            let first = self.look % witnesses.len();
            due.extend(witnesses.iter().cycle().skip(first).take(WITNESSES.min(witnesses.len())));
        }
        due
    }

    fn is_due(&mut self, peer: &Peer, away: bool, now: Instant) -> bool {
        let uid = &peer.holder.uid;
        let Some(asked) = self.nodes.get_mut(uid) else { return !away };
        let was_away = std::mem::replace(&mut asked.away, away);
        if away {
            let calm = |answered| asked.silent == 0 && now.duration_since(answered) < CALM;
            return asked.silent >= SILENT || asked.answered.is_some_and(|answered| !calm(answered));
        }
        asked.silent = 0;
        asked.answered = asked.answered.filter(|answered| now.duration_since(*answered) < LASTS);
        let turn: usize = uid.bytes().map(usize::from).sum();
        was_away || self.look.wrapping_add(turn).is_multiple_of(ROUND)
    }

    fn has_answered(&self, peer: &Peer) -> bool {
        self.nodes.get(&peer.holder.uid).is_some_and(|asked| asked.answered.is_some())
    }

    /// Takes down who of those that were asked has answered.
    pub(super) fn heard(&mut self, asked: &[(&Peer, bool)], answers: &Answers, now: Instant) {
        let answers_now = |peer: &Peer| peer.addresses.iter().any(|one| answers.answering.contains(one));
        let mut witnesses = asked.iter().filter(|(peer, away)| !away && self.has_answered(peer)).peekable();
        let counts = witnesses.peek().is_none() || witnesses.any(|(peer, _)| answers_now(peer));
        for (peer, away) in asked.iter().copied() {
            let node = self.nodes.entry(peer.holder.uid.clone()).or_default();
            if answers_now(peer) {
                if node.answered.is_none() {
                    tracing::debug!(node = peer.holder.node, "answers from behind routers");
                }
                *node = Asked { answered: Some(now), silent: 0, away };
            } else if away && counts && peer.addresses.iter().any(|one| answers.sent.contains(one)) {
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
/// The second is what kept a family from being asked.
pub(super) async fn ask(netns: &Netns, addresses: &[IpAddr]) -> (Answers, io::Result<()>) {
    let mut families = [Answers::default(), Answers::default()];
    let [v4, v6] = &mut families;
    let asked = tokio::join!(of_family(netns, addresses, true, v4), of_family(netns, addresses, false, v6));
    let [v4, v6] = families;
    let answers = Answers { sent: &v4.sent | &v6.sent, answering: &v4.answering | &v6.answering };
    (answers, asked.0.and(asked.1))
}

async fn of_family(netns: &Netns, addresses: &[IpAddr], v4: bool, answers: &mut Answers) -> io::Result<()> {
    let wanted: Vec<_> = addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let socket = match netns.enter(|| asking(v4)).map_err(io::Error::other)? {
        // This node does not speak it.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => return Ok(()),
        socket => UdpSocket::from_std(socket?)?,
    };
    // Whoever is missing when it ends has not answered.
    timeout(ANSWER, ask_all(&socket, &wanted, answers)).await.unwrap_or(Ok(()))
}

async fn ask_all(socket: &UdpSocket, wanted: &[IpAddr], answers: &mut Answers) -> io::Result<()> {
    for burst in wanted.chunks(BURST) {
        for address in burst {
            if send(socket, *address).await {
                answers.sent.insert(*address);
            }
        }
        while let Ok(speaker) = speaker(socket) {
            answers.answering.extend(speaker);
        }
    }
    while !answers.sent.is_subset(&answers.answering) {
        answers.answering.extend(socket.async_io(Interest::ERROR, || speaker(socket)).await?);
    }
    Ok(())
}

/// Whether it was sent. A try may tell what has come back for another address, in place of being one.
async fn send(socket: &UdpSocket, address: IpAddr) -> bool {
    for _ in 0..4 {
        if socket.send_to(&[0], SocketAddr::from((address, DISCARD))).await.is_ok() {
            return true;
        }
    }
    false
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

    fn answers(sent: &[&Peer], answering: &[&Peer]) -> Answers {
        let of = |peers: &[&Peer]| peers.iter().flat_map(|peer| peer.addresses.iter().copied()).collect();
        Answers { sent: of(sent), answering: of(answering) }
    }

    /// One look at a node: whether it was asked, and whether it is believed to be gone.
    fn look(far: &mut Far, peer: &Peer, away: bool, does: bool, now: Instant) -> (bool, bool) {
        let due = far.due(&[(peer, away)], now);
        far.heard(&due, &answers(&[peer], &[peer][..usize::from(does)]), now);
        (!due.is_empty(), far.silent().next().is_some())
    }

    #[test]
    fn only_who_has_answered_is_missed() {
        let (mut far, now, peer) = (Far::default(), Instant::now(), peer("a", 1));
        assert_eq!(look(&mut far, &peer, false, false, now), (true, false), "a new one is asked at once");
        for _ in 0..5 {
            assert_eq!(look(&mut far, &peer, true, false, now), (false, false), "its firewall may be silent");
        }
        look(&mut far, &peer, false, true, now);
        let asked = (0..2 * ROUND).filter(|_| look(&mut far, &peer, false, true, now).0).count();
        assert_eq!(asked, 2, "once a minute");
        assert_eq!(look(&mut far, &peer, true, false, now), (false, false), "it has just answered");
        let later = now + CALM;
        let gone: Vec<_> = (0..4).map(|_| look(&mut far, &peer, true, false, later)).collect();
        assert_eq!(gone, [(true, false), (true, false), (true, true), (true, true)]);
        assert_eq!(look(&mut far, &peer, true, true, later), (true, false), "it is there after all");
        let later = later + CALM;
        look(&mut far, &peer, true, false, later);
        assert!(!look(&mut far, &peer, true, false, later).1, "counted anew");
        assert!(look(&mut far, &peer, false, true, later).0, "who comes back is asked at once");
    }

    #[test]
    fn who_was_lost_is_until_it_answers() {
        let (now, peer) = (Instant::now(), peer("a", 1));
        let mut far = Far::remembering(&["a", "none any more"].map(str::to_owned).into());
        assert_eq!(look(&mut far, &peer, true, false, now), (true, true));
        assert_eq!(far.silent().count(), 1, "{far:?}");
        assert_eq!(look(&mut far, &peer, true, true, now), (true, false));
        assert_eq!(look(&mut far, &peer, true, false, now + CALM), (true, false), "counted anew");
    }

    #[test]
    fn who_has_not_answered_for_long_is_not_missed_either() {
        let (mut far, now, peer) = (Far::default(), Instant::now(), peer("a", 1));
        look(&mut far, &peer, false, true, now);
        let later = now + LASTS;
        // Not away, and silent: a firewall has come, or it dies.
        look(&mut far, &peer, false, false, later);
        assert!((0..5).all(|_| look(&mut far, &peer, true, false, later) == (false, false)));
        assert!(far.due(&[], later).is_empty() && far.nodes.is_empty(), "a node that is none any more");
    }

    #[test]
    fn silence_that_is_this_nodes_own_fault_does_not_count() {
        let (mut far, now) = (Far::default(), Instant::now());
        let (gone, living) = (peer("a", 1), peer("b", 2));
        let due = far.due(&[(&gone, false), (&living, false)], now);
        far.heard(&due, &answers(&[&gone, &living], &[&gone, &living]), now);
        let later = now + CALM;
        let mut again = |sent: &[&Peer], does: &[&Peer]| {
            let due = far.due(&[(&gone, true), (&living, false)], later);
            let asked: Vec<_> = due.iter().map(|(peer, _)| peer.holder.uid.as_str()).collect();
            assert_eq!(asked, ["a", "b"], "who is away, and a witness");
            far.heard(&due, &answers(sent, does), later);
            far.silent().next().is_some()
        };
        for _ in 0..5 {
            assert!(!again(&[&gone, &living], &[]), "nobody answers");
            assert!(!again(&[&living], &[&living]), "it was not asked");
        }
        assert_eq!([(); 3].map(|()| again(&[&gone, &living], &[&living])), [false, false, true]);
    }

    #[test]
    fn who_speaks_for_himself_answers() {
        with_node(async |node| {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let lo = node.netlink.link("lo").await.unwrap().unwrap();
            let six = ip("fd99::1");
            node.netlink.add_address(lo.index, six.into()).await.unwrap();
            let there: BTreeSet<_> =
                (1..=255).map(|last| IpAddr::from([127, 0, 0, last])).chain([six]).collect();
            let (away, silent) = ([ip("203.0.113.9"), ip("2001:db8:9::9")], ip("192.0.2.9"));
            let wanted: Vec<_> = there.iter().copied().chain(away).chain([silent]).collect();
            let (answers, outcome) = ask(&Netns::current().unwrap(), &wanted).await;
            outcome.unwrap();
            assert!(there.is_subset(&answers.answering), "{answers:?}");
            assert!(away.iter().all(|one| !answers.sent.contains(one)), "without a way");
            assert!(answers.sent.contains(&silent) && !answers.answering.contains(&silent));
        });
    }

    #[test]
    fn not_all_are_asked_at_once() {
        let (mut far, now) = (Far::default(), Instant::now());
        let peers: Vec<_> = (0..240).map(|at| peer(&format!("{at:03}"), at)).collect();
        let nodes: Vec<_> = peers.iter().map(|peer| (peer, false)).collect();
        let first = far.due(&nodes, now);
        far.heard(&first, &Answers::default(), now);
        let counts: Vec<_> = (0..ROUND).map(|_| far.due(&nodes, now).len()).collect();
        assert_eq!((first.len(), counts.iter().sum::<usize>()), (240, 240));
        assert!(counts.iter().all(|count| (1..=60).contains(count)), "{counts:?}");
    }
}
