//! Queues that limit what leaves by a link: the kernel's token bucket filter.
//!
//! Attributes and `struct tc_tbf_qopt` are in include/uapi/linux/pkt_sched.h.

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, Nla as _, NlasIterator},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
};

use super::{Link, Netlink, already};
use crate::net::NetError;

/// The kernel's name of the kind.
const KIND: &str = "tbf";
/// The handle of ours, by which we know it again.
const HANDLE: TcHandle = TcHandle { major: 0x6e70, minor: 0 };

const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// Bytes of `struct tc_tbf_qopt`, and where in it the rate, the queue and the burst stand.
const SIZE: usize = 36;
const LINK_LAYER: usize = 1;
const RATE: usize = 8;
const LIMIT: usize = 24;
const BUFFER: usize = 28;
/// `TC_LINKLAYER_ETHERNET`: else the kernel wants a table of times.
const ETHERNET: u8 = 1;
/// The kernel tells a burst as the time that the rate takes for it, in units of 64 ns (PSCHED_SHIFT).
const TICK: u64 = 64;

/// What a queue lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may pass at once after a pause. Less than a packet has, and that packet is lost.
    pub burst: u32,
    /// Bytes that may wait.
    pub queue: u32,
}

impl Netlink {
    /// Limits what leaves by a link. Another queue that it has is replaced.
    pub(in crate::net) async fn set_shape(&self, ifindex: u32, shape: &Shape) -> Result<(), NetError> {
        let doing = format!("limit what leaves by link #{ifindex} to {} bytes a second", shape.rate);
        let mut message = root(ifindex);
        message.header.handle = HANDLE;
        message.attributes = vec![TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(shape.options())];
        let set = RouteNetlinkMessage::NewQueueDiscipline(message);
        let made = self.request(&doing, set, NLM_F_CREATE | NLM_F_REPLACE).await;
        made.map(drop).map_err(|error| match error.is(Errno::ENOENT) {
            true => error.hint("the kernel has no token bucket filter (CONFIG_NET_SCH_TBF, module sch_tbf)"),
            false => error,
        })
    }

    /// Whether a link is limited like this by a queue of ours; `None` if it has another one, or none.
    pub(in crate::net) async fn has_shape(
        &self,
        ifindex: u32,
        shape: &Shape,
    ) -> Result<Option<bool>, NetError> {
        let doing = format!("look up the queue of link #{ifindex}");
        let asked = RouteNetlinkMessage::GetQueueDiscipline(root(ifindex));
        // It answers as it would tell others of a change: to who asks only if he wants the echo. Of its own default it tells
        // nothing, as an error.
        let told = self.request(&doing, asked, NLM_F_ECHO).await;
        let told = already(told, &[Errno::EINVAL, Errno::ENOENT])?;
        let ours = told.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) if message.header.handle == HANDLE => {
                Some(message)
            }
            _ => None,
        });
        Ok(ours.map(|message| shape.is_told_by(&message.attributes)))
    }

    /// Takes our limit off a link; no error if it has none.
    pub(in crate::net) async fn remove_shape(&self, ifindex: u32) -> Result<(), NetError> {
        let mut message = root(ifindex);
        message.header.handle = HANDLE;
        let doing = format!("take the limit off link #{ifindex}");
        let removed = self.request(&doing, RouteNetlinkMessage::DelQueueDiscipline(message), 0).await;
        // Another handle is somebody else's.
        already(removed.map(drop), &[Errno::EINVAL, Errno::ENOENT])
    }
}

impl Link {
    /// Whether it has a queue that limits it, whosever that is.
    pub(in crate::net) fn is_shaped(&self) -> bool {
        self.queue.as_deref() == Some(KIND)
    }
}

fn root(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = TcHandle::ROOT;
    message
}

impl Shape {
    fn options(&self) -> Vec<TcOption> {
        let mut parameters = [0; SIZE];
        let short = u32::try_from(self.rate).unwrap_or(u32::MAX);
        parameters[LINK_LAYER] = ETHERNET;
        parameters[RATE..RATE + 4].copy_from_slice(&short.to_ne_bytes());
        parameters[LIMIT..LIMIT + 4].copy_from_slice(&self.queue.to_ne_bytes());
        let mut options = vec![(PARAMETERS, parameters.to_vec()), (BURST, self.burst.to_ne_bytes().to_vec())];
        if u64::from(short) != self.rate {
            options.push((RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        options.into_iter().map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value))).collect()
    }

