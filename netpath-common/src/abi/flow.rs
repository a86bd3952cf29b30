//! FLOWS: hash (not LRU), [`FlowKey`] → [`Flow`]. Conntrack and NAT in one, one entry a direction.

use super::{Addr, HAIRPIN_V4, HAIRPIN_V6};

/// A packet's tuple exactly as it stands on the wire where the program sees it, before any rewrite.
///
/// For ICMP echo both ports hold the identifier (RFC 5508: the identifier is the port).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network order.
    pub sport: u16,
    /// Destination port, network order.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero: the key is hashed as bytes.
    pub pad: [u8; 3],
}

super::record!(FlowKey, 40);

/// What a flow entry does to the packets it matches.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewrite {
    /// Nothing: tracked only.
    None = 0,
    /// Source becomes [`Flow::addr`]:[`Flow::port`] (SNAT, original direction; a published port, reply direction).
    Source = 1,
    /// Destination becomes [`Flow::addr`]:[`Flow::port`] (SNAT undone, reply direction; a published port,
    /// original direction).
    Destination = 2,
}

/// Which half of a flow an entry is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowDirection {
    /// From whoever opened it.
    Original = 0,
    /// The answer.
    Reply = 1,
}

/// Where flows are while they move into FLOWS from the table of an earlier build: FLOWS_MOVE, array of one u32.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Move {
    /// In the earlier table: programs of the earlier build still run, and know no other.
    Stay = 0,
    /// In either. What is in the earlier table only is moved by whoever needs it; nothing is written there any more.
    Pull = 1,
    /// In FLOWS.
    Done = 2,
}

/// Bit of [`Flow::peer_seen`]: the other half has had a packet. No TCP flag that is kept has this bit.
pub const PEER_SEEN: u8 = 0x80;

/// Flag of [`Flow::flags`]: by a published port, from a pod of this node. No packet of it comes from a wire.
pub const FLOW_LOCAL: u8 = 1;

/// Flag of [`Flow::flags`]: from the pod that the published port leads to. In the pod the client has the hairpin's address,
/// and the port that it has chosen.
pub const FLOW_HAIRPIN: u8 = 2;

/// One direction of a flow. The pair's state is a function of both halves (`logic::flow_state`).
///
/// How it grows (docs/UPGRADE.md): a field takes bytes that were zero, and 0 in it means that nothing is known, since programs
/// of an earlier build make and keep such records as well. If there are none left, fields are added at the end, in multiples
/// of eight bytes: another layout, told by its size, into which the agent moves the flows. What is there is never moved nor
/// given another meaning.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// When a packet of this direction last refreshed the entry: CLOCK_MONOTONIC, ns. Written at most once a second.
    pub last_seen: u64,
    /// When the flow was made: CLOCK_MONOTONIC, ns.
    pub created: u64,
    /// Packets of this direction.
    pub packets: u64,
    /// Bytes of this direction, from the IP header on.
    pub bytes: u64,
    /// New address for what `rewrite` names.
    pub addr: Addr,
    /// New port, network order, for what `rewrite` names.
    pub port: u16,
    /// A [`Rewrite`].
    pub rewrite: u8,
    /// A [`FlowDirection`].
    pub direction: u8,
    /// TCP flags seen in this direction (`logic::tcp`), 0 for other protocols.
    pub tcp_seen: u8,
    /// What the other half has shown (`logic::flow_state`): FIN and RST of its `tcp_seen`, and [`PEER_SEEN`] once it had a
    /// packet. Each half so tells the pair's state alone.
    pub peer_seen: u8,
    /// [`FLOW_LOCAL`], [`FLOW_HAIRPIN`]; the same in both halves.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// The pod the flow belongs to; 0 for a flow of the node itself.
    pub pod: u32,
    /// Generation of the policy that allowed it.
    pub policy_generation: u32,
    /// TCP: acknowledgement number this direction last sent, host order; nothing before `tcp_seen` has an ACK. What the
    /// other direction's RST is measured by (RFC 5961).
    pub tcp_ack: u32,
    /// TCP: the number after the highest that this direction has sent, host order; 0 where it is not known. Up to there
    /// its own RST may be.
    pub tcp_end: u32,
    /// TCP: the number after a SYN of this direction that lay far from what was known; 0 if there was none. If the other
    /// direction acknowledges it, the connection is a new one with the old one's ports.
    pub tcp_new: u32,
    /// Zero.
    pub pad_tcp: u32,
    /// Room to grow in place; 0.
    pub reserved: [u64; 2],
}

