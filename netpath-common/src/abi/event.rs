//! EVENTS: ring buffer of [`Event`]. EVENT_LOSSES: per-CPU array, [`EventLoss`] → events that are not in it (u64).

use super::Addr;

/// What an event tells.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 1,
    /// A flow was made.
    Flow = 2,
}

/// The program that told it.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// tc ingress of a pod's host interface.
    FromPod = 1,
    /// tc egress of a pod's host interface.
    ToPod = 2,
    /// tc ingress of an uplink.
    FromUplink = 3,
    /// tc egress of an uplink.
    ToUplink = 4,
    /// XDP of an uplink.
    XdpUplink = 5,
    /// XDP of a pod's host interface.
    XdpPod = 6,
    /// tc ingress of the tunnels' device.
    FromOverlay = 7,
    /// tc egress of the tunnels' device.
    ToOverlay = 8,
}

impl Program {
    /// The ELF's name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::XdpUplink => "xdp_uplink",
            Self::XdpPod => "xdp_pod",
            Self::FromOverlay => "from_overlay",
            Self::ToOverlay => "to_overlay",
        }
    }

    /// Whether it runs before the kernel has a socket buffer, else at tc.
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpUplink | Self::XdpPod)
    }

    /// The program with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::FromPod),
            2 => Some(Self::ToPod),
            3 => Some(Self::FromUplink),
            4 => Some(Self::ToUplink),
            5 => Some(Self::XdpUplink),
            6 => Some(Self::XdpPod),
            7 => Some(Self::FromOverlay),
            8 => Some(Self::ToOverlay),
            _ => None,
        }
    }
}

/// Why nobody is told of an event; also its row in EVENT_LOSSES.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventLoss {
    /// A drop so soon after one for the same reason on the same CPU that it is only counted.
    Drops = 0,
    /// A flow so soon after another on the same CPU that it is only in the table.
    Flows = 1,
    /// The ring was full: the agent reads too slowly.
    RingFull = 2,
}

impl EventLoss {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Drops, Self::Flows, Self::RingFull];

    /// Stable name, as in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drops => "drops-held-back",
            Self::Flows => "flows-held-back",
            Self::RingFull => "ring-full",
        }
    }
}

/// One record of EVENTS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// The packet's addresses as the program saw them; unspecified if it was not parsed that far.
    pub src: Addr,
    /// Destination, likewise.
    pub dst: Addr,
    /// For a flow: what the source was translated to; else unspecified.
    pub translated: Addr,
    /// Interface the program ran on.
    pub ifindex: u32,
    /// Bytes from the Ethernet header on.
    pub length: u32,
    /// Ports in network order; 0 if there are none.
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// For a flow: translated source port, network order.
    pub translated_port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// An [`EventKind`].
    pub kind: u8,
    /// A [`DropReason`](super::DropReason), or 0.
    pub reason: u8,
    /// A [`Program`].
    pub program: u8,
    /// Zero.
    pub pad: [u8; 6],
}

super::record!(Event, 80);
