//! COUNTERS: per-CPU array, [`DropReason`](super::DropReason) or [`TrafficClass`] → [`Counter`].
//! POD_COUNTERS: per-CPU array, [`Endpoint::slot`](super::Endpoint::slot) → [`PodCounter`].

/// Rows of COUNTERS: drop reasons below 64, traffic classes from 64 on.
pub const COUNTER_SLOTS: u32 = 96;

/// One row of COUNTERS on one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets; a GSO packet counts once.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

super::record!(Counter, 16);

/// Traffic of one pod on one CPU, seen from the pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PodCounter {
    /// Packets delivered to the pod.
    pub rx_packets: u64,
    /// Bytes delivered to the pod.
    pub rx_bytes: u64,
    /// Packets the pod sent that were accepted.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
}

super::record!(PodCounter, 32);

/// What became of a packet that was not dropped.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrafficClass {
    /// Pod to pod on this node.
    Local = 64,
    /// Pod to the node itself.
    ToNode = 65,
    /// Pod to outside, translated.
    Translated = 66,
    /// Pod to outside or another node with its own address.
    Routed = 67,
    /// Given to the host stack for an ICMP error, fragmenting, or an interface that is no uplink.
    ToStack = 68,
    /// From outside to a pod, translation undone.
    Reply = 69,
    /// From outside or another node to a pod's own address.
    Inbound = 70,
    /// From the host stack to a pod.
    FromStack = 71,
    /// ARP and neighbour discovery answered.
    Neighbour = 72,
    /// To a pod by a published port, from outside or from a pod.
    Published = 73,
}

impl TrafficClass {
    /// All classes, in order.
    pub const ALL: [Self; 10] = [
        Self::Local,
        Self::ToNode,
        Self::Translated,
        Self::Routed,
        Self::ToStack,
        Self::Reply,
        Self::Inbound,
        Self::FromStack,
        Self::Neighbour,
        Self::Published,
    ];

    /// Stable name, as in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::ToNode => "to-node",
            Self::Translated => "translated",
            Self::Routed => "routed",
            Self::ToStack => "to-stack",
            Self::Reply => "reply",
            Self::Inbound => "inbound",
            Self::FromStack => "from-stack",
            Self::Neighbour => "neighbour",
            Self::Published => "published",
        }
    }
}