    /// Whether a queue's attributes say the same, as exactly as the kernel remembers.
    fn is_told_by(&self, attributes: &[TcAttribute]) -> bool {
        // Of a kind that the crate does not know it hands on all options as one attribute.
        let options = attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => match options.first()? {
                TcOption::Other(nla) => {
                    let mut bytes = vec![0; nla.value_len()];
                    nla.emit_value(&mut bytes);
                    Some(bytes)
                }
                _ => None,
            },
            _ => None,
        });
        let options = options.unwrap_or_default();
        let value = |kind| {
            let found = NlasIterator::new(&options[..]).flatten().find(|nla| nla.kind() == kind);
            found.map(|nla| nla.value().to_vec())
        };
        let Some(parameters) = value(PARAMETERS).filter(|bytes| bytes.len() >= SIZE) else { return false };
        let word = |at: usize| parameters[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        let long = value(RATE64).and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
        let ticks = u64::from(self.burst) * 1_000_000_000 / self.rate.max(1) / TICK;
        // Told in 32 bits, and rounded on the way.
        let off = (ticks as u32).wrapping_sub(word(BUFFER)).cast_signed().unsigned_abs();
        long.unwrap_or_else(|| word(RATE).into()) == self.rate
            && word(LIMIT) == self.queue
            && u64::from(off) <= ticks / 1000 + 2
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::net::{VethEnd, testing};

    #[test]
    fn limits_are_made_recognised_changed_and_removed() {
        testing::with_pair(|pair| async move {
            let ends = ["a", "b"].map(|name| VethEnd { name, mac: None, netns: None });
            pair.node.add_veth(&ends[0], &ends[1], None).await.unwrap();
            let index = async |name: &str| pair.node.link(name).await.unwrap().unwrap().index;
            let (a, b) = (index("a").await, index("b").await);
            let tc =
                |line: &str| assert!(Command::new("tc").args(line.split(' ')).status().unwrap().success());
            for (rate, burst, queue) in [
                (125, 98_304, 196_608),
                (1_250_000, 2048, 196_608),
                (1_250_000, 98_304, 196_609),
                (u64::from(u32::MAX), 98_304, 1 << 31),
                (1_250_000_000_000, u32::MAX, u32::MAX),
                (125_000_000_000_000, u32::MAX, u32::MAX),
            ] {
                let shape = Shape { rate, burst, queue };
                assert_ne!(pair.node.has_shape(a, &shape).await.unwrap(), Some(true), "{shape:?}");
                pair.node.set_shape(a, &shape).await.unwrap();
                assert_eq!(pair.node.has_shape(a, &shape).await.unwrap(), Some(true), "{shape:?}");
                for other in [
                    Shape { rate: rate + rate / 100 + 1, ..shape },
                    Shape { queue: queue - 1, ..shape },
                    Shape { burst: burst / 2, ..shape },
                ] {
                    // Below a microsecond the kernel knows no difference.
                    let told = rate < 1 << 40 || other.burst == burst;
                    assert!(
                        !told || pair.node.has_shape(a, &other).await.unwrap() == Some(false),
                        "{other:?}"
                    );
                }
                assert_eq!(pair.node.link("a").await.unwrap().unwrap().queue.as_deref(), Some(KIND));
            }
            let shape = Shape { rate: 1_250_000, burst: 98_304, queue: 196_608 };
            assert_eq!(pair.node.has_shape(b, &shape).await.unwrap(), None);
            pair.node.remove_shape(b).await.unwrap();
            tc("qdisc add dev b root handle 1: tbf rate 1mbit burst 32k limit 64k");
            pair.node.remove_shape(b).await.unwrap();
            assert_eq!(
                pair.node.link("b").await.unwrap().unwrap().queue.as_deref(),
                Some(KIND),
                "not ours to remove"
            );
            pair.node.set_shape(b, &shape).await.unwrap();
            assert_eq!(pair.node.has_shape(b, &shape).await.unwrap(), Some(true), "replaced");
            for end in [a, b] {
                pair.node.remove_shape(end).await.unwrap();
                pair.node.remove_shape(end).await.unwrap();
                assert_eq!(pair.node.has_shape(end, &shape).await.unwrap(), None);
            }
        });
    }
}