super::record!(Flow, 96);

impl Flow {
    /// Nothing seen, nothing to rewrite.
    pub const EMPTY: Self = Self {
        last_seen: 0,
        created: 0,
        packets: 0,
        bytes: 0,
        addr: Addr::UNSPECIFIED,
        port: 0,
        rewrite: Rewrite::None as u8,
        direction: FlowDirection::Original as u8,
        tcp_seen: 0,
        peer_seen: 0,
        flags: 0,
        pad: 0,
        pod: 0,
        policy_generation: 0,
        tcp_ack: 0,
        tcp_end: 0,
        tcp_new: 0,
        pad_tcp: 0,
        reserved: [0; 2],
    };
}

impl FlowKey {
    /// The key of the other half, given this half's entry.
    #[inline(always)]
    pub fn partner_of(&self, half: &Flow) -> Self {
        let mut key = self.partner(half.rewrite, half.addr, half.port);
        if half.flags & FLOW_HAIRPIN == 0 {
            return key;
        }
        // Both ends are the pod's: one of them has the hairpin's address on its way in.
        if half.rewrite == Rewrite::Destination as u8 {
            key.dst = if key.src.is_v4() { HAIRPIN_V4 } else { HAIRPIN_V6 };
        } else {
            key.src = self.src;
        }
        key
    }

    /// The key of the other half, given what this one rewrites.
    ///
    /// The reply to a packet comes back with source and destination exchanged as they are *after* this half's rewrite.
    #[inline(always)]
    pub fn partner(&self, rewrite: u8, addr: Addr, port: u16) -> Self {
        let mut key = Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            pad: [0; 3],
        };
        if rewrite == Rewrite::Source as u8 {
            key.dst = addr;
            key.dport = port;
        } else if rewrite == Rewrite::Destination as u8 {
            key.src = addr;
            key.sport = port;
        }
        // An echo has one identifier, and it stands in both ports.
        if self.proto == 1 || self.proto == 58 {
            key.sport = if rewrite == Rewrite::None as u8 { self.sport } else { port };
            key.dport = key.sport;
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr() -> impl Strategy<Value = Addr> {
        any::<[u32; 4]>().prop_map(Addr)
    }

    proptest! {
        #[test]
        fn partner_of_partner_is_self(src in addr(), dst in addr(), nat in addr(), sport: u16, dport: u16, port: u16) {
            let key = FlowKey { src, dst, sport, dport, proto: 6, pad: [0; 3] };
            let reply = key.partner(Rewrite::Source as u8, nat, port);
            prop_assert_eq!((reply.src, reply.sport, reply.dst, reply.dport), (dst, dport, nat, port));
            prop_assert_eq!(reply.partner(Rewrite::Destination as u8, src, sport), key);
        }

        #[test]
        fn a_hairpin_leads_back(pod: u32, node: u32, sport: u16, dport: u16, port: u16) {
            let [pod, node] = [pod, node].map(Addr::from_v4_be);
            let key = FlowKey { src: pod, dst: node, sport, dport, proto: 17, pad: [0; 3] };
            let flags = FLOW_LOCAL | FLOW_HAIRPIN;
            let rewrite = Rewrite::Destination as u8;
            let reply = key.partner_of(&Flow { addr: pod, port, rewrite, flags, ..Flow::EMPTY });
            prop_assert_eq!((reply.src, reply.sport, reply.dst, reply.dport), (pod, port, HAIRPIN_V4, sport));
            let rewrite = Rewrite::Source as u8;
            prop_assert_eq!(reply.partner_of(&Flow { addr: node, port: dport, rewrite, flags, ..Flow::EMPTY }), key);
        }

        #[test]
        fn echo_keeps_one_identifier(src in addr(), dst in addr(), nat in addr(), id: u16, new: u16) {
            let key = FlowKey { src, dst, sport: id, dport: id, proto: 1, pad: [0; 3] };
            let reply = key.partner(Rewrite::Source as u8, nat, new);
            prop_assert_eq!((reply.sport, reply.dport), (new, new));
            prop_assert_eq!(reply.partner(Rewrite::Destination as u8, src, id), key);
        }
    }
}
